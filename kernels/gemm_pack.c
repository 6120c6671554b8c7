/* Copies of operands in the order the tiles read them: fp32, or pairs of bf16 in the bytes of a
 * float, which most loops here move as if they were floats. Whole blocks of 16 go through
 * registers; ragged edges, which are few, through element_at. */
#include "kernels/gemm.h"
#include "kernels/simd.h"

#include <assert.h>
#include <string.h>

enum { AHEAD_STEPS = 8 }; /* rows that are far apart are fetched so many steps before their use */

static float element_at(const struct operand *o, int64_t f, int64_t d) {
    int64_t at = 0;
    enum layout layout = o->bf16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32;
    int64_t cols = o->stride / PANEL_ROWS;
    switch (o->order) {
    case OPERAND_ROWS:
        at = f * o->stride + d;
        break;
    case OPERAND_COLUMNS:
        at = d * o->stride + f;
        break;
    case OPERAND_PANELS:
        at = weight_index(layout, cols, f, d);
        break;
    case OPERAND_PANELS_ACROSS:
        at = weight_index(layout, cols, d, f);
        break;
    }
    return o->bf16 ? bf16_to_f32(((const uint16_t *)o->data)[at]) : ((const float *)o->data)[at];
}

/* Step i of f: its element, or its pair, whose second half is zero beyond the depth. */
static float entry_at(const struct product *p, const struct operand *o, int64_t f, int64_t i) {
    if (!p->pairs) return element_at(o, f, i);
    uint32_t low = f32_to_bf16(element_at(o, f, 2 * i));
    uint32_t high = 2 * i + 1 < p->g.depth ? f32_to_bf16(element_at(o, f, 2 * i + 1)) : 0;
    uint32_t pair = low | high << 16;
    float entry;
    memcpy(&entry, &pair, sizeof entry);
    return entry;
}

/* Steps whose vectors lie within the operand: the last pair of an odd depth does not. */
static int64_t whole_steps(const struct product *p, int64_t first, int64_t steps) {
    int64_t whole = p->pairs ? p->g.depth / 2 : p->g.depth;
    return min_i64(steps, whole - first);
}

/* Sixteen steps along a row that starts at `at`. */
static v16 load_steps(const struct product *p, const struct operand *o, int64_t at) {
    const uint16_t *half = (const uint16_t *)o->data + at;
    if (p->pairs) return v16_load((const float *)(const void *)half);
    return o->bf16 ? v16_load_bf16(half) : v16_load((const float *)o->data + at);
}

/* One step of sixteen neighbours f. */
static v16 load_across(const struct product *p, const struct operand *o, int64_t f, int64_t i) {
#if defined(__AVX512BF16__)
    if (p->pairs) {
        const uint16_t *even = (const uint16_t *)o->data + 2 * i * o->stride + f;
        return v16_pair_bf16(even, even + o->stride);
    }
#else
    (void)p;
#endif
    int64_t at = i * o->stride + f;
    return o->bf16 ? v16_load_bf16((const uint16_t *)o->data + at)
                   : v16_load((const float *)o->data + at);
}

/* to [step][16] from rows f .. f + 15: blocks of 16 x 16 are transposed. */
static void pack_rows(float *to, const struct product *p, int64_t f, int64_t first, int64_t steps) {
    const struct operand *o = &p->g.b;
    int64_t whole = whole_steps(p, first, steps) / 16 * 16, deep = p->pairs ? 2 : 1;
    for (int64_t i = 0; i < whole; i += 16) {
        v16 rows[16];
        for (int r = 0; r < 16; r++)
            rows[r] = load_steps(p, o, (f + r) * o->stride + (first + i) * deep);
        v16_transpose(rows);
        for (int j = 0; j < 16; j++) v16_store(to + (i + j) * 16, rows[j]);
    }
    for (int64_t i = whole; i < steps; i++)
        for (int r = 0; r < 16; r++) to[i * 16 + r] = entry_at(p, o, f + r, first + i);
}

/* Rows as they lie. */
static void copy_rows(float *to, const struct product *p, int64_t row, int64_t rows, int64_t pitch,
                      int64_t first, int64_t steps) {
    const struct operand *o = &p->g.a;
    int64_t whole = whole_steps(p, first, steps) / 16 * 16, deep = p->pairs ? 2 : 1;
    for (int64_t r = 0; r < rows; r++) {
        float *line = to + r * pitch;
        for (int64_t i = 0; i < whole; i += 16)
            v16_store(line + i, load_steps(p, o, (row + r) * o->stride + (first + i) * deep));
        for (int64_t i = whole; i < steps; i++) line[i] = entry_at(p, o, row + r, first + i);
    }
}

