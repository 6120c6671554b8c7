/* Quantized weights on the device: eight neighbours of a row at a time, with the values of
 * kernels/dequantize.c and kernels/quantized.c, bit for bit. A value is a * v + b of a small
 * integer v, two rounded operations: b is -0 in formats without an offset, which adds nothing, and
 * the sign of what they subtract is in b. */
#ifndef STRATA_KERNELS_GPU_QUANTIZED_H
#define STRATA_KERNELS_GPU_QUANTIZED_H

#include "kernels/gpu/gpu.h"
#include "kernels/gpu/host.h"
extern "C" {
#include "kernels/quantized.h"
}

/* A weight in LAYOUT_STORED + type or LAYOUT_NF4 + i. Data of 16 rows and 256 columns (fewer at the
 * end of a row) lie together, a chunk; of NF4, its c lie apart, and its scales. */
struct gpu_quantized {
    const uint8_t *data;
    enum dtype type; /* DTYPE_COUNT: NF4 */
    int64_t rows, cols;
    int64_t blocks; /* of a row */
    int block_elements, block_bytes;
    const uint8_t *absmax;
    const float *scales;
    int group_rows;
};

struct gpu_eight {
    int v[8];
    float a, b;
};

/* Eight bytes at an even address, the first the lowest. */
__device__ __forceinline__ uint64_t gpu_bytes(const uint8_t *at) {
    const uint16_t *half = (const uint16_t *)at;
    return (uint64_t)half[0] | (uint64_t)half[1] << 16 | (uint64_t)half[2] << 32 |
           (uint64_t)half[3] << 48;
}

__device__ __forceinline__ float gpu_f16(const uint8_t *at) {
    const struct f16 value = {*(const uint16_t *)at};
    return to_f32(value);
}

/* v = eight fields of `bits` bits, one in each byte, `shift` up. */
__device__ __forceinline__ void gpu_fields(int v[8], uint64_t bytes, int shift, int bits) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = (int)(bytes >> (8 * i + shift)) & ((1 << bits) - 1);
}

/* v += one bit of each byte, `shift` up, worth `weight`. */
__device__ __forceinline__ void gpu_add_bits(int v[8], uint64_t bytes, int shift, int weight) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] += ((int)(bytes >> (8 * i + shift)) & 1) * weight;
}

__device__ __forceinline__ void gpu_shift_by(int v[8], int offset) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] += offset;
}

/* Q4_0, Q4_1, Q5_0, Q5_1: {d f16[, m f16][, high u32], q u8[16]}, two elements a byte. */
__device__ __forceinline__ void gpu_eight_of_32(struct gpu_eight *e, const uint8_t *block, int at,
                                                bool has_min, bool has_high) {
    e->a = gpu_f16(block);
    block += 2;
    if (has_min) {
        e->b = gpu_f16(block);
        block += 2;
    }
    const uint16_t *half = (const uint16_t *)block;
    const uint32_t high = has_high ? half[0] | (uint32_t)half[1] << 16 : 0;
    if (has_high) block += 4;
    gpu_fields(e->v, gpu_bytes(block + at % 16), at / 16 * 4, 4);
#pragma unroll
    for (int i = 0; i < 8; i++) e->v[i] |= (int)(high >> (at + i) & 1) << 4;
    if (!has_min) gpu_shift_by(e->v, has_high ? -16 : -8);
}

__device__ __forceinline__ int gpu_signed(int byte) {
    return (byte ^ 128) - 128;
}

__device__ __forceinline__ void gpu_eight_q8_0(struct gpu_eight *e, const uint8_t *block, int at) {
    e->a = gpu_f16(block);
    gpu_fields(e->v, gpu_bytes(block + 2 + at), 0, 8);
#pragma unroll
    for (int i = 0; i < 8; i++) e->v[i] = gpu_signed(e->v[i]);
}

__device__ __forceinline__ void gpu_eight_q2_k(struct gpu_eight *e, const uint8_t *block, int at) {
    const int g = at / 16, scales = block[g];
    e->a = gpu_f16(block + 80) * (float)(scales & 15);
    e->b = -(gpu_f16(block + 82) * (float)(scales >> 4));
    gpu_fields(e->v, gpu_bytes(block + 16 + 32 * (g / 8) + at % 32), 2 * (g % 8 / 2), 2);
}

