/* Tiles of C in registers. The body is written once; constants for rows, panels and the type of B
 * make the compiler unroll it into one loop per shape whose accumulators never leave registers. */
#include "kernels/gemm.h"
#include "kernels/simd.h"

#include <assert.h>

static inline __attribute__((always_inline)) void tile_body(const int rows, const int panels,
                                                            const bool bf16, const bool ahead,
                                                            const struct gemm_tile *tile) {
    v16 sum[GEMM_ROWS][GEMM_PANELS];
    float *c = tile->c;
    const int64_t c_panel = tile->c_panel, b_panel = tile->b_panel;
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++)
            sum[r][p] = tile->load ? v16_load(c + p * c_panel + r * 16) : v16_zero();
    }
    const float *a = tile->a, *wide = tile->b;
    const uint16_t *half = tile->b;
    const char *next = tile->next;
    for (int64_t d = tile->depth; d > 0; d--) {
        v16 b[GEMM_PANELS];
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) {
            b[p] = bf16 ? v16_load_bf16(half + p * b_panel) : v16_load(wide + p * b_panel);
            if (ahead) _mm_prefetch(next + p * tile->next_panel, _MM_HINT_T0);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            v16 value = v16_splat(a[r]);
#pragma GCC unroll 4
            for (int p = 0; p < panels; p++) sum[r][p] = v16_fma(value, b[p], sum[r][p]);
        }
        a += rows;
        if (bf16)
            half += 16;
        else
            wide += 16;
        if (ahead) next += tile->next_step;
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) v16_store(c + p * c_panel + r * 16, sum[r][p]);
    }
}

#if defined(__AVX512F__)

static inline __attribute__((always_inline)) void
tile_of(const int panels, const bool bf16, const bool ahead, const struct gemm_tile *tile) {
    switch (tile->rows) {
    case 1:
        tile_body(1, panels, bf16, ahead, tile);
        return;
    case 2:
        tile_body(2, panels, bf16, ahead, tile);
        return;
    case 3:
        tile_body(3, panels, bf16, ahead, tile);
        return;
    case 4:
        tile_body(4, panels, bf16, ahead, tile);
        return;
    case 5:
        tile_body(5, panels, bf16, ahead, tile);
        return;
    case 6:
        tile_body(6, panels, bf16, ahead, tile);
        return;
    case 7:
        tile_body(7, panels, bf16, ahead, tile);
        return;
    case 8:
        tile_body(8, panels, bf16, ahead, tile);
        return;
    case 9:
        tile_body(9, panels, bf16, ahead, tile);
        return;
    case 10:
        tile_body(10, panels, bf16, ahead, tile);
        return;
    case 11:
        tile_body(11, panels, bf16, ahead, tile);
        return;
    default:
        tile_body(12, panels, bf16, ahead, tile);
        return;
    }
}

int VARIANT(gemm_tile_panels)(int rows) {
    return rows <= 2 ? 4 : 2;
}

#else

static inline __attribute__((always_inline)) void
tile_of(const int panels, const bool bf16, const bool ahead, const struct gemm_tile *tile) {
    switch (tile->rows) {
    case 1:
        tile_body(1, panels, bf16, ahead, tile);
        return;
    case 2:
        tile_body(2, panels, bf16, ahead, tile);
        return;
    case 3:
        tile_body(3, panels, bf16, ahead, tile);
        return;
    case 4:
        tile_body(4, panels, bf16, ahead, tile);
        return;
    case 5:
        tile_body(5, panels, bf16, ahead, tile);
        return;
    default:
        tile_body(6, panels, bf16, ahead, tile);
        return;
    }
}

int VARIANT(gemm_tile_panels)(int rows) {
    return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
}

#endif

static inline __attribute__((always_inline)) void tile_kind(const bool bf16, const bool ahead,
                                                            const struct gemm_tile *tile) {
    if (tile->panels == 1)
        tile_of(1, bf16, ahead, tile);
    else if (tile->panels == 2)
        tile_of(2, bf16, ahead, tile);
    else if (tile->rows == 1)
        tile_body(1, 4, bf16, ahead, tile);
    else
        tile_body(2, 4, bf16, ahead, tile);
}

void VARIANT(gemm_micro)(const struct gemm_tile *tile) {
    assert(tile->rows >= 1 && tile->rows <= GEMM_ROWS);
    assert(tile->panels <= VARIANT(gemm_tile_panels)(tile->rows) && tile->panels != 3);
    if (tile->bf16)
        tile_kind(true, true, tile);
    else if (tile->next)
        tile_kind(false, true, tile);
    else
        tile_kind(false, false, tile);
}