/* `width` neighbours of each step. Vectors are loaded only where 16
 * neighbours exist. */
static void pack_columns(float *to, const struct product *p, int64_t f, int width, int64_t first,
                         int64_t steps) {
    const struct operand *o = &p->g.a;
    int64_t whole = f + 16 <= p->g.rows ? whole_steps(p, first, steps) : 0;
    for (int64_t i = 0; i < whole; i++) v16_store(to + i * width, load_across(p, o, f, first + i));
    for (int64_t i = whole; i < steps; i++)
        for (int r = 0; r < width; r++) to[i * width + r] = entry_at(p, o, f + r, first + i);
}

void VARIANT(gemm_pack_a)(float *to, const struct product *p, int64_t row, int64_t rows,
                          int64_t pitch, int64_t first, int64_t steps) {
    assert(first % 16 == 0);
    if (p->g.a.order == OPERAND_ROWS)
        copy_rows(to, p, row, rows, pitch, first, steps);
    else
        pack_columns(to, p, row, (int)rows, first, steps);
}

/* A ragged panel: entry by entry, zeros beyond the last column. */
static void pack_ragged(float *to, const struct product *p, int64_t panel, int64_t first,
                        int64_t steps) {
    int64_t f = panel * 16;
    for (int64_t i = 0; i < steps; i++)
        for (int64_t j = 0; j < 16; j++)
            to[i * 16 + j] = f + j < p->g.cols ? entry_at(p, &p->g.b, f + j, first + i) : 0.0f;
}

/* A weight's panel as the forward reads it; its own padding is zero. */
static void pack_panel(float *to, const struct product *p, int64_t panel, int64_t first,
                       int64_t steps) {
    const struct operand *b = &p->g.b;
    if (!b->bf16 || p->pairs) {
        const char *from = (const char *)b->data + panel * b->stride * (b->bf16 ? 2 : 4);
        memcpy(to, from + first * GEMM_LINE, (size_t)steps * GEMM_LINE);
        return;
    }
    const uint16_t *from = (const uint16_t *)b->data + panel * b->stride + first * 16;
    for (int64_t i = 0; i < steps; i += 2) {
        v16 pairs = v16_load((const float *)(const void *)(from + i * 16));
        v16_store(to + i * 16, v16_even_bf16(pairs));
        if (i + 1 < steps) v16_store(to + (i + 1) * 16, v16_odd_bf16(pairs));
    }
}

/* The same columns of the sixteen rows that are read next. */
static inline void fetch_block(const void *from, int lines) {
    for (int i = 0; i < lines; i++) __builtin_prefetch((const char *)from + i * GEMM_LINE);
}

/* Sixteen columns of a weight, f .. f + 15, over the sixteen rows of its panel d / 16, as fp32
 * lines: to [16 rows][16 columns]. */
static void across_f32(float *to, const struct operand *b, int64_t f, int64_t d) {
    v16 lines[16]; /* [column][row] */
    if (b->bf16) {
        const uint16_t *from = (const uint16_t *)b->data + d / 16 * b->stride + f * 16;
        fetch_block(from + b->stride, 8);
        for (int i = 0; i < 16; i += 2) {
            v16 pairs = v16_load((const float *)(const void *)(from + i * 16));
            lines[i] = v16_even_bf16(pairs);
            lines[i + 1] = v16_odd_bf16(pairs);
        }
    } else {
        const float *from = (const float *)b->data + d / 16 * b->stride + f * 16;
        fetch_block(from + b->stride, 16);
        for (int i = 0; i < 16; i++) lines[i] = v16_load(from + i * 16);
    }
    v16_transpose(lines);
    for (int i = 0; i < 16; i++) v16_store(to + i * 16, lines[i]);
}

#if defined(__AVX512BF16__)
/* The same as pairs of rows: to [8 pairs][16 columns]. A line of the weight holds, for each row,
 * the pair of columns (f, f + 1); swapping inside 2 x 2 blocks makes of it, for each pair of rows,
 * that of column f and that of f + 1. What is left is a transpose of 8 x 8 64-bit words. */
