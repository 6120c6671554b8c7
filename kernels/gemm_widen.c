/* Quantized panels on their way into the L2 cache: a chunk of a panel's columns becomes fp32 lines
 * in the L1 cache, then what the tiles read. */
#include "kernels/gemm.h"
#include "kernels/simd_math.h"

#include <assert.h>
#include <string.h>

/* levels[bits >> shift & 15] */
#if defined(__AVX512F__)
static inline v16 pick_level(const uint32_t *bits, int shift) {
    __m512i index = _mm512_srli_epi32(_mm512_loadu_si512(bits), (unsigned)shift);
    return _mm512_permutexvar_ps(index, v16_load(nf4_levels)); /* looks at four bits */
}
#else
static inline __m256 pick_level_8(const uint32_t *bits, int shift) {
    __m256i index =
        _mm256_srli_epi32(_mm256_loadu_si256((const __m256i *)(const void *)bits), shift);
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(nf4_levels), index);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(nf4_levels + 8), index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
static inline v16 pick_level(const uint32_t *bits, int shift) {
    return (v16){pick_level_8(bits, shift), pick_level_8(bits + 8, shift)};
}
#endif

static void nf4_lines(float *lines, const struct nf4 *q, int64_t panel, int64_t block) {
    alignas(64) float absmax[PANEL_ROWS];
    int64_t at = panel * q->blocks + block;
    for (int r = 0; r < PANEL_ROWS; r++)
        absmax[r] = nf4_absmax(q->scales[(panel * PANEL_ROWS + r) / q->group_rows],
                               q->absmax[at * PANEL_ROWS + r]);
    v16 by = v16_load(absmax);
    const uint32_t *codes = q->codes + at * (NF4_BLOCK / 8) * PANEL_ROWS;
    for (int i = 0; i < NF4_BLOCK / 8; i++)
        for (int j = 0; j < 8; j++)
            v16_store(lines + (8 * i + j) * PANEL_ROWS,
                      v16_mul(pick_level(codes + i * PANEL_ROWS, 4 * j), by));
}

/* lines [column][16 rows] from values [block][16 rows][columns of the block]. */
static void turn_blocks(float *lines, const float *values, int64_t width, int64_t block) {
    for (int64_t c = 0; c < width; c += 16) {
        const float *from = values + c / block * block * PANEL_ROWS + c % block;
        v16 rows[16];
        for (int r = 0; r < 16; r++) rows[r] = v16_load(from + r * block);
        v16_transpose(rows);
        for (int i = 0; i < 16; i++) v16_store(lines + (c + i) * PANEL_ROWS, rows[i]);
    }
}

/* Columns [first, first + QUANTIZED_CHUNK) of a panel as fp32 lines [column][16 rows]; zeros beyond
 * the last column. */
static void widen_chunk(float *lines, const struct weight *w, int64_t panel, int64_t first) {
    int64_t width;
    if (w->layout < LAYOUT_STORED) {
        const struct nf4 q = nf4_of(w);
        int64_t block = first / NF4_BLOCK, end = block + QUANTIZED_CHUNK / NF4_BLOCK;
        end = min_i64(end, q.blocks);
        width = (end - block) * NF4_BLOCK;
        for (int64_t b = block; b < end; b++)
            nf4_lines(lines + (b - block) * NF4_BLOCK * PANEL_ROWS, &q, panel, b);
    } else if (layout_block(w->layout) == 1) {
        width = stored_chunk(lines, w, panel, first);
    } else {
        alignas(64) float values[QUANTIZED_CHUNK * PANEL_ROWS];
        width = stored_chunk(values, w, panel, first);
        turn_blocks(lines, values, width, layout_block(w->layout));
    }
    memset(lines + width * PANEL_ROWS, 0,
           (size_t)((QUANTIZED_CHUNK - width) * PANEL_ROWS) * sizeof *lines);
}

/* A step of 16 neighbours: a line, rounded where activations are bf16, or the pair of two. */
static inline void store_step(float *to, const struct product *p, const float *line) {
#if STRATA_ACT_BF16
    alignas(64) uint16_t even[16];
    v16_store_bf16(even, v16_load(line));
#if defined(__AVX512BF16__)
    if (p->pairs) {
        alignas(64) uint16_t odd[16];
        v16_store_bf16(odd, v16_load(line + 16));
        v16_store(to, v16_pair_bf16(even, odd));
        return;
    }
#endif
    (void)p;
    v16_store(to, v16_load_bf16(even));
#else
    (void)p;
    v16_store(to, v16_load(line));
#endif
}

/* A panel whose columns are the depth. */
static void widen_panel(float *to, const struct product *p, int64_t panel, int64_t first,
                        int64_t steps) {
    alignas(64) float lines[QUANTIZED_CHUNK * PANEL_ROWS];
    int64_t deep = p->pairs ? 2 : 1, chunk = -1;
    for (int64_t i = 0; i < steps; i++) {
        int64_t column = (first + i) * deep;
        if (column / QUANTIZED_CHUNK != chunk) {
            chunk = column / QUANTIZED_CHUNK;
            widen_chunk(lines, p->g.b.quantized, panel, chunk * QUANTIZED_CHUNK);
        }
        store_step(to + i * 16, p, lines + column % QUANTIZED_CHUNK * PANEL_ROWS);
    }
}

/* Sixteen columns over the sixteen rows of a panel, as steps of rows: to [row or pair][column]. */
static void across(float *to, const struct product *p, const float *columns, int64_t steps) {
    v16 rows[16];
    alignas(64) float lines[16 * 16];
    for (int i = 0; i < 16; i++) rows[i] = v16_load(columns + i * PANEL_ROWS);
    v16_transpose(rows);
    for (int i = 0; i < 16; i++) v16_store(lines + i * 16, rows[i]);
    for (int64_t i = 0; i < steps; i++)
        store_step(to + i * 16, p, lines + i * (p->pairs ? 2 : 1) * 16);
}

/* Panels of columns of a weight whose rows are the depth, over the rows of one of its own panels.
 */
static void widen_across(float *to, const struct product *p, int64_t panel, int64_t panels,
                         int64_t first, int64_t step, int64_t steps) {
    alignas(64) float lines[QUANTIZED_CHUNK * PANEL_ROWS];
    int64_t block = p->pairs ? 8 : 16, chunk = -1; /* steps of 16 rows */
    for (int64_t j = 0; j < panels; j++) {
        int64_t column = (panel + j) * 16;
        if (column / QUANTIZED_CHUNK != chunk) {
            chunk = column / QUANTIZED_CHUNK;
            widen_chunk(lines, p->g.b.quantized, (first + step) / block, chunk * QUANTIZED_CHUNK);
        }
        across(to + (j * steps + step) * 16, p, lines + column % QUANTIZED_CHUNK * PANEL_ROWS,
               min_i64(block, steps - step));
    }
}

void VARIANT(gemm_widen_b)(float *to, const struct product *p, int64_t panel, int64_t panels,
                           int64_t first, int64_t steps) {
    assert(first % 16 == 0);
    if (p->g.b.order == OPERAND_PANELS) {
        for (int64_t j = 0; j < panels; j++)
            widen_panel(to + j * steps * 16, p, panel + j, first, steps);
        return;
    }
    for (int64_t step = 0; step < steps; step += p->pairs ? 8 : 16)
        widen_across(to, p, panel, panels, first, step, steps);
}
