/* Tiles of C in registers. The body is written once; constants for rows, panels and the type of B
 * make the compiler unroll it into one loop per shape whose accumulators never leave registers. */
#include "kernels/gemm.h"
#include "kernels/simd.h"

#include <assert.h>

/* Where the tile's rows of A are: rows side by side, one base; rows apart, one for each three of
 * them, so that base + {0, 1, 2} * a_row are addresses of an instruction. */
enum { BASES = (GEMM_ROWS + 2) / 3 };
struct rows_of_a {
    const float *base[BASES];
    int64_t row;
};

/* Keeps a walking address in one register: the compiler would hold all places that it comes by. */
#define ONE_ADDRESS(pointer) __asm__("" : "+r"(pointer))

static inline __attribute__((always_inline)) float entry(const struct rows_of_a *a,
                                                         const bool apart, int r, int i, int rows) {
    return apart ? a->base[r / 3][r % 3 * a->row + i] : a->base[0][i * rows + r];
}

/* sum += the products of entry i of A's rows with a line of each panel. */
static inline __attribute__((always_inline)) void multiply(const int rows, const int panels,
                                                           const bool apart, const bool pairs,
                                                           v16 sum[GEMM_ROWS][GEMM_PANELS],
                                                           const struct rows_of_a *a, int i,
                                                           const v16 b[GEMM_PANELS]) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        v16 value = v16_splat(entry(a, apart, r, i, rows));
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++)
            sum[r][p] =
                pairs ? v16_dot_pairs(sum[r][p], value, b[p]) : v16_fma(value, b[p], sum[r][p]);
    }
}

/* The sums of a tile, from or to `c`. */
static inline __attribute__((always_inline)) void sums_load(const int rows, const int panels,
                                                            v16 sum[GEMM_ROWS][GEMM_PANELS],
                                                            const struct gemm_tile *tile) {
    const float *c = tile->c;
    const int64_t c_panel = tile->c_panel, c_row = tile->c_row;
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++, c += c_row) {
        ONE_ADDRESS(c);
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) sum[r][p] = v16_load(c + p * c_panel);
    }
}

static inline __attribute__((always_inline)) void sums_store(const int rows, const int panels,
                                                             v16 sum[GEMM_ROWS][GEMM_PANELS],
                                                             const struct gemm_tile *tile) {
    float *c = tile->c;
    const int64_t c_panel = tile->c_panel, c_row = tile->c_row;
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++, c += c_row) {
        ONE_ADDRESS(c);
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) v16_store(c + p * c_panel, sum[r][p]);
    }
}

/* What a tile fetches, and for how many entries of A. */
struct phase {
    int64_t entries;
    struct gemm_lines lines;
};
enum { PHASES = 3 };

static inline void phases_of(struct phase phases[PHASES], const struct gemm_tile *tile,
                             int64_t few) {
    int64_t main = (tile->depth - 2 * few) / 2 * 2; /* even: TILE_WIDE takes two entries a step */
    bool near_end = tile->near_end && main > 0;
    phases[0] = (struct phase){near_end ? main : tile->depth, tile->next};
    phases[1] = (struct phase){near_end ? few : 0, tile->here};
    phases[2] = (struct phase){near_end ? tile->depth - main - few : 0, tile->after};
}

