/* wgmma: 64 x N products of a warpgroup (four warps, 128 threads, converged), asynchronous,
 * operands in shared memory or A in registers. Only files of the sm_90a list include it.
 *
 *     gpu_wgmma_fence();                              accumulators and A's registers are ready
 *     gpu_wgmma_bf16<GPU_K_MAJOR, GPU_K_MAJOR>(d, a, b, k > 0);   as often as wanted
 *     gpu_wgmma_commit();                             closes a group
 *     gpu_wgmma_wait<0>();                            until then neither d nor shared memory may be
 *                                                     touched, nor A's registers
 *
 * d is float[N / 2] (gpu_place_wgmma), N = 64, 80, 96, 128, 176, 192 or 256: its length chooses the
 * instruction. d = a b + (accumulate ? d : 0), k = 16. a and b are descriptors
 * (gpu_tile_descriptor) or, for _registers, a is this thread's fragment (gpu_place_a in rows 16 *
 * warp ...).
 *
 * ptxas must be able to keep d in registers all the way: constant indices only, no call between,
 * and no branch that differs within the warpgroup (the gate fails on its warnings). */
#ifndef STRATA_KERNELS_GPU_WGMMA_H
#define STRATA_KERNELS_GPU_WGMMA_H

#include "kernels/gpu/tensor.h"

#ifdef __CUDACC__

GPU_INLINE void gpu_wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
GPU_INLINE void gpu_wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int groups> GPU_INLINE void gpu_wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}

/* Keeps the compiler from moving reads and writes of d over this point. */
template <int count> GPU_INLINE void gpu_wgmma_hold(float (&d)[count]) {
#pragma unroll
    for (int i = 0; i < count; i++) asm volatile("" : "+f"(d[i])::"memory");
}

/* Operand names and operands of an instruction, eight registers a group. */
// clang-format off
#define GPU_NAMES_1 "%0, %1, %2, %3, %4, %5, %6, %7"
#define GPU_NAMES_2 GPU_NAMES_1 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define GPU_NAMES_3 GPU_NAMES_2 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define GPU_NAMES_4 GPU_NAMES_3 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define GPU_NAMES_5 GPU_NAMES_4 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define GPU_NAMES_6 GPU_NAMES_5 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define GPU_NAMES_7 GPU_NAMES_6 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define GPU_NAMES_8 GPU_NAMES_7 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define GPU_NAMES_9 GPU_NAMES_8 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define GPU_NAMES_10 GPU_NAMES_9 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define GPU_NAMES_11 GPU_NAMES_10 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define GPU_NAMES_12 GPU_NAMES_11 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define GPU_NAMES_13 GPU_NAMES_12 ", %96, %97, %98, %99, %100, %101, %102, %103"
#define GPU_NAMES_14 GPU_NAMES_13 ", %104, %105, %106, %107, %108, %109, %110, %111"
#define GPU_NAMES_15 GPU_NAMES_14 ", %112, %113, %114, %115, %116, %117, %118, %119"
#define GPU_NAMES_16 GPU_NAMES_15 ", %120, %121, %122, %123, %124, %125, %126, %127"
#define GPU_SUMS_1 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define GPU_SUMS_2 GPU_SUMS_1, \
    "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define GPU_SUMS_3 GPU_SUMS_2, \
    "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define GPU_SUMS_4 GPU_SUMS_3, \
    "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define GPU_SUMS_5 GPU_SUMS_4, \
    "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define GPU_SUMS_6 GPU_SUMS_5, \
    "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define GPU_SUMS_7 GPU_SUMS_6, \
    "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define GPU_SUMS_8 GPU_SUMS_7, \
    "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define GPU_SUMS_9 GPU_SUMS_8, \
    "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define GPU_SUMS_10 GPU_SUMS_9, \
    "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define GPU_SUMS_11 GPU_SUMS_10, \
    "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define GPU_SUMS_12 GPU_SUMS_11, \
    "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define GPU_SUMS_13 GPU_SUMS_12, \
    "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define GPU_SUMS_14 GPU_SUMS_13, \
    "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define GPU_SUMS_15 GPU_SUMS_14, \
    "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define GPU_SUMS_16 GPU_SUMS_15, \
    "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
