/* What the kernels of products share (kernels/product_cuda.h): C as they read and write it, and, on
 * tensor cores, tiles in shared memory and a warp's sums. */
#ifndef STRATA_KERNELS_GPU_PRODUCT_H
#define STRATA_KERNELS_GPU_PRODUCT_H

#include "kernels/gpu/gpu.h"
#include "kernels/gpu/tensor.h"
#include "kernels/product_cuda.h"

__device__ __forceinline__ float gpu_load_c(const struct cuda_product &p, int64_t at) {
    return p.c_bf16 ? to_f32(((const struct bf16 *)p.c)[at]) : ((const float *)p.c)[at];
}

__device__ __forceinline__ void gpu_store_c(const struct cuda_product &p, int64_t at, float x) {
    if (p.c_bf16)
        ((struct bf16 *)p.c)[at] = from_f32<struct bf16>(x);
    else
        ((float *)p.c)[at] = x;
}

static constexpr int TENSOR_STEP = 64; /* k is rounded up to it, by zeros, in every kernel */
static constexpr int TENSOR_CHUNK = 8; /* elements of 16 bytes */

struct alignas(16) tensor_chunk {
    struct bf16 at[TENSOR_CHUNK];
};

/* Eight elements of a line, `count` of which exist, without any alignment. */
__device__ __forceinline__ struct tensor_chunk tensor_carry(const struct bf16 *from,
                                                            int64_t count) {
    struct tensor_chunk chunk;
#pragma unroll
    for (int i = 0; i < TENSOR_CHUNK; i++) {
        struct bf16 zero = {0};
        chunk.at[i] = i < count ? from[i] : zero;
    }
    return chunk;
}

/* Where chunk `column` of a line lies in a tile. */
template <int WIDTH> __device__ __forceinline__ int tensor_place(int line, int column) {
    return line * WIDTH + ((column ^ (line & 7)) * TENSOR_CHUNK);
}

/* The fragments of C that a warp owns: 16 HIGH rows, 8 WIDE columns. */
template <int HIGH, int WIDE> struct tensor_sums { float at[HIGH][WIDE][4]; };

/* Neighbours in a row of C: elements 0 and 1, or 2 and 3, of a lane's four. */
struct tensor_pair {
    int64_t row, col;
    int count; /* how many of the two exist */
};

/* Half `half` of fragment (i, j) of the warp's part, whose first element is (row, col). */
__device__ __forceinline__ struct tensor_pair
tensor_pair_at(const struct cuda_product &p, int64_t row, int64_t col, int i, int j, int half) {
    struct tensor_pair pair = {row + 16 * i + 8 * half + gpu_lane() / 4,
                               col + 8 * j + gpu_lane() % 4 * 2, 0};
    const int64_t left = pair.row < p.m ? p.n - pair.col : 0;
    pair.count = left > 1 ? 2 : left > 0 ? 1 : 0;
    return pair;
}

template <int HIGH, int WIDE>
__device__ __forceinline__ void tensor_begin(struct tensor_sums<HIGH, WIDE> *sums,
                                             const struct cuda_product &p, int64_t row,
                                             int64_t col) {
#pragma unroll
    for (int i = 0; i < HIGH; i++)
#pragma unroll
        for (int j = 0; j < WIDE; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const struct tensor_pair pair = tensor_pair_at(p, row, col, i, j, half);
                const int64_t at = pair.row * p.c_stride + pair.col;
                float *sum = &sums->at[i][j][2 * half];
                sum[0] = p.accumulate && pair.count > 0 ? gpu_load_c(p, at) : 0.0f;
                sum[1] = p.accumulate && pair.count > 1 ? gpu_load_c(p, at + 1) : 0.0f;
            }
}

/* Whether C is bf16 and its pairs lie at multiples of 4 bytes. */
static inline bool tensor_pairs_aligned(const struct cuda_product *p) {
    return p->c_bf16 && (uintptr_t)p->c % 4 == 0 && p->c_stride % 2 == 0;
}

__device__ __forceinline__ void tensor_store(const struct cuda_product &p, bool pairs,
                                             const struct tensor_pair &pair, float x, float y) {
    const int64_t at = pair.row * p.c_stride + pair.col;
    if (p.bias && pair.count > 0) x += p.bias[pair.col];
    if (p.bias && pair.count > 1) y += p.bias[pair.col + 1];
    if (pairs && pair.count == 2) {
        *(uint32_t *)((struct bf16 *)p.c + at) = gpu_pack_bf16(x, y);
        return;
    }
    if (pair.count > 0) gpu_store_c(p, at, x);
    if (pair.count > 1) gpu_store_c(p, at + 1, y);
}

template <int HIGH, int WIDE>
__device__ __forceinline__ void tensor_end(const struct tensor_sums<HIGH, WIDE> *sums,
                                           const struct cuda_product &p, bool pairs, int64_t row,
                                           int64_t col) {
#pragma unroll
    for (int i = 0; i < HIGH; i++)
#pragma unroll
        for (int j = 0; j < WIDE; j++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                tensor_store(p, pairs, tensor_pair_at(p, row, col, i, j, half),
                             sums->at[i][j][2 * half], sums->at[i][j][2 * half + 1]);
}

#endif
