/* Packing walks tiles of 16 x 16: a tile's source lines and its panel lines stay in the L1 cache,
 * and the inner loop has a constant length, so the compiler unrolls it. */
#include "kernels/pack.h"

#include "kernels/base/units.h"
#include "kernels/moment8.h"
#include "kernels/quantized.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

static const char *const names[LAYOUT_COUNT] = {
    [LAYOUT_ROWS_F32] = "rows_f32",
    [LAYOUT_PANEL_F32] = "panel_f32",
    [LAYOUT_PANEL_BF16] = "panel_bf16",
    [LAYOUT_ROWS_BF16] = "rows_bf16",
};

static int64_t panels_of(int64_t rows) {
    return (rows + PANEL_ROWS - 1) / PANEL_ROWS;
}

int64_t weight_elements(enum layout layout, int64_t rows, int64_t cols) {
    assert((unsigned)layout < LAYOUT_COUNT && rows >= 0 && cols >= 0);
    return layout_is_rows(layout) ? rows * cols : panels_of(rows) * weight_panel(layout, cols);
}

int64_t layout_block(enum layout layout) {
    if (layout_is_moment8(layout)) return MOMENT8_TILE;
    if (layout >= LAYOUT_STORED) return dtype_info(layout_stored_type(layout))->block_elements;
    return layout >= LAYOUT_NF4 ? NF4_BLOCK : 1;
}

size_t weight_bytes(enum layout layout, int64_t rows, int64_t cols) {
    if (layout >= LAYOUT_STORED) {
        assert(cols % layout_block(layout) == 0);
        return dtype_bytes(layout_stored_type(layout),
                           (size_t)(panels_of(rows) * PANEL_ROWS * cols));
    }
    if (layout_is_moment8(layout)) {
        assert(cols % MOMENT8_TILE == 0);
        return (size_t)(panels_of(rows) * (cols / MOMENT8_TILE)) * sizeof(struct moment8);
    }
    if (layout >= LAYOUT_NF4) return nf4_bytes(layout, rows, cols);
    size_t element = layout_is_bf16(layout) ? sizeof(uint16_t) : sizeof(float);
    return (size_t)weight_elements(layout, rows, cols) * element;
}

const char *layout_name(enum layout layout) {
    if (layout >= LAYOUT_STORED) return dtype_info(layout_stored_type(layout))->name;
    if (layout_is_moment8(layout)) return "moment8";
    if (layout >= LAYOUT_NF4) return "nf4";
    assert((unsigned)layout < LAYOUT_COUNT);
    return names[layout];
}

int weight_parts(struct weight_part parts[WEIGHT_PARTS], const struct weight *weight, int64_t first,
                 int64_t count) {
    int64_t band = layout_is_rows(weight->layout) ? 1 : PANEL_ROWS; /* rows side by side */
    int64_t whole = weight->cols * band, end = first + count;
    int made = 0;
    assert(weight->layout != LAYOUT_PANEL_BF16 && first % band == 0 && count % band == 0);
    for (int64_t at = first, run; at < end; at += run) {
        int64_t begin = at % whole, row = at / whole * band;
        bool full = begin == 0 && end - at >= whole;
        run = full ? (end - at) / whole * whole : min_i64(whole - begin, end - at);
        parts[made++] = (struct weight_part){
            .first_row = row,
            .first_col = begin / band,
            .rows = min_i64(full ? run / weight->cols : band, weight->rows - row),
            .cols = full ? weight->cols : run / band,
            .at = at - first};
    }
    return made;
}

enum layout layout_of_gradient(enum layout layout) {
    assert((unsigned)layout < LAYOUT_COUNT);
    if (layout_is_rows(layout)) return LAYOUT_ROWS_F32;
    return LAYOUT_PANEL_F32;
}

/* The tile's [column][row] = src[row][column] for those that exist; the others are zero. */
enum { TILE = PANEL_ROWS * PANEL_ROWS };
static void tile_read(float tile[TILE], const float *src, int64_t stride, int64_t rows,
                      int64_t cols) {
    if (rows == PANEL_ROWS && cols == PANEL_ROWS) {
        for (int r = 0; r < PANEL_ROWS; r++)
            for (int c = 0; c < PANEL_ROWS; c++) tile[c * PANEL_ROWS + r] = src[r * stride + c];
        return;
    }
    memset(tile, 0, TILE * sizeof *tile);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) tile[c * PANEL_ROWS + r] = src[r * stride + c];
}

/* Lines of `width` columns, [column][row], to the pairs of a bf16 panel; an odd last column's
 * partner is zero. */
