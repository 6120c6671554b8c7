/* Online softmax in base 2 over the 16 x 64 accumulators of mma.sync: each lane holds 16 scores of
 * two rows, and four neighbouring lanes share a row. Scores are unscaled; slope = scale * log2(e).
 */
#ifndef STRATA_KERNELS_GPU_SOFTMAX_H
#define STRATA_KERNELS_GPU_SOFTMAX_H

#include "kernels/gpu/gpu.h"

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

/* The greatest score of a row so far, and this lane's share of the sum of its weights. */
struct softmax_row {
    float max, sum;
};

/* The sum, or the maximum, over the four lanes of a row: (0 + 1) + (2 + 3). */
static __device__ __forceinline__ float sum_of_four(float value) {
    value += __shfl_xor_sync(GPU_ALL_LANES, value, 1);
    return value + __shfl_xor_sync(GPU_ALL_LANES, value, 2);
}

static __device__ __forceinline__ float max_of_four(float value) {
    value = fmaxf(value, __shfl_xor_sync(GPU_ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(GPU_ALL_LANES, value, 2));
}

/* The greatest of a block's 64 scores of row `half` (0, or 1 for the row 8 below). */
static __device__ __forceinline__ float softmax_greatest(const float (&s)[8][4], int half) {
    float max = -INFINITY;
#pragma unroll
    for (int n = 0; n < 8; n++) max = fmaxf(max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    return max_of_four(max);
}

/* What exp2 subtracts: 0 where nothing is seen, so that -infinity gives 0, never NaN. */
static __device__ __forceinline__ float softmax_base(float max) {
    return max == -INFINITY ? 0.0f : max;
}

/* What sums under `before` are multiplied by under `max`: exactly 1 where it did not grow. */
static __device__ __forceinline__ float softmax_factor(float before, float max, float slope) {
    return gpu_exp2((before - softmax_base(max)) * slope);
}

/* s = exp2((s - max) * slope) of row `half`; returns the lane's sum of them, columns ascending. */
static __device__ __forceinline__ float softmax_weights(float (&s)[8][4], int half, float max,
                                                        float slope) {
    const float base = -softmax_base(max) * slope;
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) {
            s[n][e] = gpu_exp2(fmaf(s[n][e], slope, base));
            sum += s[n][e];
        }
    }
    return sum;
}

/* log of the sum of exp(score * scale), natural; -infinity where nothing is seen. */
static __device__ __forceinline__ float softmax_lse(float max, float sum, float scale) {
    return fmaf(softmax_base(max), scale, LN_2 * gpu_log2(sum));
}

#endif
