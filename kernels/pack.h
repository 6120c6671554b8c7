/* Weights as a matmul reads them.
 *
 * A loaded matrix is its logical shape (rows = output features, cols = input features, row-major as
 * Hugging Face stores nn.Linear), a layout tag and bytes. A panel layout holds 16 rows side by
 * side, so that one load feeds one vector instruction and a row's chain over the columns is
 * sequential:
 *
 *     fp32  panel p, column c:           W[16p][c] W[16p+1][c] ... W[16p+15][c]
 *     bf16  panel p, columns c and c+1:  W[16p][c] W[16p][c+1] W[16p+1][c] ... W[16p+15][c+1]
 *
 * Pairs of columns are what dot-product instructions take (AVX512_BF16's VDPBF16PS); where there
 * are none, a shift and a mask widen a line of 32 to the two fp32 lines. weight_index says where an
 * element lies. Rows that pad the last panel, and the column that pads an odd number of them in
 * bf16, are zero and stay zero (their gradient is zero).
 *
 * A frozen weight may stay quantized, about as large as it was stored; kernels/quantized.h says how
 * it lies. It has values and products, and no elements, gradient or master:
 *
 *     nf4     LAYOUT_NF4 + i, i = 0 .. 4: NF4, one fp32 scale for 2^i rows (layout_nf4 chooses)
 *     stored  LAYOUT_STORED + type: blocks of a file's dtype (layout_stored)
 *
 * Moments of a parameter may be in 8 bits, LAYOUT_MOMENT8 and its sibling: [panel][16 columns], a
 * block each; cols is a multiple of 16. */
#ifndef STRATA_KERNELS_PACK_H
#define STRATA_KERNELS_PACK_H

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PANEL_ROWS = 16 };

enum layout {
    LAYOUT_ROWS_F32,   /* row-major fp32: tables that are only gathered from, a GPU's products */
    LAYOUT_PANEL_F32,  /* panels of fp32 */
    LAYOUT_PANEL_BF16, /* panels of bf16, pairs of columns together */
    LAYOUT_ROWS_BF16,  /* row-major bf16: what a GPU's products read */
    LAYOUT_COUNT,      /* of those above, which have elements */
    LAYOUT_NF4 = 8,
    LAYOUT_MOMENT8 = 13,     /* first moments in 8 bits (kernels/moment8.h) */
    LAYOUT_MOMENT8_POSITIVE, /* second ones */
    LAYOUT_STORED = 16,
    LAYOUT_END = LAYOUT_STORED + DTYPE_COUNT
};

/* Of those that have elements: row-major, no padding; 2 bytes an element. */
static inline bool layout_is_rows(enum layout layout) {
    return layout == LAYOUT_ROWS_F32 || layout == LAYOUT_ROWS_BF16;
}
static inline bool layout_is_bf16(enum layout layout) {
    return layout == LAYOUT_PANEL_BF16 || layout == LAYOUT_ROWS_BF16;
}
static inline bool layout_is_quantized(enum layout layout) {
    return layout >= LAYOUT_NF4;
}
static inline bool layout_is_moment8(enum layout layout) {
    return layout == LAYOUT_MOMENT8 || layout == LAYOUT_MOMENT8_POSITIVE;
}

/* Of a matrix whose rows have `whole_cols` columns in the whole tensor. */
enum layout layout_nf4(int64_t whole_cols);

/* Of a dtype whose rows can stay as they are: block types that dequantize() reads, and F16. */
static inline enum layout layout_stored(enum dtype type) {
    return (enum layout)(LAYOUT_STORED + (int)type);
}
static inline enum dtype layout_stored_type(enum layout layout) {
    return (enum dtype)((int)layout - LAYOUT_STORED);
}

/* Neighbouring columns that are stored together: a slice must begin and end between them, but for
 * the end of the tensor. */
int64_t layout_block(enum layout layout);

/* A matrix, borrowed. Gradients, moments and masters of a weight have its shape in LAYOUT_ROWS_F32
 * or LAYOUT_PANEL_F32 (layout_of_gradient), so that optimizers are elementwise over the bytes. */