// clang-format on

/* n: the instruction's N; groups = n / 16; the operands behind d have the numbers p0, p1, ... */
#define GPU_WGMMA_SHARED(type, n, groups, p0, p1, p2, p3, p4)                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p2 ", 0;\n"                                 \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type                   \
                 " {" GPU_NAMES_##groups "}, %" #p0 ", %" #p1 ", p, 1, 1, %" #p3 ", %" #p4 ";\n}"  \
                 : GPU_SUMS_##groups                                                               \
                 : "l"(a), "l"(b), "r"((int)accumulate), "n"((int)a_major), "n"((int)b_major))
#define GPU_WGMMA_REGISTERS(type, n, groups, p0, p1, p2, p3, p4, p5, p6)                           \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p5 ", 0;\n"                                 \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type                   \
                 " {" GPU_NAMES_##groups "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4      \
                                         ", p, 1, 1, %" #p6 ";\n}"                                 \
                 : GPU_SUMS_##groups                                                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate),       \
                   "n"((int)b_major))

#define GPU_WGMMA_SHARED_ANY(type)                                                                 \
    if constexpr (count == 32)                                                                     \
        GPU_WGMMA_SHARED(type, 64, 4, 32, 33, 34, 35, 36);                                         \
    else if constexpr (count == 40)                                                                \
        GPU_WGMMA_SHARED(type, 80, 5, 40, 41, 42, 43, 44);                                         \
    else if constexpr (count == 48)                                                                \
        GPU_WGMMA_SHARED(type, 96, 6, 48, 49, 50, 51, 52);                                         \
    else if constexpr (count == 64)                                                                \
        GPU_WGMMA_SHARED(type, 128, 8, 64, 65, 66, 67, 68);                                        \
    else if constexpr (count == 88)                                                                \
        GPU_WGMMA_SHARED(type, 176, 11, 88, 89, 90, 91, 92);                                       \
    else if constexpr (count == 96)                                                                \
        GPU_WGMMA_SHARED(type, 192, 12, 96, 97, 98, 99, 100);                                      \
    else if constexpr (count == 128)                                                               \
        GPU_WGMMA_SHARED(type, 256, 16, 128, 129, 130, 131, 132);

#define GPU_WGMMA_REGISTERS_ANY(type)                                                              \
    if constexpr (count == 32)                                                                     \
        GPU_WGMMA_REGISTERS(type, 64, 4, 32, 33, 34, 35, 36, 37, 38);                              \
    else if constexpr (count == 40)                                                                \
        GPU_WGMMA_REGISTERS(type, 80, 5, 40, 41, 42, 43, 44, 45, 46);                              \
    else if constexpr (count == 48)                                                                \
        GPU_WGMMA_REGISTERS(type, 96, 6, 48, 49, 50, 51, 52, 53, 54);                              \
    else if constexpr (count == 64)                                                                \
        GPU_WGMMA_REGISTERS(type, 128, 8, 64, 65, 66, 67, 68, 69, 70);                             \
    else if constexpr (count == 88)                                                                \
        GPU_WGMMA_REGISTERS(type, 176, 11, 88, 89, 90, 91, 92, 93, 94);                            \
    else if constexpr (count == 96)                                                                \
        GPU_WGMMA_REGISTERS(type, 192, 12, 96, 97, 98, 99, 100, 101, 102);                         \
    else if constexpr (count == 128)                                                               \
        GPU_WGMMA_REGISTERS(type, 256, 16, 128, 129, 130, 131, 132, 133, 134);

