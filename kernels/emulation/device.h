/* CUDA's device names for the host's compiler: what kernels/gpu/gpu.h is without nvcc. */
#ifndef STRATA_KERNELS_EMULATION_DEVICE_H
#define STRATA_KERNELS_EMULATION_DEVICE_H

#include "kernels/emulation/access.h"
#include "kernels/emulation/cuda_runtime.h"
#include "kernels/emulation/machine.h"
#include <math.h>
#include <string.h>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (emulation::place_now.thread)
#define blockIdx (emulation::place_now.block)
extern __thread struct uint3 blockDim, gridDim;

/* A function whose own loads and stores are not the kernel's (access.h). */
#define EMULATION_UNSEEN __attribute__((no_sanitize("thread")))

/* The caller's file and line, as defaults of a function's last two parameters. */
#define EMULATION_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

#define GPU_DYNAMIC_SHARED(type, name)                                                             \
    type *name = reinterpret_cast<type *>(emulation::shared_dynamic())
#define GPU_SHARED(type, name)                                                                     \
    static const char name##_site = 0;                                                             \
    type &name =                                                                                   \
        *static_cast<type *>(emulation::shared_object(&name##_site, sizeof(type), alignof(type)))

namespace emulation {

/* What lanes bring to a shuffle, and take away. */
struct shuffle {
    uint64_t value;
    int source; /* a lane of the warp; outside of the mask: poison comes back */
};

void shuffle_values(const char *name, uint32_t mask, struct shuffle *mine, const char *file,
                    int line);
uint32_t ballot(const char *name, uint32_t mask, bool vote, const char *file, int line);

template <class T>
T shuffle_from(const char *name, uint32_t mask, T value, int source, const char *file, int line) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "shuffled by value");
    struct shuffle mine = {0, source};
    memcpy(&mine.value, &value, sizeof value);
    shuffle_values(name, mask, &mine, file, line);
    memcpy(&value, &mine.value, sizeof value);
    return value;
}

} // namespace emulation

/* ---- barriers ---- */

inline void __syncthreads(EMULATION_CALLER) {
    emulation::barrier_sync(0, emulation::ALL_THREADS, {"__syncthreads", file, line});
}

inline void gpu_barrier(int id, int threads, EMULATION_CALLER) {
    emulation::barrier_sync(id, threads, {"gpu_barrier", file, line});
}

inline void gpu_barrier_arrive(int id, int threads, EMULATION_CALLER) {
    emulation::barrier_arrive(id, threads, {"gpu_barrier_arrive", file, line});
}

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATION_CALLER) {
    emulation::warp_meet("__syncwarp", mask, nullptr, false, nullptr, {"__syncwarp", file, line});
}

