/* kernels/gpu/gpu.h under nvcc. Source of the instructions: NVIDIA's PTX ISA 9.0. */
#ifndef STRATA_KERNELS_GPU_GPU_CUDA_H
#define STRATA_KERNELS_GPU_GPU_CUDA_H

#include <cuda_runtime.h>
#include <stdint.h>

#define GPU_DYNAMIC_SHARED(type, name)                                                             \
    extern __shared__ __align__(1024) unsigned char gpu_dynamic_shared[];                          \
    type *name = reinterpret_cast<type *>(gpu_dynamic_shared)
#define GPU_SHARED(type, name) __shared__ type name

__device__ __forceinline__ void gpu_barrier(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void gpu_barrier_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ int gpu_load_acquire(const int *address) {
    int value;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}

__device__ __forceinline__ void gpu_store_release(int *address, int value) {
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

__device__ __forceinline__ float gpu_exp2(float x) {
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

__device__ __forceinline__ float gpu_log2(float x) {
    float value;
    asm("lg2.approx.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

#endif
