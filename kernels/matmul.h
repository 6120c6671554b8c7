/* Matrix products with a packed weight.
 *
 * The rule of every forward: an output element is one chain of fused multiply-adds over k = 0, 1, 2
 * and so on in fp32 (starting from 0, or from y when accumulating; the bias is added last). The
 * chain depends on its own row and column alone, so one row (decode) and 512 (prefill) give the
 * same bits, for any number of threads. bf16 weights are widened exactly, so a bf16 panel gives the
 * bits of the fp32 panel with the same values. One table departs from that chain, by its
 * instructions: avx512_bf16 multiplies bf16 activations with bf16 weights by VDPBF16PS, a chain
 * over the pairs (0, 1), (2, 3), ... whose two products are added as that instruction does;
 * subnormals count as 0.
 *
 * A quantized weight (kernels/pack.h) stands for the panel of act's type that has its values: fp32,
 * or rounded to bf16 where activations are bf16. Its forward has the bits of that panel. It is
 * frozen: nobody asks for its gradient.
 *
 * Gradients may use any order that is the same from run to run for one shape and thread count.
 * act = the table's activation dtype (kernels/kernels.h). */
#ifndef STRATA_KERNELS_MATMUL_H
#define STRATA_KERNELS_MATMUL_H

#include "kernels/pack.h"
#include <stdbool.h>

/* y (T, N) = [y +] x (T, K) W^T [+ bias]     W (N, K), bias (N) f32 or NULL
 *   y   out act, or f32 when y_is_f32; must not alias x
 *   x   in  act */
struct matmul_forward_args {
    void *y;
    const void *x;
    const struct weight *w;
    const float *bias;
    int64_t tokens; /* T; may be 0 */
    bool accumulate, y_is_f32;
};
typedef void matmul_forward_fn(struct stream *s, const struct matmul_forward_args *args);

/* dx (T, K) = [dx +] dy (T, N) W     act; dx must not alias dy */
struct matmul_backward_input_args {
    void *dx;
    const void *dy;
    const struct weight *w;
    int64_t tokens;
    bool accumulate;
};
typedef void matmul_backward_input_fn(struct stream *s,
                                      const struct matmul_backward_input_args *args);

/* dw (N, K) += dy (T, N)^T x (T, K)     dw f32 (LAYOUT_PANEL_F32 or LAYOUT_ROWS_F32), dy, x act */
struct matmul_backward_weight_args {
    const struct weight *dw;
    const void *dy, *x;
    int64_t tokens;
};
typedef void matmul_backward_weight_fn(struct stream *s,
                                       const struct matmul_backward_weight_args *args);

/* dbias (N) f32 += sum over T of dy (T, N) act, summed in double */
typedef void bias_backward_fn(struct stream *s, float *dbias, const void *dy, int64_t tokens,
                              int64_t width);

#endif