__device__ __forceinline__ void gpu_eight_q3_k(struct gpu_eight *e, const uint8_t *block, int at) {
    const uint8_t *scales = block + 96;
    const int g = at / 16;
    const int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
    const int two = scales[8 + g % 4] >> (2 * (g / 4)) & 3;
    e->a = gpu_f16(block + 108) * (float)((low | two << 4) - 32);
    gpu_fields(e->v, gpu_bytes(block + 32 + 32 * (g / 8) + at % 32), 2 * (g % 8 / 2), 2);
    gpu_add_bits(e->v, gpu_bytes(block + at % 32), g / 2, 4);
    gpu_shift_by(e->v, -4);
}

/* Q4_K and Q5_K: {d, dmin f16, scales u8[12][, high u8[32]], q u8[128]}. */
__device__ __forceinline__ void gpu_eight_q45_k(struct gpu_eight *e, const uint8_t *block, int at,
                                                bool has_high) {
    const uint8_t *packed = block + 4;
    const int g = at / 32;
    int scale, min;
    if (g < 4) {
        scale = packed[g] & 63;
        min = packed[g + 4] & 63;
    } else {
        scale = (packed[g + 4] & 15) | packed[g - 4] >> 6 << 4;
        min = packed[g + 4] >> 4 | packed[g] >> 6 << 4;
    }
    e->a = gpu_f16(block) * (float)scale;
    e->b = -(gpu_f16(block + 2) * (float)min);
    const uint8_t *q = block + (has_high ? 48 : 16);
    gpu_fields(e->v, gpu_bytes(q + 32 * (g / 2) + at % 32), 4 * (g % 2), 4);
    if (has_high) gpu_add_bits(e->v, gpu_bytes(block + 16 + at % 32), g, 16);
}

__device__ __forceinline__ void gpu_eight_q6_k(struct gpu_eight *e, const uint8_t *block, int at) {
    const int half = at / 128, group = at % 128 / 32;
    int high[8];
    e->a = gpu_f16(block + 208) * (float)gpu_signed(block[192 + at / 16]);
    gpu_fields(e->v, gpu_bytes(block + 64 * half + 32 * (group % 2) + at % 32), 4 * (group / 2), 4);
    gpu_fields(high, gpu_bytes(block + 128 + 32 * half + at % 32), 2 * group, 2);
#pragma unroll
    for (int i = 0; i < 8; i++) e->v[i] = (e->v[i] | high[i] << 4) - 32;
}

/* The sixteen levels of IQ4_NL and IQ4_XS, eight a word, biased by 128. */
__device__ __forceinline__ int gpu_iq4_level(int code) {
    const uint64_t low = 0x766a5d4f3f2d1801ull;
    const uint64_t high = 0xf1d9c5b5a6998d81ull;
    return (int)((code < 8 ? low : high) >> (code % 8 * 8) & 255) - 128;
}

__device__ __forceinline__ void gpu_eight_iq4_nl(struct gpu_eight *e, const uint8_t *block,
                                                 int at) {
    e->a = gpu_f16(block);
    gpu_fields(e->v, gpu_bytes(block + 2 + at % 16), at / 16 * 4, 4);
#pragma unroll
    for (int i = 0; i < 8; i++) e->v[i] = gpu_iq4_level(e->v[i]);
}

__device__ __forceinline__ void gpu_eight_iq4_xs(struct gpu_eight *e, const uint8_t *block,
                                                 int at) {
    const int g = at / 32, high = *(const uint16_t *)(block + 2);
    const int scale = (block[4 + g / 2] >> (4 * (g % 2)) & 15) | (high >> (2 * g) & 3) << 4;
    e->a = gpu_f16(block) * (float)(scale - 32);
    gpu_fields(e->v, gpu_bytes(block + 8 + 16 * g + at % 16), at % 32 / 16 * 4, 4);
#pragma unroll
    for (int i = 0; i < 8; i++) e->v[i] = gpu_iq4_level(e->v[i]);
}

