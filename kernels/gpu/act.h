/* Activations on the device: float, struct bf16 or struct f16 in memory, fp32 in registers. Kernels
 * are templates on that type, `A`. */
#ifndef STRATA_KERNELS_GPU_ACT_H
#define STRATA_KERNELS_GPU_ACT_H

#include <stdint.h>
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "kernels/gpu/host.h"
#endif

struct bf16 {
    uint16_t bits;
};

struct f16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_f32(float value) {
    return value;
}

template <class A> __device__ __forceinline__ A from_f32(float value);

template <> __device__ __forceinline__ float from_f32<float>(float value) {
    return value;
}

#ifdef __CUDACC__
__device__ __forceinline__ float to_f32(struct bf16 value) {
    return __uint_as_float((unsigned)value.bits << 16);
}
__device__ __forceinline__ float to_f32(struct f16 value) {
    return __half2float(__ushort_as_half(value.bits));
}
template <> __device__ __forceinline__ struct bf16 from_f32<struct bf16>(float value) {
    return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
} template <> __device__ __forceinline__ struct f16 from_f32<struct f16>(float value) {
    return f16{__half_as_ushort(__float2half_rn(value))};
}
#else
inline float to_f32(struct bf16 value) {
    return bf16_to_f32(value.bits);
}
inline float to_f32(struct f16 value) {
    return f16_to_f32(value.bits);
}
template <> inline struct bf16 from_f32<struct bf16>(float value) {
    return bf16{f32_to_bf16(value)};
} template <> inline struct f16 from_f32<struct f16>(float value) {
    return f16{f32_to_f16(value)};
}
#endif

/* Two numbers in one register, the first in its low half: what mma.sync and 4-byte stores take. */
__device__ __forceinline__ uint32_t
gpu_pack_bf16(float low, float high) {
    return from_f32<struct bf16>(low).bits | (uint32_t)from_f32<struct bf16>(high).bits << 16;
}

__device__ __forceinline__ uint32_t gpu_pack_f16(float low, float high) {
    return from_f32<struct f16>(low).bits | (uint32_t)from_f32<struct f16>(high).bits << 16;
}

#endif