static void round_pairs(uint16_t *to, const float *lines, int64_t width) {
    static const float nothing[PANEL_ROWS];
    for (int64_t c = 0; c < width; c += 2) {
        const float *even = lines + c * PANEL_ROWS;
        const float *odd = c + 1 < width ? even + PANEL_ROWS : nothing;
        for (int r = 0; r < PANEL_ROWS; r++) {
            to[c * PANEL_ROWS + 2 * r] = f32_to_bf16(even[r]);
            to[c * PANEL_ROWS + 2 * r + 1] = f32_to_bf16(odd[r]);
        }
    }
}

/* The reverse. */
static void widen_pairs(float *lines, const uint16_t *from, int64_t width) {
    for (int64_t c = 0; c < width; c++)
        for (int r = 0; r < PANEL_ROWS; r++)
            lines[c * PANEL_ROWS + r] = bf16_to_f32(from[c / 2 * 2 * PANEL_ROWS + 2 * r + c % 2]);
}

static void round_row(uint16_t *to, const float *from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = f32_to_bf16(from[i]);
}

static void widen_row(float *to, const uint16_t *from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = bf16_to_f32(from[i]);
}

static void panel_pack(const struct weight *weight, int64_t panel, const float *src, int64_t rows) {
    float tile[TILE];
    for (int64_t c = 0; c < weight->cols; c += PANEL_ROWS) {
        int64_t width = min_i64(PANEL_ROWS, weight->cols - c);
        tile_read(tile, src + c, weight->cols, rows, width);
        int64_t at = panel * weight_panel(weight->layout, weight->cols) + c * PANEL_ROWS;
        if (weight->layout == LAYOUT_PANEL_BF16)
            round_pairs((uint16_t *)weight->data + at, tile, width);
        else
            memcpy((float *)weight->data + at, tile, (size_t)(width * PANEL_ROWS) * sizeof(float));
    }
}

/* A block is a tile, as fp32 panels have it. */
static struct moment8 *moments_of(const struct weight *weight, int64_t panel) {
    return (struct moment8 *)weight->data + panel * (weight->cols / MOMENT8_TILE);
}

static void moments_pack(const struct weight *weight, int64_t first, int64_t count,
                         const float *src) {
    struct moment8_map map;
    float tile[TILE];
    moment8_map_create(&map, weight->layout == LAYOUT_MOMENT8);
    for (int64_t row = 0; row < count; row += PANEL_ROWS)
        for (int64_t c = 0; c < weight->cols; c += MOMENT8_TILE) {
            struct moment8 *blocks = moments_of(weight, (first + row) / PANEL_ROWS);
            tile_read(tile, src + row * weight->cols + c, weight->cols,
                      min_i64(PANEL_ROWS, count - row), MOMENT8_TILE);
            moment8_pack(&blocks[c / MOMENT8_TILE], tile, &map);
        }
}

static void moments_unpack(float *out, const struct weight *weight, int64_t first, int64_t count) {
    struct moment8_map map;
    float tile[TILE];
    moment8_map_create(&map, weight->layout == LAYOUT_MOMENT8);
    for (int64_t c = 0; c < weight->cols; c += MOMENT8_TILE)
        for (int64_t row = 0; row < count; row++) {
            int64_t lane = (first + row) % PANEL_ROWS;
            const struct moment8 *blocks = moments_of(weight, (first + row) / PANEL_ROWS);
            if (row == 0 || lane == 0) moment8_unpack(tile, &blocks[c / MOMENT8_TILE], &map);
            for (int j = 0; j < MOMENT8_TILE; j++)
                out[row * weight->cols + c + j] = tile[j * PANEL_ROWS + lane];
        }
}

void weight_pack(const struct weight *weight, int64_t first, int64_t count, const float *src) {
    assert(first >= 0 && count >= 0 && first + count <= weight->rows);
    if (count == 0) return;
    if (weight->layout == LAYOUT_ROWS_F32) {
        memcpy((float *)weight->data + first * weight->cols, src,
               (size_t)(count * weight->cols) * sizeof *src);
        return;
    }
    if (weight->layout == LAYOUT_ROWS_BF16) {
        round_row((uint16_t *)weight->data + first * weight->cols, src, count * weight->cols);
        return;
    }
    assert(first % PANEL_ROWS == 0);
    assert(count % PANEL_ROWS == 0 || first + count == weight->rows);
    if (layout_is_moment8(weight->layout)) {
        moments_pack(weight, first, count, src);
        return;
    }
    if (layout_is_quantized(weight->layout)) {
        nf4_pack(weight, first, count, src, weight->cols, 0);
        return;
    }
    for (int64_t row = 0; row < count; row += PANEL_ROWS)
        panel_pack(weight, (first + row) / PANEL_ROWS, src + row * weight->cols,
                   min_i64(PANEL_ROWS, count - row));
}

