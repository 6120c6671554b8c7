/* Runs of neighbours in memory, W to a thread, moved 16 bytes at a time where they are aligned and
 * whole. */
#ifndef STRATA_KERNELS_GPU_RUN_H
#define STRATA_KERNELS_GPU_RUN_H

#include "kernels/gpu/gpu.h"

template <class T, int W> struct alignas(sizeof(T) * W < 16 ? sizeof(T) * W : 16) gpu_run {
    T at[W];
};

template <class T, int W> __device__ __forceinline__ bool gpu_run_whole(const T *at, int64_t left) {
    return left >= W && (uintptr_t)at % alignof(struct gpu_run<T, W>) == 0;
}

/* The first of `left` elements at `from`, as fp32; what lies beyond reads as 0. */
template <int W, class T>
__device__ __forceinline__ void gpu_load_run(float (&values)[W], const T *from, int64_t left) {
    struct gpu_run<T, W> run = {};
    if (gpu_run_whole<T, W>(from, left)) {
        run = *(const struct gpu_run<T, W> *)from;
    } else {
#pragma unroll
        for (int i = 0; i < W; i++)
            if (i < left) run.at[i] = from[i];
    }
#pragma unroll
    for (int i = 0; i < W; i++) values[i] = to_f32(run.at[i]);
}

template <int W, class T>
__device__ __forceinline__ void gpu_store_run(T *to, const float (&values)[W], int64_t left) {
    struct gpu_run<T, W> run;
#pragma unroll
    for (int i = 0; i < W; i++) run.at[i] = from_f32<T>(values[i]);
    if (gpu_run_whole<T, W>(to, left)) {
        *(struct gpu_run<T, W> *)to = run;
    } else {
#pragma unroll
        for (int i = 0; i < W; i++)
            if (i < left) to[i] = run.at[i];
    }
}

#endif
