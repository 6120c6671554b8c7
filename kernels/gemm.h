/* The one blocked matrix product behind matmul forward and both gradients; private to kernels/,
 * compiled per variant.
 *
 *     C (rows, cols) = [C +] A (rows, depth) B (depth, cols) [+ bias (cols)]
 *
 * Every element of C is one chain of steps over depth = 0, 1, 2, ... in fp32, starting from 0 (or
 * from C), rounded to C's type once at the end. A step is one fused multiply-add; where the variant
 * has dot products of bf16 pairs and both operands are bf16, it is the instruction's two products
 * of depths 2i and 2i + 1. No blocking, thread count or number of rows changes a chain.
 *
 * Two ways through memory, both cut into tiles of C that live in registers (gemm_micro):
 *
 *   in place   a weight's panels read where they lie, A in the L2 cache     gemm_in_place.c
 *   blocked    B in blocks packed into the L2 cache, A a strip at a time    gemm_blocked.c
 *
 * A quantized weight is always packed: gemm_widen.c.
 *
 * after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008. */
#ifndef STRATA_KERNELS_GEMM_H
#define STRATA_KERNELS_GEMM_H

#include "kernels/base/stream.h"
#include "kernels/base/units.h"
#include "kernels/pack.h"
#include "kernels/quantized.h"
#include "kernels/variant.h"
#include <stdalign.h>
#include <stdbool.h>
#include <stdint.h>

enum {
#if defined(__AVX512F__)
    GEMM_ROWS = 12, /* rows of a strip: 12 x 2 registers accumulate */
#else
    GEMM_ROWS = 6, /* 6 x 1 panel of two registers */
#endif
    GEMM_PANELS = 4, /* most panels of a tile (few rows walk more panels at once) */
    GEMM_LINE = 64,  /* bytes of a step of a packed panel: 16 floats, or 16 pairs of bf16 */
};

/* Where element (f, d) of an operand lies; f is a row of A or a column of B, d the depth. */
enum operand_order {
    OPERAND_ROWS,          /* f * stride + d */
    OPERAND_COLUMNS,       /* d * stride + f */
    OPERAND_PANELS,        /* B only: a weight whose row is f and whose column is d (pack.h) */
    OPERAND_PANELS_ACROSS, /* B only: a weight whose row is d and whose column is f */
};

struct operand {
    const void *data;
    enum operand_order order;
    bool bf16;                      /* else fp32 */
    int64_t stride;                 /* elements; of panels, those of one panel */
    const struct weight *quantized; /* panels that are widened on the way, or NULL: bf16 then says
                                       what to, and there is neither data nor stride */
};

struct gemm {
    int64_t rows, cols, depth;
    struct operand a, b;
    void *c;
    bool c_bf16;     /* else fp32 */
    bool c_panels;   /* (row, col) at col / 16 * c_stride + row * 16 + col % 16; else row-major */
    bool accumulate; /* start from C */
    int64_t c_stride;
    const float *bias; /* or NULL */
};

void VARIANT(gemm_run)(struct stream *s, const struct gemm *gemm);

/* --- the parts, for the files gemm*.c ----------------------------------------------------------
 */

/* A product with its steps: of one depth each, or of two where bf16 pairs are multiplied. */
struct product {
    struct gemm g;
    bool pairs;
    int64_t steps;
};

/* A thread's part of C. */
struct part {
    int64_t row, rows, panel, panels;
};

/* A thread's buffers, on its stack: 1.2 MB. What a block of work touches stays in an L2 cache of
 * 1 MB. */
enum {
    FLOATS_B = 176 * 1024,
    FLOATS_C = 112 * 1024,
    STRIP_STEPS = 768, /* most steps of a block of B and of a strip of A */
    SPILL = 16,        /* packing A writes whole vectors; keeps a strip's rows apart in the cache */
};
struct scratch {
    alignas(64) float b[FLOATS_B]; /* a block of B; or of A, where B is read in place */
    alignas(64) float a[(STRIP_STEPS + SPILL) * GEMM_ROWS];
    alignas(64) float c[FLOATS_C]; /* sums that wait for the next block of depth */
};

void VARIANT(gemm_in_place)(const struct product *product, const struct part *part,
                            struct scratch *scratch);
void VARIANT(gemm_blocked)(const struct product *product, const struct part *part,
                           struct scratch *scratch);