struct weight {
    enum layout layout;
    int64_t rows, cols;
    void *data; /* 64-byte aligned */
};

/* Elements stored, padding included. */
int64_t weight_elements(enum layout layout, int64_t rows, int64_t cols);

/* Bytes, of any layout; cols is a multiple of layout_block in LAYOUT_STORED. */
size_t weight_bytes(enum layout layout, int64_t rows, int64_t cols);

/* "panel_bf16" and so on; of stored blocks the dtype's name. */
const char *layout_name(enum layout layout);

/* Elements of a panel, and the place of W[row][col] among all elements. */
static inline int64_t weight_panel(enum layout layout, int64_t cols) {
    return (layout == LAYOUT_PANEL_BF16 ? (cols + 1) / 2 * 2 : cols) * PANEL_ROWS;
}
static inline int64_t weight_index(enum layout layout, int64_t cols, int64_t row, int64_t col) {
    if (layout_is_rows(layout)) return row * cols + col;
    int64_t at = row / PANEL_ROWS * weight_panel(layout, cols), lane = row % PANEL_ROWS;
    if (layout == LAYOUT_PANEL_BF16) return at + (col / 2 * PANEL_ROWS + lane) * 2 + col % 2;
    return at + col * PANEL_ROWS + lane;
}

/* A run of stored fp32 elements is up to three rectangles: the rest of a panel (or row), whole
 * panels (rows), the beginning of one. Each is a matrix of its own in the same layout. */
enum { WEIGHT_PARTS = 3 };
struct weight_part {
    int64_t first_row, first_col, rows, cols;
    int64_t at; /* where its elements begin, counted from the run's first */
};

/* The rectangles of elements [first, first + count) of a matrix, in order; returns how many. In
 * LAYOUT_PANEL_F32 both ends are multiples of PANEL_ROWS; LAYOUT_PANEL_BF16 can't be cut so. */
int weight_parts(struct weight_part parts[WEIGHT_PARTS], const struct weight *weight, int64_t first,
                 int64_t count);

/* The fp32 layout of its gradient, moments and master: the same panels, or rows. */
enum layout layout_of_gradient(enum layout layout);

/* Stores logical rows [first, first + count) from src (count, cols) f32, rounding to the layout.
 * Calls on disjoint rows may run at once if no panel is shared; `first` is a multiple of PANEL_ROWS
 * in panel layouts. Rows of a last panel beyond weight->rows are zeroed. Of the quantized layouts
 * only NF4, of a matrix that is no slice, and 8-bit moments. */
void weight_pack(const struct weight *weight, int64_t first, int64_t count, const float *src);

/* The same from whole rows, src (count, whole_cols), of which the weight has the columns from
 * first_col on: NF4's scales are those of whole rows. LAYOUT_NF4: first_col is a multiple of 64,
 * and so is cols unless the tensor ends there; row 0 of the weight is a multiple of 16 in the
 * tensor. */
void weight_pack_slice(const struct weight *weight, int64_t first, int64_t count, const float *src,
                       int64_t whole_cols, int64_t first_col);

/* LAYOUT_STORED: one row from the bytes of its blocks. */
void weight_pack_stored(const struct weight *weight, int64_t row, const void *blocks);

/* out (count) f32: columns [first, first + count) of a row, whatever the layout; first is a
 * multiple of 256. */
void weight_read(float *out, const struct weight *weight, int64_t row, int64_t first,
                 int64_t count);

/* The reverse of packing: out (count, cols) f32, any `first`. */
void weight_unpack(float *out, const struct weight *weight, int64_t first, int64_t count);

/* The fp32 master of a weight: the same values, laid out as layout_of_gradient(from->layout). */
void weight_widen(struct stream *s, float *to, const struct weight *from);

/* Refreshes a weight from its fp32 master, which lies as layout_of_gradient(to->layout) says. */
void weight_round(struct stream *s, const struct weight *to, const float *from);

#endif