static inline __attribute__((always_inline)) void tile_body(const int rows, const int panels,
                                                            const enum tile_kind kind,
                                                            const bool apart,
                                                            const struct gemm_tile *tile) {
    v16 sum[GEMM_ROWS][GEMM_PANELS] = {0};
    if (tile->load) sums_load(rows, panels, sum, tile);
    struct rows_of_a a = {.row = tile->a_row};
#pragma GCC unroll 4
    for (int i = 0; i < BASES; i++) a.base[i] = tile->a + 3 * i * tile->a_row;
    const char *line = tile->b;
    const int64_t b_panel = tile->b_panel;
    const int entries = kind == TILE_WIDE ? 2 : 1; /* of A, a step of B */
    struct phase phases[PHASES];
    phases_of(phases, tile, rows * entries);
    /* volatile: general registers are few, and GCC would keep these in vector registers, from where
     * every step would move them back in the multipliers' time */
    const volatile struct phase *phase = phases;
#pragma GCC unroll 1
    for (int i = 0; i < PHASES; i++, phase++) {
        const char *fetch = phase->lines.at;
        for (int64_t d = phase->entries; d > 0; d -= entries) {
            v16 b[GEMM_PANELS], odd[GEMM_PANELS];
#pragma GCC unroll 4
            for (int p = 0; p < panels; p++) {
                b[p] = v16_load((const float *)(const void *)(line + p * b_panel));
                if (kind == TILE_WIDE) {
                    odd[p] = v16_odd_bf16(b[p]);
                    b[p] = v16_even_bf16(b[p]);
                }
                _mm_prefetch(p ? fetch + p * phase->lines.panel : fetch, _MM_HINT_T0);
            }
            multiply(rows, panels, apart, kind == TILE_PAIRS, sum, &a, 0, b);
            if (kind == TILE_WIDE && d > 1) multiply(rows, panels, apart, false, sum, &a, 1, odd);
#pragma GCC unroll 4
            for (int j = 0; j < BASES; j++) a.base[j] += apart ? entries : entries * rows;
            line += GEMM_LINE;
            fetch += phase->lines.step;
        }
    }
    sums_store(rows, panels, sum, tile);
}

static inline __attribute__((always_inline)) void tile_of(const int panels,
                                                          const enum tile_kind kind,
                                                          const bool apart,
                                                          const struct gemm_tile *tile) {
    switch (tile->rows) {
    case 1:
        tile_body(1, panels, kind, apart, tile);
        return;
    case 2:
        tile_body(2, panels, kind, apart, tile);
        return;
    case 3:
        tile_body(3, panels, kind, apart, tile);
        return;
    case 4:
        tile_body(4, panels, kind, apart, tile);
        return;
    case 5:
        tile_body(5, panels, kind, apart, tile);
        return;
#if defined(__AVX512F__)
    case 6:
        tile_body(6, panels, kind, apart, tile);
        return;
    case 7:
        tile_body(7, panels, kind, apart, tile);
        return;
    case 8:
        tile_body(8, panels, kind, apart, tile);
        return;
    case 9:
        tile_body(9, panels, kind, apart, tile);
        return;
    case 10:
        tile_body(10, panels, kind, apart, tile);
        return;
    case 11:
        tile_body(11, panels, kind, apart, tile);
        return;
#endif
    default:
        tile_body(GEMM_ROWS, panels, kind, apart, tile);
        return;
    }
}

/* As many as keep the sums and one row of B in 32 registers, or in 16. */
int VARIANT(gemm_tile_panels)(int rows) {
#if defined(__AVX512F__)
    return rows <= 2 ? 4 : 2;
#else
    return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
#endif
}

static inline __attribute__((always_inline)) void
tile_kind(const enum tile_kind kind, const bool apart, const struct gemm_tile *tile) {
    if (tile->panels == 1)
        tile_of(1, kind, apart, tile);
    else if (tile->panels == 2)
        tile_of(2, kind, apart, tile);
    else if (tile->rows == 1)
        tile_body(1, 4, kind, apart, tile);
    else
        tile_body(2, 4, kind, apart, tile);
}

void VARIANT(gemm_micro)(const struct gemm_tile *tile) {
    assert(tile->rows >= 1 && tile->rows <= GEMM_ROWS);
    assert(tile->panels <= VARIANT(gemm_tile_panels)(tile->rows) && tile->panels != 3);
    bool apart = tile->a_row != 0;
    switch (tile->kind) {
#if defined(__AVX512BF16__)
    case TILE_PAIRS:
        if (apart)
            tile_kind(TILE_PAIRS, true, tile);
        else
            tile_kind(TILE_PAIRS, false, tile);
        return;
#endif
    case TILE_WIDE: /* activations against a weight in place: by rows */
        assert(apart);
        tile_kind(TILE_WIDE, true, tile);
        return;
    default:
        if (apart)
            tile_kind(TILE_F32, true, tile);
        else
            tile_kind(TILE_F32, false, tile);
    }
}