static void across_pairs(float *to, const struct operand *b, int64_t f, int64_t d) {
    const uint16_t *from = (const uint16_t *)b->data + d / 16 * b->stride + f * 16;
    const __m512i swap =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    __m512i line[8], pair[8], four[8];
    fetch_block(from + b->stride, 8);
    for (int i = 0; i < 8; i++)
        line[i] = _mm512_shuffle_epi8(_mm512_loadu_si512(from + i * 32), swap);
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm512_unpacklo_epi64(line[i], line[i + 1]); /* lane q: word 2q of both */
        pair[i + 1] = _mm512_unpackhi_epi64(line[i], line[i + 1]);
    }
    for (int i = 0; i < 2; i++) { /* words of even (i = 0) and of odd rows of words */
        __m512i a = _mm512_shuffle_i64x2(pair[i], pair[2 + i], 0x88); /* lanes 0, 2 | 0, 2 */
        __m512i c = _mm512_shuffle_i64x2(pair[i], pair[2 + i], 0xdd); /* lanes 1, 3 | 1, 3 */
        __m512i e = _mm512_shuffle_i64x2(pair[4 + i], pair[6 + i], 0x88);
        __m512i g = _mm512_shuffle_i64x2(pair[4 + i], pair[6 + i], 0xdd);
        four[i] = _mm512_shuffle_i64x2(a, e, 0x88);
        four[4 + i] = _mm512_shuffle_i64x2(a, e, 0xdd);
        four[2 + i] = _mm512_shuffle_i64x2(c, g, 0x88);
        four[6 + i] = _mm512_shuffle_i64x2(c, g, 0xdd);
    }
    for (int i = 0; i < 8; i++) _mm512_storeu_si512(to + i * 16, four[i]);
}
#endif

/* Whole panels of columns of a weight whose rows are the depth, to [panel][steps][16]. All panels
 * of sixteen rows lie together, so they are read together. The rows of a weight's last panel that
 * are padding are zero. */
static void pack_across(float *to, const struct product *p, int64_t panel, int64_t panels,
                        int64_t first, int64_t steps) {
    const struct operand *b = &p->g.b;
    int64_t block = p->pairs ? 8 : 16, i = 0; /* steps of 16 rows */
    for (; i + block <= steps; i += block) {
        for (int64_t j = 0; j < panels; j++) {
            float *at = to + (j * steps + i) * 16;
#if defined(__AVX512BF16__)
            if (p->pairs) {
                across_pairs(at, b, (panel + j) * 16, (first + i) * 2);
                continue;
            }
#endif
            across_f32(at, b, (panel + j) * 16, first + i);
        }
    }
    for (; i < steps; i++)
        for (int64_t j = 0; j < panels * 16; j++)
            to[(j / 16 * steps + i) * 16 + j % 16] = entry_at(p, b, panel * 16 + j, first + i);
}

/* Whole panels side by side, so that runs of lines are read at once. */
static void pack_side_by_side(float *to, const struct product *p, int64_t panel, int64_t panels,
                              int64_t first, int64_t steps) {
    const struct operand *b = &p->g.b;
    int64_t whole = whole_steps(p, first, steps), deep = p->pairs ? 2 : 1;
    int64_t row = b->stride * (b->bf16 ? 2 : 4), line = b->bf16 ? 32 : 64; /* bytes */
    const char *ahead = (const char *)b->data + (first + AHEAD_STEPS) * deep * row + panel * line;
    for (int64_t i = 0; i < whole; i++, ahead += deep * row) {
        for (int64_t j = 0; j < panels; j++) {
            __builtin_prefetch(ahead + j * line);
            __builtin_prefetch(ahead + (deep - 1) * row + j * line);
            v16_store(to + (j * steps + i) * 16, load_across(p, b, (panel + j) * 16, first + i));
        }
    }
    for (int64_t i = whole; i < steps; i++)
        for (int64_t j = 0; j < panels * 16; j++)
            to[(j / 16 * steps + i) * 16 + j % 16] = entry_at(p, b, panel * 16 + j, first + i);
}

void VARIANT(gemm_pack_b)(float *to, const struct product *p, int64_t panel, int64_t panels,
                          int64_t first, int64_t steps) {
    assert(first % 16 == 0);
    const struct operand *b = &p->g.b;
    if (b->quantized) {
        VARIANT(gemm_widen_b)(to, p, panel, panels, first, steps);
        return;
    }
    int64_t whole = b->order == OPERAND_PANELS ? panels : min_i64(panels, p->g.cols / 16 - panel);
    if (b->order == OPERAND_COLUMNS) pack_side_by_side(to, p, panel, whole, first, steps);
    if (b->order == OPERAND_PANELS_ACROSS) pack_across(to, p, panel, whole, first, steps);
    for (int64_t i = 0; i < whole; i++) {
        float *at = to + i * steps * 16;
        if (b->order == OPERAND_PANELS)
            pack_panel(at, p, panel + i, first, steps);
        else if (b->order == OPERAND_ROWS)
            pack_rows(at, p, (panel + i) * 16, first, steps);
    }
    if (whole < panels) pack_ragged(to + whole * steps * 16, p, panel + whole, first, steps);
}