void weight_pack_slice(const struct weight *weight, int64_t first, int64_t count, const float *src,
                       int64_t whole_cols, int64_t first_col) {
    assert(first % PANEL_ROWS == 0 && first + count <= weight->rows);
    assert(count % PANEL_ROWS == 0 || first + count == weight->rows);
    assert(first_col % NF4_BLOCK == 0 && first_col + weight->cols <= whole_cols);
    assert(weight->cols % NF4_BLOCK == 0 || first_col + weight->cols == whole_cols);
    nf4_pack(weight, first, count, src, whole_cols, first_col);
}

void weight_read(float *out, const struct weight *weight, int64_t row, int64_t first,
                 int64_t count) {
    if (layout_is_quantized(weight->layout)) {
        quantized_read(out, weight, row, first, count);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t at = weight_index(weight->layout, weight->cols, row, first + i);
        out[i] = layout_is_bf16(weight->layout) ? bf16_to_f32(((const uint16_t *)weight->data)[at])
                                                : ((const float *)weight->data)[at];
    }
}

/* out (rows, cols): rows [lane, lane + rows) of one panel. */
static void panel_unpack(float *out, const struct weight *weight, int64_t panel, int64_t lane,
                         int64_t rows) {
    float tile[TILE];
    for (int64_t c = 0; c < weight->cols; c += PANEL_ROWS) {
        int64_t width = min_i64(PANEL_ROWS, weight->cols - c);
        int64_t at = panel * weight_panel(weight->layout, weight->cols) + c * PANEL_ROWS;
        if (weight->layout == LAYOUT_PANEL_BF16)
            widen_pairs(tile, (const uint16_t *)weight->data + at, width);
        else
            memcpy(tile, (const float *)weight->data + at,
                   (size_t)(width * PANEL_ROWS) * sizeof(float));
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < width; j++)
                out[r * weight->cols + c + j] = tile[j * PANEL_ROWS + lane + r];
    }
}

void weight_unpack(float *out, const struct weight *weight, int64_t first, int64_t count) {
    assert(first >= 0 && count >= 0 && first + count <= weight->rows);
    if (count == 0) return;
    if (weight->layout == LAYOUT_ROWS_F32) {
        memcpy(out, (const float *)weight->data + first * weight->cols,
               (size_t)(count * weight->cols) * sizeof *out);
        return;
    }
    if (weight->layout == LAYOUT_ROWS_BF16) {
        widen_row(out, (const uint16_t *)weight->data + first * weight->cols, count * weight->cols);
        return;
    }
    if (layout_is_moment8(weight->layout)) {
        moments_unpack(out, weight, first, count);
        return;
    }
    if (layout_is_quantized(weight->layout)) {
        for (int64_t row = 0; row < count; row++)
            quantized_read(out + row * weight->cols, weight, first + row, 0, weight->cols);
        return;
    }
    for (int64_t row = first; row < first + count;) {
        int64_t lane = row % PANEL_ROWS;
        int64_t rows = min_i64(PANEL_ROWS - lane, first + count - row);
        panel_unpack(out + (row - first) * weight->cols, weight, row / PANEL_ROWS, lane, rows);
        row += rows;
    }
}

void weight_widen(struct stream *s, float *to, const struct weight *from) {
    if (from->layout == LAYOUT_PANEL_BF16) {
        int64_t master = weight_panel(LAYOUT_PANEL_F32, from->cols);
        int64_t panel = weight_panel(LAYOUT_PANEL_BF16, from->cols);
#pragma omp parallel for num_threads(s->threads) schedule(static)
        for (int64_t p = 0; p < panels_of(from->rows); p++)
            widen_pairs(to + p * master, (const uint16_t *)from->data + p * panel, from->cols);
        return;
    }
    if (from->layout == LAYOUT_ROWS_BF16) {
#pragma omp parallel for num_threads(s->threads) schedule(static)
        for (int64_t row = 0; row < from->rows; row++)
            widen_row(to + row * from->cols, (const uint16_t *)from->data + row * from->cols,
                      from->cols);
        return;
    }
    memcpy(to, from->data, weight_bytes(from->layout, from->rows, from->cols));
}

void weight_round(struct stream *s, const struct weight *to, const float *from) {
    if (to->layout == LAYOUT_PANEL_BF16) {
        int64_t master = weight_panel(LAYOUT_PANEL_F32, to->cols);
        int64_t panel = weight_panel(LAYOUT_PANEL_BF16, to->cols);
#pragma omp parallel for num_threads(s->threads) schedule(static)
        for (int64_t p = 0; p < panels_of(to->rows); p++)
            round_pairs((uint16_t *)to->data + p * panel, from + p * master, to->cols);
        return;
    }
    if (to->layout == LAYOUT_ROWS_BF16) {
#pragma omp parallel for num_threads(s->threads) schedule(static)
        for (int64_t row = 0; row < to->rows; row++)
            round_row((uint16_t *)to->data + row * to->cols, from + row * to->cols, to->cols);
        return;
    }
    memcpy(to->data, from, weight_bytes(to->layout, to->rows, to->cols));
}