enum tile_kind {
    TILE_F32,   /* a, b fp32; a step is a depth */
    TILE_WIDE,  /* a fp32, b pairs of bf16 that are widened; a step of b is two depths */
    TILE_PAIRS, /* a, b pairs of bf16, in the bytes of a float each; a step is a pair */
};

/* Lines of 64 bytes to be fetched, one of each of a tile's panels a step. In bytes. */
struct gemm_lines {
    const char *at;
    int64_t panel, step;
};

/* One tile of C: `rows` (up to GEMM_ROWS) x `panels` of 16, in registers. What it fetches while it
 * computes: `next` from its first step on, then, if near_end, where its result goes and where that
 * of the next tile does, a row a step, so late that the L1 cache still has them when they are
 * needed (a store to a line that it has not holds up those behind it). */
struct gemm_tile {
    enum tile_kind kind;
    int rows, panels;
    const float *a; /* row r, entry i at r * a_row + i; or, a_row = 0, at i * rows + r */
    int64_t a_row;
    const char *b;   /* panel p, step i at p * b_panel + i * GEMM_LINE, in bytes */
    float *c;        /* panel p, row r at p * c_panel + r * c_row */
    bool load;       /* start from c, else from 0 */
    int64_t depth;   /* entries of a: depths, or pairs */
    int64_t b_panel; /* bytes */
    int64_t c_panel, c_row;
    struct gemm_lines next;
    bool near_end;
    struct gemm_lines here, after;
};

/* The most panels that a tile of `rows` rows can have: 1, 2 or 4. */
int VARIANT(gemm_tile_panels)(int rows);
void VARIANT(gemm_micro)(const struct gemm_tile *tile);

/* Sums of a region of C outside C: [panel][sum_rows][16]. */
struct sums {
    float *at;
    int64_t rows;
};
struct region {
    int64_t row, rows, panel, panels;
};
/* C's values as sums; zeros in columns beyond the last. */
void VARIANT(gemm_read_c)(const struct sums *to, const struct gemm *g, const struct region *region);
/* The reverse, rounded, with the bias if there is one and this is the end of the depth. */
void VARIANT(gemm_write_c)(const struct gemm *g, const struct sums *from,
                           const struct region *region, bool end);

struct place {
    int64_t row, panel;
};
/* Runs a tile whose kind, rows, panels, a, b, depth and next are set, from C or from zero, to C.
 * `after` is the place of the tile that follows, or NULL, where no place is worth a fetch. */
void VARIANT(gemm_place)(const struct gemm *g, struct gemm_tile *tile, const struct place *at,
                         const struct place *after, bool from_c, bool end);

/* Rows [row, row + rows), steps [first, first + steps) of A in fp32 or pairs; a pair beyond the
 * depth is half zero. A by rows: row r, step i to r * pitch + i. A by columns, rows <= GEMM_ROWS:
 * to i * rows + r. Writes up to 15 floats beyond. `first` is a multiple of 16. */
void VARIANT(gemm_pack_a)(float *to, const struct product *p, int64_t row, int64_t rows,
                          int64_t pitch, int64_t first, int64_t steps);

/* Panels [panel, panel + panels), steps [first, first + steps) of B, as [panel][steps][16] in fp32
 * or pairs; columns beyond g.cols are zero. `first` is a multiple of 16. */
void VARIANT(gemm_pack_b)(float *to, const struct product *p, int64_t panel, int64_t panels,
                          int64_t first, int64_t steps);
/* The same of a quantized weight. Whole chunks of QUANTIZED_CHUNK columns cost least. */
void VARIANT(gemm_widen_b)(float *to, const struct product *p, int64_t panel, int64_t panels,
                           int64_t first, int64_t steps);

/* Panels of B that cost least when they are packed together: those of whole chunks, or a pair. */
static inline int64_t panel_unit_of(const struct operand *b) {
    return b->quantized && b->order == OPERAND_PANELS_ACROSS ? QUANTIZED_CHUNK / 16 : 2;
}
static inline int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
/* The size of `total` cut into equal pieces of at most `most`, a multiple of `unit`. */
static inline int64_t even_piece(int64_t total, int64_t most, int64_t unit) {
    int64_t pieces = divide_up(total, most);
    return min_i64(most, divide_up(divide_up(total, pieces), unit) * unit);
}

#endif
