/* The part of cuBLASLt that products need, opened at run time: a program that is linked to it
 * doesn't start where it is missing, and its size is 500 MB. Names and numbers are those of
 * cublasLt.h, CUDA 12 and 13; matrices are column-major. On the emulator a stand-in answers
 * (kernels/emulation/cublaslt.cc). */
#ifndef STRATA_KERNELS_GPU_CUBLASLT_H
#define STRATA_KERNELS_GPU_CUBLASLT_H

#include <stddef.h>
#include <stdint.h>

enum {
    CUBLASLT_F32 = 0,          /* CUDA_R_32F */
    CUBLASLT_BF16 = 14,        /* CUDA_R_16BF */
    CUBLASLT_COMPUTE_F32 = 68, /* CUBLAS_COMPUTE_32F */
    CUBLASLT_DESC_TRANSPOSE_A = 3,
    CUBLASLT_DESC_TRANSPOSE_B = 4,
    CUBLASLT_PREFER_WORKSPACE = 1,
    CUBLASLT_PREFER_REDUCTIONS = 3,
    CUBLASLT_PREFER_ALIGNMENT_A = 5, /* of B, C and D: 6, 7, 8 */
    CUBLASLT_REDUCTIONS_IN_ORDER = 6 /* split sums in a workspace, not by atomics */
};

struct cublaslt_algorithm {
    uint64_t data[8];
};

struct cublaslt_choice {
    struct cublaslt_algorithm algorithm;
    size_t workspace_bytes;
    int status;
    float waves;
    int reserved[4];
};

/* Each returns 0, or the library's error. */
struct cublaslt {
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*desc_create)(void **desc, int compute, int scale_type);
    int (*desc_set)(void *desc, int attribute, const void *value, size_t bytes);
    int (*desc_destroy)(void *desc);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t stride);
    int (*layout_destroy)(void *layout);
    int (*preference_create)(void **preference);
    int (*preference_set)(void *preference, int attribute, const void *value, size_t bytes);
    int (*preference_destroy)(void *preference);
    int (*choose)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference,
                  int wanted, struct cublaslt_choice *choices, int *found);
    int (*matmul)(void *handle, void *desc, const void *alpha, const void *a, void *a_layout,
                  const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                  void *d, void *d_layout, const struct cublaslt_algorithm *algorithm,
                  void *workspace, size_t workspace_bytes, void *stream);
};

/* A function of the library by its name; NULL where there is none, or no library. `library` is NULL
 * at first, and keeps what was opened. */
void *cublaslt_symbol(void **library, const char *name);

#endif