#define GPU_WGMMA_COUNT_CHECK                                                                      \
    static_assert(count == 32 || count == 40 || count == 48 || count == 64 || count == 88 ||       \
                      count == 96 || count == 128,                                                 \
                  "N is 64, 80, 96, 128, 176, 192 or 256")

template <enum gpu_major a_major, enum gpu_major b_major, int count>
GPU_INLINE void gpu_wgmma_bf16(float (&d)[count], uint64_t a, uint64_t b, bool accumulate) {
    GPU_WGMMA_COUNT_CHECK;
    GPU_WGMMA_SHARED_ANY("bf16")
}
template <enum gpu_major a_major, enum gpu_major b_major, int count>
GPU_INLINE void gpu_wgmma_f16(float (&d)[count], uint64_t a, uint64_t b, bool accumulate) {
    GPU_WGMMA_COUNT_CHECK;
    GPU_WGMMA_SHARED_ANY("f16")
}
template <enum gpu_major b_major, int count>
GPU_INLINE void gpu_wgmma_bf16_registers(float (&d)[count], const uint32_t (&a)[4], uint64_t b,
                                         bool accumulate) {
    GPU_WGMMA_COUNT_CHECK;
    GPU_WGMMA_REGISTERS_ANY("bf16")
}
template <enum gpu_major b_major, int count>
GPU_INLINE void gpu_wgmma_f16_registers(float (&d)[count], const uint32_t (&a)[4], uint64_t b,
                                        bool accumulate) {
    GPU_WGMMA_COUNT_CHECK;
    GPU_WGMMA_REGISTERS_ANY("f16")
}

#else

void gpu_wgmma_fence();
void gpu_wgmma_commit();
void emulation_wgmma_wait(int groups, const char *file, int line);
template <int groups> inline void gpu_wgmma_wait(EMULATION_CALLER) {
    emulation_wgmma_wait(groups, file, line);
}
template <int count> inline void gpu_wgmma_hold(float (&)[count]) {}

/* One product as the emulator takes it; registers is NULL where A lies in shared memory. */
struct emulation_wgmma {
    float *sums;
    int count; /* floats of a thread: N / 2 */
    bool f16, accumulate;
    enum gpu_major a_major, b_major;
    uint64_t a, b;
    const uint32_t *registers;
};
void emulation_wgmma_issue(const struct emulation_wgmma *product, const char *file, int line);

template <enum gpu_major a_major, enum gpu_major b_major, int count>
inline void gpu_wgmma_bf16(float (&d)[count], uint64_t a, uint64_t b, bool accumulate,
                           EMULATION_CALLER) {
    const struct emulation_wgmma product = {d,       count, false, accumulate, a_major,
                                            b_major, a,     b,     nullptr};
    emulation_wgmma_issue(&product, file, line);
}
template <enum gpu_major a_major, enum gpu_major b_major, int count>
inline void gpu_wgmma_f16(float (&d)[count], uint64_t a, uint64_t b, bool accumulate,
                          EMULATION_CALLER) {
    const struct emulation_wgmma product = {d,       count, true, accumulate, a_major,
                                            b_major, a,     b,    nullptr};
    emulation_wgmma_issue(&product, file, line);
}
template <enum gpu_major b_major, int count>
inline void gpu_wgmma_bf16_registers(float (&d)[count], const uint32_t (&a)[4], uint64_t b,
                                     bool accumulate, EMULATION_CALLER) {
    const struct emulation_wgmma product = {d,       count, false, accumulate, GPU_K_MAJOR,
                                            b_major, 0,     b,     a};
    emulation_wgmma_issue(&product, file, line);
}
template <enum gpu_major b_major, int count>
inline void gpu_wgmma_f16_registers(float (&d)[count], const uint32_t (&a)[4], uint64_t b,
                                    bool accumulate, EMULATION_CALLER) {
    const struct emulation_wgmma product = {d,       count, true, accumulate, GPU_K_MAJOR,
                                            b_major, 0,     b,    a};
    emulation_wgmma_issue(&product, file, line);
}

#endif

#endif
