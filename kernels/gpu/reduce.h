/* Sums and maxima over a warp or a block, in one fixed order: a tree over lanes, then over warps.
 * Every thread gets the result. */
#ifndef STRATA_KERNELS_GPU_REDUCE_H
#define STRATA_KERNELS_GPU_REDUCE_H

#include "kernels/gpu/gpu.h"

enum gpu_reduction { GPU_SUM, GPU_MAX };

template <enum gpu_reduction R, class T> __device__ __forceinline__ T gpu_combine(T a, T b) {
    return R == GPU_SUM ? a + b : (a < b ? b : a);
}

/* Over `LANES` neighbours of a warp (a power of two). */
template <enum gpu_reduction R, int LANES = GPU_WARP, class T>
__device__ __forceinline__ T gpu_reduce_warp(T value) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2)
        value = gpu_combine<R>(value, __shfl_xor_sync(GPU_ALL_LANES, value, step));
    return value;
}

/* Over a block of `THREADS` (a multiple of 32). `partial` (32 values) is shared memory; it may be
 * used again after the next __syncthreads. */
template <enum gpu_reduction R, int THREADS, class T>
__device__ __forceinline__ T gpu_reduce_block(T value, T *partial) {
    constexpr int warps = THREADS / GPU_WARP;
    static_assert(THREADS % GPU_WARP == 0 && warps <= GPU_WARP, "whole warps");
    value = gpu_reduce_warp<R>(value);
    if (gpu_lane() == 0) partial[gpu_warp()] = value;
    __syncthreads();
    value = partial[0];
    for (int i = 1; i < warps; i++) value = gpu_combine<R>(value, partial[i]);
    return value;
}

#endif
