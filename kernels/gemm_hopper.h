/* y = x w^T on tensor cores of compute capability 9.0 exactly: TMA loads, wgmma, fp32 sums.
 *   y (m, n)  out  bf16, rows `y_stride` elements apart
 *   x (m, k)  in   bf16, rows `x_stride` apart        w (n, k)  in  bf16, rows `w_stride` apart
 * All in device memory, aligned to 16 bytes; x_stride and w_stride are multiples of 8; no alias.
 *
 * An element of y is one chain of k16 steps in ascending k, rounded once: the same bits whatever m
 * is, and whichever rows are beside it. Asynchronous on s; STATUS_SHAPE sticks to it where a stride
 * or a base is not aligned. */
#ifndef STRATA_KERNELS_GEMM_HOPPER_H
#define STRATA_KERNELS_GEMM_HOPPER_H

#include "kernels/base/stream.h"
#include <stdint.h>

struct gemm_hopper {
    uint16_t *y;
    const uint16_t *x, *w;
    int m, n, k;
    int64_t y_stride, x_stride, w_stride;
    int processors; /* CTAs at most: one a multiprocessor */
};

void gemm_hopper_bf16(struct stream *s, const struct gemm_hopper *gemm);

#endif
