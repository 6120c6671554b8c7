/* NF4 in plain loops. Compiled with -O3: quantizing a model at load is bound by it. */
#include "kernels/quantized.h"

#include "kernels/base/units.h"
#include <assert.h>
#include <math.h>
#include <string.h>

const float nf4_levels[16] = NF4_LEVELS;

enum { ZERO_CODE = 7 };

static int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static inline bool is_nf4(enum layout layout) { /* in asserts alone */
    return layout >= LAYOUT_NF4 && layout < LAYOUT_STORED;
}

enum layout layout_nf4(int64_t whole_cols) {
    int64_t blocks = divide_up(whole_cols, NF4_BLOCK);
    int power = 0;
    while (power < 4 && (blocks << (power + 1)) <= NF4_GROUP) power++;
    return (enum layout)(LAYOUT_NF4 + power);
}

size_t nf4_bytes(enum layout layout, int64_t rows, int64_t cols) {
    assert(is_nf4(layout));
    int64_t panels = divide_up(rows, PANEL_ROWS), blocks = divide_up(cols, NF4_BLOCK);
    int64_t block = PANEL_ROWS * (NF4_BLOCK / 2 + 1), groups = PANEL_ROWS >> (layout - LAYOUT_NF4);
    return (size_t)panels * (size_t)(blocks * block + groups * (int64_t)sizeof(float));
}

struct nf4 nf4_of(const struct weight *weight) {
    assert(is_nf4(weight->layout));
    int64_t panels = divide_up(weight->rows, PANEL_ROWS);
    struct nf4 q = {.codes = weight->data,
                    .blocks = divide_up(weight->cols, NF4_BLOCK),
                    .group_rows = 1 << (weight->layout - LAYOUT_NF4)};
    q.absmax = (uint8_t *)(q.codes + panels * q.blocks * (NF4_BLOCK / 8) * PANEL_ROWS);
    q.scales = (float *)(void *)(q.absmax + panels * q.blocks * PANEL_ROWS);
    return q;
}

static float largest_of(const float *values, int64_t count) {
    float largest = 0.0f;
    for (int64_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(values[i]));
    return largest;
}

/* The c whose square is nearest. */
static int code_of_absmax(float absmax, float scale) {
    if (!(scale > 0.0f)) return 0;
    float ratio = absmax / scale;
    int c = (int)(sqrtf(ratio) * 255.0f);
    c = c > 0 ? c - 1 : 0; /* the root is rounded */
    while (c < 255 && ratio > (float)(c * c + (c + 1) * (c + 1)) / 130050.0f) c++;
    return c;
}

/* Codes of `count` elements; those that are missing of a block are zeros. */
static void encode(uint8_t codes[NF4_BLOCK], const float *values, int64_t count, float absmax) {
    float middle[15];
    for (int i = 0; i < 15; i++) middle[i] = (nf4_levels[i] + nf4_levels[i + 1]) / 2.0f;
    memset(codes, ZERO_CODE, NF4_BLOCK);
    for (int64_t i = 0; i < count; i++) {
        float x = values[i] / absmax;
        int code = 0;
        for (int j = 0; j < 15; j++) code += x > middle[j];
        codes[i] = (uint8_t)code;
    }
}

/* One row's share of a block: `count` elements, or none of a row that pads the panel. */
static void pack_block(const struct nf4 *q, int64_t at, int lane, const float *values,
                       int64_t count, float scale) {
    uint8_t codes[NF4_BLOCK];
    float absmax = largest_of(values, count);
    int c = code_of_absmax(absmax, scale);
    encode(codes, values, c > 0 ? count : 0, absmax);
    q->absmax[at * PANEL_ROWS + lane] = (uint8_t)c;
    for (int i = 0; i < NF4_BLOCK / 8; i++) {
        uint32_t word = 0;
        for (int j = 0; j < 8; j++) word |= (uint32_t)codes[8 * i + j] << (4 * j);
        q->codes[(at * (NF4_BLOCK / 8) + i) * PANEL_ROWS + lane] = word;
    }
}

void nf4_pack(const struct weight *weight, int64_t first, int64_t count, const float *src,
              int64_t whole_cols, int64_t first_col) {
    struct nf4 q = nf4_of(weight);
    int64_t cols = weight->cols;
    float scale = 0.0f;
    for (int64_t row = 0; row < divide_up(count, PANEL_ROWS) * PANEL_ROWS; row++) {
        int64_t panel = (first + row) / PANEL_ROWS;
        int lane = (int)(row % PANEL_ROWS);
        if (lane % q.group_rows == 0) {
            int64_t rows = row < count ? min_i64(q.group_rows, count - row) : 0;
            scale = largest_of(src + (rows ? row : 0) * whole_cols, rows * whole_cols);
            if (scale < 0x1p-64f) scale = 0.0f; /* far from where products lose bits */
            q.scales[(panel * PANEL_ROWS + lane) / q.group_rows] = scale;
        }
        for (int64_t b = 0; b < q.blocks; b++) {
            int64_t width = row < count ? min_i64(NF4_BLOCK, cols - b * NF4_BLOCK) : 0;
            const float *values = width ? src + row * whole_cols + first_col + b * NF4_BLOCK : src;
            pack_block(&q, panel * q.blocks + b, lane, values, width, scale);
        }
    }
}
