/* Elementwise optimizer steps and the global norm. Everything fp32, n elements. */
#ifndef STRATA_KERNELS_OPTIMIZER_H
#define STRATA_KERNELS_OPTIMIZER_H

#include "kernels/base/stream.h"
#include "kernels/moment8.h"
#include <stdint.h>

/* AdamW (Loshchilov and Hutter, arXiv:1711.05101), step counts from 1, as torch.optim.AdamW:
 *   g = grad_scale * grad;  w -= lr * decay * w
 *   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
 *   w -= lr / (1-b1^step) * m / (sqrt(v / (1-b2^step)) + eps) */
struct adamw_args {
    float *w, *m, *v;
    const float *grad;
    int64_t n;
    double lr, beta1, beta2, eps, decay;
    int64_t step;
    float grad_scale; /* clipping and loss normalisation, folded in */
};
typedef void adamw_fn(struct stream *s, const struct adamw_args *args);

/* The same with moments in 8 bits: dequantized, updated, and quantized again behind the step, which
 * is made with what they were between. n is a multiple of MOMENT8_BLOCK; args->m and args->v are
 * not read.
 *   m, v (n / MOMENT8_BLOCK) in out: first and second moments, of zeroed memory at first */
typedef void adamw8_fn(struct stream *s, const struct adamw_args *args, struct moment8 *m,
                       struct moment8 *v);

/* *sum += sum of x^2 in double, in a fixed order for n, whatever the threads; a NaN or infinity
 * makes it non-finite. */
typedef void sum_squares_fn(struct stream *s, double *sum, const float *x, int64_t n);

#endif
