/* Asynchronous copies by thread, matrix loads and tensor-core products of every GPU since sm_80.
 * All but the copies are collectives of a whole warp: 32 threads, converged, the same instruction.
 * Layouts of fragments: kernels/gpu/layout.h. */
#ifndef STRATA_KERNELS_GPU_TENSOR_H
#define STRATA_KERNELS_GPU_TENSOR_H

#include "kernels/gpu/gpu.h"
#include "kernels/gpu/layout.h"

#define GPU_INLINE __device__ __forceinline__

#ifdef __CUDACC__

/* The 32-bit address within shared memory that PTX and descriptors want. */
GPU_INLINE uint32_t gpu_shared_address(const void *shared) {
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* 16 bytes, both sides aligned to 16; zeros where !valid (then `global` is not read). They are
 * there after this thread's gpu_copy_wait and, for other threads, a barrier behind it. */
GPU_INLINE void gpu_copy_async16(void *shared, const void *global, bool valid) {
    asm volatile(
        "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(gpu_shared_address(shared)),
        "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
        : "memory");
}

/* Closes the thread's group of copies since the last commit. */
GPU_INLINE void gpu_copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most `groups` of the thread's groups, the newest, are on their way. */
template <int groups> GPU_INLINE void gpu_copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

/* Four 8 x 8 matrices of 16 bits: lane 8 * m + i names row i of matrix m (16 bytes, aligned), and
 * gets in r[m] the elements (lane / 4, lane % 4 * 2 + 0..1) of matrix m. */
GPU_INLINE void gpu_ldmatrix_x4(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(gpu_shared_address(row))
                 : "memory");
}

/* The same of the transposed matrices: (row, column) trade places. */
GPU_INLINE void gpu_ldmatrix_x4_trans(uint32_t r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(gpu_shared_address(row))
                 : "memory");
}

/* Two matrices: lanes 0..15 name the rows. */
GPU_INLINE void gpu_ldmatrix_x2(uint32_t r[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(gpu_shared_address(row))
                 : "memory");
}
GPU_INLINE void gpu_ldmatrix_x2_trans(uint32_t r[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(gpu_shared_address(row))
                 : "memory");
}

/* d (16 x 8, f32) += a (16 x 16) b (16 x 8): mma.m16n8k16. */
GPU_INLINE void gpu_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
GPU_INLINE void gpu_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The same with k = 8 in tf32: operands are f32 bits rounded by gpu_tf32. */
GPU_INLINE void gpu_mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* x rounded to tf32 (10 bits of mantissa, ties away from zero), as f32 bits. */
GPU_INLINE uint32_t gpu_tf32(float x) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

#else

uint32_t gpu_shared_address(const void *shared);
void gpu_copy_async16(void *shared, const void *global, bool valid, EMULATION_CALLER);
void gpu_copy_commit();
void emulation_copy_wait(int groups);
template <int groups> inline void gpu_copy_wait() {
    emulation_copy_wait(groups);
}
void gpu_ldmatrix_x4(uint32_t r[4], const void *row, EMULATION_CALLER);
void gpu_ldmatrix_x4_trans(uint32_t r[4], const void *row, EMULATION_CALLER);
void gpu_ldmatrix_x2(uint32_t r[2], const void *row, EMULATION_CALLER);
void gpu_ldmatrix_x2_trans(uint32_t r[2], const void *row, EMULATION_CALLER);
void gpu_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], EMULATION_CALLER);
void gpu_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2], EMULATION_CALLER);
void gpu_mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2], EMULATION_CALLER);
uint32_t gpu_tf32(float x);

#endif

#endif