/* ---- collectives of a warp ---- */

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATION_CALLER) {
    int base = emulation::place_now.lane & ~(width - 1);
    return emulation::shuffle_from("__shfl_sync", mask, value, base + (source & (width - 1)), file,
                                   line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATION_CALLER) {
    int lane = emulation::place_now.lane, source = lane ^ lanes;
    if (source / width > lane / width) source = lane;
    return emulation::shuffle_from("__shfl_xor_sync", mask, value, source, file, line);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATION_CALLER) {
    int lane = emulation::place_now.lane, source = lane - (int)by;
    if (source < (lane & ~(width - 1))) source = lane;
    return emulation::shuffle_from("__shfl_up_sync", mask, value, source, file, line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATION_CALLER) {
    int lane = emulation::place_now.lane, source = lane + (int)by;
    if (source >= (lane & ~(width - 1)) + width) source = lane;
    return emulation::shuffle_from("__shfl_down_sync", mask, value, source, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int vote, EMULATION_CALLER) {
    return emulation::ballot("__ballot_sync", mask, vote != 0, file, line);
}

inline int __any_sync(unsigned mask, int vote, EMULATION_CALLER) {
    return emulation::ballot("__any_sync", mask, vote != 0, file, line) != 0;
}

inline int __all_sync(unsigned mask, int vote, EMULATION_CALLER) {
    return emulation::ballot("__all_sync", mask, vote != 0, file, line) == mask;
}

/* ---- atomics, fences ----
 * Threads change at waits alone, so an atomic is a plain operation at which another thread may be
 * chosen before. One that changes nothing is a look at memory that others change: its thread lets
 * them run. */

namespace emulation {

void fence(void); /* the running thread's */

template <class T, class F>
EMULATION_UNSEEN T atomic(const char *name, T *address, F change, const char *file, int line) {
    maybe_switch({name, file, line});
    access_atomic(address, sizeof *address, ATOMIC_CHANGE);
    T old = *address, value = change(old);
    if (memcmp(&old, &value, sizeof old) != 0) {
        *address = value;
        note_progress();
    } else {
        spin_at({name, file, line});
    }
    return old;
}

} // namespace emulation

template <class T> T atomicAdd(T *address, T value, EMULATION_CALLER) {
    return emulation::atomic(
        "atomicAdd", address, [=](T old) { return (T)(old + value); }, file, line);
}

template <class T> T atomicMax(T *address, T value, EMULATION_CALLER) {
    return emulation::atomic(
        "atomicMax", address, [=](T old) { return old > value ? old : value; }, file, line);
}

template <class T> T atomicMin(T *address, T value, EMULATION_CALLER) {
    return emulation::atomic(
        "atomicMin", address, [=](T old) { return old < value ? old : value; }, file, line);
}

template <class T> T atomicOr(T *address, T value, EMULATION_CALLER) {
    return emulation::atomic(
        "atomicOr", address, [=](T old) { return (T)(old | value); }, file, line);
}

template <class T> T atomicExch(T *address, T value, EMULATION_CALLER) {
    return emulation::atomic(
        "atomicExch", address, [=](T) { return value; }, file, line);
}

template <class T> T atomicCAS(T *address, T compare, T value, EMULATION_CALLER) {
    return emulation::atomic(
        "atomicCAS", address, [=](T old) { return old == compare ? value : old; }, file, line);
}

/* Counts up to `limit`, then starts again at zero. */
inline unsigned atomicInc(unsigned *address, unsigned limit, EMULATION_CALLER) {
    return emulation::atomic(
        "atomicInc", address, [=](unsigned old) { return old >= limit ? 0 : old + 1; }, file, line);
}

inline void __threadfence(void) {
    emulation::fence();
}
inline void __threadfence_system(void) {
    emulation::fence();
}

inline void __nanosleep(unsigned, EMULATION_CALLER) {
    emulation::spin_at({"__nanosleep", file, line});
}

/* For a flag that another CTA raises: a look that sees all that was stored before the flag. */
template <class T> EMULATION_UNSEEN T gpu_load_acquire(const T *address, EMULATION_CALLER) {
    emulation::spin_at({"gpu_load_acquire", file, line});
    emulation::access_atomic(address, sizeof *address, emulation::ATOMIC_LOOK);
    return *address;
}

template <class T> EMULATION_UNSEEN void gpu_store_release(T *address, T value, EMULATION_CALLER) {
    emulation::maybe_switch({"gpu_store_release", file, line});
    emulation::access_atomic(address, sizeof *address, emulation::ATOMIC_RELEASE);
    *address = value;
    emulation::note_progress();
}

template <class T> T __ldg(const T *address) {
    return *address;
}

/* ---- numbers ---- */

inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline int __float_as_int(float value) {
    return (int)__float_as_uint(value);
}
inline float __int_as_float(int bits) {
    return __uint_as_float((unsigned)bits);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((uint64_t)a * b >> 32);
}
inline int __clz(int value) {
    return value ? __builtin_clz((unsigned)value) : 32;
}
inline int __ffs(int value) {
    return __builtin_ffs(value);
}
inline int __popc(unsigned value) {
    return __builtin_popcount(value);
}
inline float rsqrtf(float value) {
    return 1.0f / sqrtf(value);
}
template <class T> T min(T a, T b) {
    return b < a ? b : a;
}
template <class T> T max(T a, T b) {
    return a < b ? b : a;
}

inline float gpu_exp2(float x) {
    return exp2f(x);
}
inline float gpu_log2(float x) {
    return log2f(x);
}

#endif
