/* Tiles of rows of bf16 in shared memory, and products of them by mma.sync. Private to
 * kernels/attention_*.cu. */
#ifndef STRATA_KERNELS_GPU_ATTENTION_TILE_H
#define STRATA_KERNELS_GPU_ATTENTION_TILE_H

#include "kernels/gpu/attention_rows.h"
#include "kernels/gpu/tensor.h"

enum {
    TILE_ROWS = 64,      /* rows of a tile of keys, and of queries unless said otherwise */
    TILE_PAD = 8,        /* elements behind each row: rows lie an odd number of 16 bytes apart */
    TILE_STEPS = 64 / 16 /* k16 steps over a tile's rows */
};

/* Eight elements; zeros where absent. There after the copies' wait, or at once. */
static inline __device__ void copy_eight(struct bf16 *to, const void *data, bool wide, bool vector,
                                         int64_t at, int32_t present) {
    const struct bf16 *narrow = (const struct bf16 *)data;
    if (vector && !wide) {
        gpu_copy_async16(to, narrow + at, present > 0);
        return;
    }
    for (int e = 0; e < 8; e++) {
        if (e >= present)
            to[e] = from_f32<struct bf16>(0.0f);
        else
            to[e] = wide ? from_f32<struct bf16>(((const float *)data)[at + e]) : narrow[at + e];
    }
}

/* Rows [row, row + count) of `data`, WIDTH columns from `column`, to a tile of rows `pitch` apart;
 * those from `end` on, and columns from head_dim on, are zeros. */
template <int WIDTH>
static __device__ __forceinline__ void
copy_rows(struct bf16 *tile, int pitch, int count, const struct attention_job &job,
          const void *data, const struct row_map &map, int32_t row, int32_t end, int column) {
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < count * (WIDTH / 8); i += (int)blockDim.x) {
        int r = i / (WIDTH / 8), c = i % (WIDTH / 8) * 8;
        int32_t present = row + r < end ? job.head_dim - column - c : 0;
        int64_t at = present > 0 ? row_at(map, row + r) + column + c : 0;
        copy_eight(tile + r * pitch + c, data, map.wide, job.vector, at, present);
    }
}

/* s (16 rows a tile of M, 64) = a b^T, both of rows of D: each element one chain of k16 steps over
 * ascending columns. `a` is the warp's first row. */
template <int D, int M>
static __device__ __forceinline__ void multiply_rows(float (&s)[M][8][4], const struct bf16 *a,
                                                     const struct bf16 *b) {
    const int lane = gpu_lane(), pitch = D + TILE_PAD;
    const struct bf16 *from_a = a + lane % 16 * pitch + lane / 16 * 8;
    const struct bf16 *from_b = b + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < 8; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t fragment_a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
            gpu_ldmatrix_x4(fragment_a[m], from_a + m * 16 * pitch + k * 16);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            uint32_t fragment_b[4];
            gpu_ldmatrix_x4(fragment_b, from_b + n * 16 * pitch + k * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                gpu_mma_bf16(s[m][2 * n], fragment_a[m], fragment_b);
                gpu_mma_bf16(s[m][2 * n + 1], fragment_a[m], fragment_b + 2);
            }
        }
    }
}

/* A 16 x 64 accumulator rounded to bf16, as the left operand of a product over the 64. */
static __device__ __forceinline__ void pack_rows(uint32_t (&p)[TILE_STEPS][4],
                                                 const float (&s)[8][4]) {
#pragma unroll
    for (int k = 0; k < TILE_STEPS; k++) {
        p[k][0] = gpu_pack_bf16(s[2 * k][0], s[2 * k][1]);
        p[k][1] = gpu_pack_bf16(s[2 * k][2], s[2 * k][3]);
        p[k][2] = gpu_pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]);
        p[k][3] = gpu_pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3]);
    }
}

/* o (16 rows a tile of M, N) += p b over the 64 rows of b, in k16 steps over ascending rows. `b` is
 * the first of the N columns. */
template <int N, int PITCH, int M>
static __device__ __forceinline__ void multiply_columns(float (&o)[M][N / 8][4],
                                                        const uint32_t (&p)[M][TILE_STEPS][4],
                                                        const struct bf16 *b) {
    const int lane = gpu_lane();
    const struct bf16 *from = b + lane % 16 * PITCH + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < TILE_STEPS; k++) {
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            uint32_t fragment[4];
            gpu_ldmatrix_x4_trans(fragment, from + k * 16 * PITCH + n * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                gpu_mma_bf16(o[m][2 * n], p[m][k], fragment);
                gpu_mma_bf16(o[m][2 * n + 1], p[m][k], fragment + 2);
            }
        }
    }
}

/* Two neighbouring elements of a row of head_dim, as far as they are there. */
static __device__ __forceinline__ void store_pair(struct bf16 *row, int column, int head_dim,
                                                  float low, float high) {
    if (column + 1 < head_dim && head_dim % 2 == 0) {
        *(uint32_t *)(row + column) = gpu_pack_bf16(low, high);
        return;
    }
    if (column < head_dim) row[column] = from_f32<struct bf16>(low);
    if (column + 1 < head_dim) row[column + 1] = from_f32<struct bf16>(high);
}

/* Whether rows of these tensors can be copied in 16 bytes. */
static inline bool rows_align(int head_dim, const void *const *tensors, int count) {
    bool aligned = head_dim % 8 == 0;
    for (int i = 0; i < count; i++) aligned = aligned && (uintptr_t)tensors[i] % 16 == 0;
    return aligned;
}

#endif
