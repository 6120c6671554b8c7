/* Between registers and C: most tiles lie in C itself; sums that are rounded to bf16, take a bias
 * or overhang the last column go through a copy. */
#include "kernels/gemm.h"
#include "kernels/simd.h"

static int64_t c_at(const struct gemm *g, int64_t row, int64_t col) {
    return g->c_panels ? col / 16 * g->c_stride + row * 16 : row * g->c_stride + col;
}

void VARIANT(gemm_read_c)(const struct sums *to, const struct gemm *g,
                          const struct region *region) {
    for (int64_t r = 0; r < region->rows; r++) {
        for (int64_t p = 0; p < region->panels; p++) {
            int64_t col = (region->panel + p) * 16, from = c_at(g, region->row + r, col);
            int width = (int)min_i64(16, g->cols - col);
            float *line = to->at + (p * to->rows + r) * 16;
            if (width == 16) {
                v16_store(line, g->c_bf16 ? v16_load_bf16((const uint16_t *)g->c + from)
                                          : v16_load((const float *)g->c + from));
                continue;
            }
            for (int i = 0; i < width; i++)
                line[i] = g->c_bf16 ? bf16_to_f32(((const uint16_t *)g->c)[from + i])
                                    : ((const float *)g->c)[from + i];
            for (int i = width; i < 16; i++) line[i] = 0.0f;
        }
    }
}

/* Columns that pad the last panel are not stored: 0 times a NaN would leave one there. */
static void write_part(const struct gemm *g, int64_t at, v16 line, int width) {
    alignas(64) float values[16];
    v16_store(values, line);
    for (int i = 0; i < width; i++)
        if (g->c_bf16)
            ((uint16_t *)g->c)[at + i] = f32_to_bf16(values[i]);
        else
            ((float *)g->c)[at + i] = values[i];
}

static v16 load_bias(const struct gemm *g, int64_t col, int width) {
    alignas(64) float values[16] = {0};
    for (int i = 0; i < width; i++) values[i] = g->bias[col + i];
    return v16_load(values);
}

void VARIANT(gemm_write_c)(const struct gemm *g, const struct sums *from,
                           const struct region *region, bool end) {
    for (int64_t r = 0; r < region->rows; r++) {
        for (int64_t p = 0; p < region->panels; p++) {
            int64_t col = (region->panel + p) * 16, at = c_at(g, region->row + r, col);
            int width = (int)min_i64(16, g->cols - col);
            v16 line = v16_load(from->at + (p * from->rows + r) * 16);
            if (g->bias && end) line = v16_add(line, load_bias(g, col, width));
            if (width < 16)
                write_part(g, at, line, width);
            else if (g->c_bf16)
                v16_store_bf16((uint16_t *)g->c + at, line);
            else
                v16_store((float *)g->c + at, line);
        }
    }
}

/* A place in C, for a tile to fetch. */
static struct gemm_lines lines_at(const struct gemm *g, const struct place *place) {
    int64_t element = g->c_bf16 ? 2 : 4;
    int64_t at = c_at(g, place->row, place->panel * 16);
    return (struct gemm_lines){.at = (const char *)g->c + at * element,
                               .panel = (g->c_panels ? g->c_stride : 16) * element,
                               .step = (g->c_panels ? 16 : g->c_stride) * element};
}

void VARIANT(gemm_place)(const struct gemm *g, struct gemm_tile *tile, const struct place *at,
                         const struct place *after, bool from_c, bool end) {
    bool whole = (at->panel + tile->panels) * 16 <= g->cols;
    tile->near_end = after != NULL;
    if (after) {
        tile->here = lines_at(g, at);
        tile->after = lines_at(g, after);
    }
    tile->load = from_c;
    if (!g->c_bf16 && whole && !(g->bias && end)) {
        tile->c = (float *)g->c + c_at(g, at->row, at->panel * 16);
        tile->c_row = g->c_panels ? 16 : g->c_stride;
        tile->c_panel = g->c_panels ? g->c_stride : 16;
        VARIANT(gemm_micro)(tile);
        return;
    }
    alignas(64) float local[GEMM_ROWS * GEMM_PANELS * 16];
    const struct sums sums = {local, tile->rows};
    const struct region region = {at->row, tile->rows, at->panel, tile->panels};
    tile->c = local;
    tile->c_row = 16;
    tile->c_panel = tile->rows * 16;
    if (from_c) VARIANT(gemm_read_c)(&sums, g, &region);
    VARIANT(gemm_micro)(tile);
    VARIANT(gemm_write_c)(g, &sums, &region, end);
}
