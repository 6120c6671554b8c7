/* From registers to C: most tiles lie in C itself; those that are rounded to bf16, take a bias or
 * overhang the last column go through a copy. */
#include "kernels/gemm.h"
#include "kernels/simd.h"

static int64_t c_at(const struct gemm *g, int64_t row, int64_t col) {
    return g->c_panels ? col / 16 * g->c_stride + row * 16 : row * g->c_stride + col;
}

/* The copy of a tile: panel p, row r at p * panel + r * 16. */
struct copy {
    float *at;
    int64_t panel;
};

static void read_c(const struct copy *to, const struct gemm *g, const struct gemm_tile *tile,
                   const struct tile_place *place) {
    for (int p = 0; p < tile->panels; p++) {
        int64_t col = (place->panel + p) * 16;
        int width = (int)smaller(16, g->cols - col);
        for (int r = 0; r < tile->rows; r++) {
            int64_t from = c_at(g, place->row + r, col);
            float *line = to->at + p * to->panel + r * 16;
            for (int i = 0; i < width; i++)
                line[i] = g->c_bf16 ? bf16_to_f32(((const uint16_t *)g->c)[from + i])
                                    : ((const float *)g->c)[from + i];
            for (int i = width; i < 16; i++) line[i] = 0.0f;
        }
    }
}

/* Columns that pad the last panel are not stored: 0 times a NaN would leave one there. */
static void write_part(const struct gemm *g, int64_t at, const float *from, int width) {
    for (int i = 0; i < width; i++)
        if (g->c_bf16)
            ((uint16_t *)g->c)[at + i] = f32_to_bf16(from[i]);
        else
            ((float *)g->c)[at + i] = from[i];
}

static void write_c(const struct copy *from, const struct gemm *g, const struct gemm_tile *tile,
                    const struct tile_place *place) {
    for (int p = 0; p < tile->panels; p++) {
        int64_t col = (place->panel + p) * 16;
        int width = (int)smaller(16, g->cols - col);
        alignas(64) float bias[16] = {0};
        bool biased = g->bias && place->last;
        for (int i = 0; biased && i < width; i++) bias[i] = g->bias[col + i];
        for (int r = 0; r < tile->rows; r++) {
            int64_t at = c_at(g, place->row + r, col);
            v16 line = v16_load(from->at + p * from->panel + r * 16);
            if (biased) line = v16_add(line, v16_load(bias));
            if (width < 16) {
                alignas(64) float values[16];
                v16_store(values, line);
                write_part(g, at, values, width);
            } else if (g->c_bf16) {
                v16_store_bf16((uint16_t *)g->c + at, line);
            } else {
                v16_store((float *)g->c + at, line);
            }
        }
    }
}

void VARIANT(gemm_place)(const struct gemm *g, struct gemm_tile *tile,
                         const struct tile_place *place) {
    bool whole = (place->panel + tile->panels) * 16 <= g->cols;
    tile->load = !place->first || g->accumulate;
    if (!g->c_bf16 && whole && !(g->bias && place->last)) {
        tile->c = (float *)g->c + c_at(g, place->row, place->panel * 16);
        tile->c_row = g->c_panels ? 16 : g->c_stride;
        tile->c_panel = g->c_panels ? g->c_stride : 16;
        VARIANT(gemm_micro)(tile);
        return;
    }
    alignas(64) float local[GEMM_ROWS * GEMM_PANELS * 16];
    struct copy copy = {local, tile->rows * 16};
    if (place->sums) copy = (struct copy){place->sums, place->sum_rows * 16};
    tile->c = copy.at;
    tile->c_row = 16;
    tile->c_panel = copy.panel;
    if (tile->load && (place->first || !place->sums)) read_c(&copy, g, tile, place);
    VARIANT(gemm_micro)(tile);
    if (place->last || !place->sums) write_c(&copy, g, tile, place);
}
