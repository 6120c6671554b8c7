/* Root-mean-square normalisation (Zhang and Sennrich, arXiv:1910.07467).
 *     y = x * rstd * w,  rstd = 1 / sqrt(mean(x^2) + eps)       computed in fp32, rounded once to
 * act rows = tokens for a block's norm, tokens * heads for QK norm. act = the table's dtype. */
#ifndef STRATA_KERNELS_RMSNORM_H
#define STRATA_KERNELS_RMSNORM_H

#include "kernels/base/stream.h"
#include <stdbool.h>
#include <stdint.h>

enum { RMSNORM_MAX_WIDTH = 32768 };

/* y (rows, width) out act, may alias x; rstd (rows) out f32 or NULL; x in act; w (width) f32 */
typedef void rmsnorm_forward_fn(struct stream *s, void *y, float *rstd, const void *x,
                                const float *w, int64_t rows, int64_t width, float eps);

/* dx (rows, width) act: += when accumulate; dw (width) f32 +=, or NULL when frozen; dx may alias dy
 * unless accumulating. dw's sum over rows is in double, in one order whatever the threads. */
struct rmsnorm_backward_args {
    void *dx;
    float *dw;
    const void *dy, *x;
    const float *w, *rstd;
    int64_t rows, width;
    bool accumulate;
};
typedef void rmsnorm_backward_fn(struct stream *s, const struct rmsnorm_backward_args *args);

#endif
