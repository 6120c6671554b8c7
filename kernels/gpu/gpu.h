/* What device code is written with: CUDA's names under nvcc, the emulator's under the host's
 * compiler. Beside CUDA's own:
 *   GPU_DYNAMIC_SHARED(type, name)   a pointer to the launch's shared memory, 1024-aligned
 *   GPU_SHARED(type, name)           one static object of a type in shared memory
 *   gpu_barrier(id, threads)         waits at named barrier 1-15 until `threads` have come (a
 *                                    multiple of 32; __syncthreads is barrier 0)
 *   gpu_barrier_arrive(id, threads)  comes there, and goes on
 *   gpu_load_acquire, gpu_store_release   of a flag between CTAs: what was stored before the flag
 *                                    is seen by who sees the flag
 *   gpu_exp2, gpu_log2               2^x and log2(x) of the special function unit: 2 ulp; denormal
 *                                    results of gpu_exp2 become 0
 * A loop that waits for another CTA must look with an atomic or gpu_load_acquire. */
#ifndef STRATA_KERNELS_GPU_GPU_H
#define STRATA_KERNELS_GPU_GPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#include "kernels/gpu/gpu_cuda.h"
#else
#include "kernels/emulation/device.h"
#endif

#include "kernels/gpu/act.h"

enum { GPU_WARP = 32 };
#define GPU_ALL_LANES 0xffffffffu

/* The thread's place in its block, which has one dimension. */
__device__ __forceinline__ int gpu_lane(void) {
    return (int)threadIdx.x % GPU_WARP;
}

__device__ __forceinline__ int gpu_warp(void) {
    return (int)threadIdx.x / GPU_WARP;
}

#endif