/* Elements at .. at + 7 of a block; `at` is a multiple of 8. */
__device__ __forceinline__ void gpu_eight_of_block(float out[8], enum dtype type,
                                                   const uint8_t *block, int at) {
    struct gpu_eight e = {{0, 0, 0, 0, 0, 0, 0, 0}, 0.0f, -0.0f};
    switch (type) {
    case DTYPE_Q4_0:
        gpu_eight_of_32(&e, block, at, false, false);
        break;
    case DTYPE_Q4_1:
        gpu_eight_of_32(&e, block, at, true, false);
        break;
    case DTYPE_Q5_0:
        gpu_eight_of_32(&e, block, at, false, true);
        break;
    case DTYPE_Q5_1:
        gpu_eight_of_32(&e, block, at, true, true);
        break;
    case DTYPE_Q8_0:
        gpu_eight_q8_0(&e, block, at);
        break;
    case DTYPE_Q2_K:
        gpu_eight_q2_k(&e, block, at);
        break;
    case DTYPE_Q3_K:
        gpu_eight_q3_k(&e, block, at);
        break;
    case DTYPE_Q4_K:
        gpu_eight_q45_k(&e, block, at, false);
        break;
    case DTYPE_Q5_K:
        gpu_eight_q45_k(&e, block, at, true);
        break;
    case DTYPE_Q6_K:
        gpu_eight_q6_k(&e, block, at);
        break;
    case DTYPE_IQ4_NL:
        gpu_eight_iq4_nl(&e, block, at);
        break;
    default:
        gpu_eight_iq4_xs(&e, block, at);
        break;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = e.a * (float)e.v[i] + e.b;
}

__device__ __forceinline__ float gpu_nf4_level(int code) {
    static constexpr float levels[16] = NF4_LEVELS;
    return levels[code];
}

/* Columns column .. column + 7 of row `lane` of a chunk, whose first column is a multiple of 256
 * and lies at `data` (global or shared). The chunk holds `columns`; what lies beyond reads as 0. */
__device__ __forceinline__ void gpu_eight_of_chunk(float out[8], const struct gpu_quantized &w,
                                                   const uint8_t *data, const uint8_t *absmax,
                                                   int64_t row, int column, int columns) {
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = 0.0f;
    if (column >= columns) return;
    const int lane = (int)(row % PANEL_ROWS);
    if (w.type == DTYPE_COUNT) {
        const int block = column / NF4_BLOCK;
        const uint32_t word =
            ((const uint32_t *)(const void *)data)[column / 8 * PANEL_ROWS + lane];
        const int c = absmax[block * PANEL_ROWS + lane];
        const float largest = w.scales[row / w.group_rows] * ((float)(c * c) / 65025.0f);
#pragma unroll
        for (int i = 0; i < 8; i++)
            out[i] = column + i < columns ? gpu_nf4_level(word >> (4 * i) & 15) * largest : 0.0f;
        return;
    }
    if (w.block_elements == 1) { /* F16 */
#pragma unroll
        for (int i = 0; i < 8; i++)
            out[i] = column + i < columns ? gpu_f16(data + ((column + i) * PANEL_ROWS + lane) * 2)
                                          : 0.0f;
        return;
    }
    const uint8_t *block = data + (column / w.block_elements * PANEL_ROWS + lane) * w.block_bytes;
    gpu_eight_of_block(out, w.type, block, column % w.block_elements);
}

/* Bytes of a chunk of 256 columns, c apart. */
__device__ __forceinline__ int64_t gpu_chunk_bytes(const struct gpu_quantized &w) {
    return (int64_t)(QUANTIZED_CHUNK / w.block_elements) * w.block_bytes * PANEL_ROWS;
}

/* Where panel `panel`'s data begin. */
__device__ __forceinline__ const uint8_t *gpu_panel_at(const struct gpu_quantized &w,
                                                       int64_t panel) {
    return w.data + panel * w.blocks * w.block_bytes * PANEL_ROWS;
}

/* On the host. */
static inline struct gpu_quantized gpu_quantized_of(const struct weight *w) {
    struct gpu_quantized q = {};
    q.data = (const uint8_t *)w->data;
    q.rows = w->rows;
    q.cols = w->cols;
    if (w->layout >= LAYOUT_STORED) {
        q.type = layout_stored_type(w->layout);
        q.block_elements = dtype_info(q.type)->block_elements;
        q.block_bytes = dtype_info(q.type)->block_bytes;
        q.blocks = w->cols / q.block_elements;
        return q;
    }
    const struct nf4 nf4 = nf4_of(w);
    q.type = DTYPE_COUNT;
    q.block_elements = NF4_BLOCK;
    q.block_bytes = NF4_BLOCK / 2;
    q.blocks = nf4.blocks;
    q.absmax = nf4.absmax;
    q.scales = nf4.scales;
    q.group_rows = nf4.group_rows;
    return q;
}

#endif
