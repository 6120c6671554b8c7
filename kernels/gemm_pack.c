/* Copies of operands in the order the tiles read them. Whole blocks of 16 go through registers;
 * ragged edges, which are few, through element_at. */
#include "kernels/gemm.h"
#include "kernels/simd.h"

#include <assert.h>
#include <string.h>

static v16 load16(const struct operand *o, int64_t at) {
    return o->bf16 ? v16_load_bf16((const uint16_t *)o->data + at)
                   : v16_load((const float *)o->data + at);
}

static float load1(const struct operand *o, int64_t at) {
    return o->bf16 ? bf16_to_f32(((const uint16_t *)o->data)[at]) : ((const float *)o->data)[at];
}

static int64_t depth_inner_at(const struct operand *o, int64_t f, int64_t d) {
    return f * o->stride + d / 16 * o->block + d % 16;
}

/* to [depth][width], width <= 16, from an operand whose depth is inner. Writes whole vectors: up
 * to 15 floats beyond the last row. */
static void pack_across(float *to, const struct operand *o, int64_t f, int width, int64_t first,
                        int64_t depth) {
    assert(first % 16 == 0);
    int64_t whole = depth / 16 * 16;
    for (int64_t d = 0; d < whole; d += 16) {
        v16 rows[16];
        for (int r = 0; r < 16; r++)
            rows[r] = r < width ? load16(o, depth_inner_at(o, f + r, first + d)) : v16_zero();
        v16_transpose(rows);
        for (int i = 0; i < 16; i++) v16_store(to + (d + i) * width, rows[i]);
    }
    for (int64_t d = whole; d < depth; d++)
        for (int r = 0; r < width; r++)
            to[d * width + r] = load1(o, depth_inner_at(o, f + r, first + d));
}

/* One row as it lies: decode. */
static void pack_single(float *to, const struct operand *o, int64_t f, int64_t first,
                        int64_t depth) {
    int64_t whole = depth / 16 * 16;
    for (int64_t d = 0; d < whole; d += 16)
        v16_store(to + d, load16(o, depth_inner_at(o, f, first + d)));
    for (int64_t d = whole; d < depth; d++) to[d] = load1(o, depth_inner_at(o, f, first + d));
}

/* All strips of one depth at a time, so that the source is read along its lines. */
static void pack_along(float *to, const struct operand *a, int64_t row, int64_t rows, int strip,
                       int64_t first, int64_t depth) {
    int64_t whole = strip == GEMM_ROWS ? rows / GEMM_ROWS * GEMM_ROWS : 0;
    for (int64_t d = 0; d < depth; d++) {
        int64_t at = (first + d) * a->stride + row;
        float *line = to + d * GEMM_ROWS;
        if (a->bf16) {
            const uint16_t *from = (const uint16_t *)a->data + at;
            for (int64_t r = 0; r < whole; r += GEMM_ROWS)
                for (int i = 0; i < GEMM_ROWS; i++) line[r * depth + i] = bf16_to_f32(from[r + i]);
        } else {
            const float *from = (const float *)a->data + at;
            for (int64_t r = 0; r < whole; r += GEMM_ROWS)
                memcpy(line + r * depth, from + r, GEMM_ROWS * sizeof *from);
        }
        for (int64_t r = whole; r < rows; r += strip) {
            int width = (int)(rows - r < strip ? rows - r : strip);
            for (int i = 0; i < width; i++) to[r * depth + d * width + i] = load1(a, at + r + i);
        }
    }
}

void VARIANT(gemm_pack_a)(float *to, const struct operand *a, int64_t row, int64_t rows, int strip,
                          int64_t first, int64_t depth) {
    if (a->order == OPERAND_DEPTH_OUTER) {
        pack_along(to, a, row, rows, strip, first, depth);
        return;
    }
    for (int64_t r = 0; r < rows; r += strip) {
        int width = (int)(rows - r < strip ? rows - r : strip);
        if (width == 1)
            pack_single(to + r * depth, a, row + r, first, depth);
        else
            pack_across(to + r * depth, a, row + r, width, first, depth);
    }
}

/* The last panel of an operand that is no packed weight: a column at a time, zeros beyond. */
static void pack_ragged(float *to, const struct operand *b, int64_t f, int width, int64_t first,
                        int64_t depth) {
    memset(to, 0, (size_t)depth * 16 * sizeof *to);
    for (int64_t d = 0; d < depth; d++) {
        for (int i = 0; i < width; i++) {
            int64_t at = b->order == OPERAND_DEPTH_OUTER ? (first + d) * b->stride + f + i
                                                         : depth_inner_at(b, f + i, first + d);
            to[d * 16 + i] = load1(b, at);
        }
    }
}

/* Whole panels side by side, so that a run of lines is read at once. */
static void pack_side_by_side(float *to, int64_t stride, const struct operand *b, int64_t panel,
                              int64_t panels, int64_t first, int64_t depth) {
    for (int64_t d = 0; d < depth; d++) {
        int64_t at = (first + d) * b->stride + panel * 16;
        for (int64_t p = 0; p < panels; p++)
            v16_store(to + p * stride + d * 16, load16(b, at + p * 16));
    }
}

void VARIANT(gemm_pack_b)(float *to, int64_t stride, const struct operand *b, int64_t cols,
                          int64_t panel, int64_t panels, int64_t first, int64_t depth) {
    if (b->order == OPERAND_PANELS) { /* a weight's own padding is zero */
        for (int64_t p = 0; p < panels; p++)
            for (int64_t d = 0; d < depth; d++)
                v16_store(to + p * stride + d * 16,
                          load16(b, (panel + p) * b->stride + (first + d) * 16));
        return;
    }
    int64_t whole = cols / 16 - panel < panels ? cols / 16 - panel : panels;
    if (b->order == OPERAND_DEPTH_OUTER) {
        pack_side_by_side(to, stride, b, panel, whole, first, depth);
    } else {
        for (int64_t d = 0; d < depth; d += 16)
            for (int64_t p = 0; p < whole; p++)
                pack_across(to + p * stride + d * 16, b, (panel + p) * 16, 16, first + d,
                            depth - d < 16 ? depth - d : 16);
    }
    if (whole < panels)
        pack_ragged(to + whole * stride, b, (panel + whole) * 16, (int)(cols % 16), first, depth);
}
