/* A linear layer as the blocks see it: the weight, its bias, and the adapters of the batch. */
#ifndef STRATA_CORE_LINEAR_H
#define STRATA_CORE_LINEAR_H

#include "core/batch.h"
#include "core/exec.h"
#include "core/model.h"
#include "core/sequence.h"

/* y (N, out) = x (N, in) W^T + bias + adapters    act; y must not alias x. Of a weight that is
 * sliced by columns y is this rank's part of a sum over exec->tp, and so are dx and the gradient of
 * A of one sliced by rows, of B of one sliced by columns (parallel/tensor_parallel.h).
 * With adapters y += scale * (dropout(x) A^T) B^T on the tokens of each span. */
void linear_forward(const struct exec *exec, const struct model *model, enum weight_id id,
                    int layer, const struct batch *batch, void *y, const void *x);

/* dx (N, in) act = [dx +] gradient, NULL when nobody below needs it; dW, dbias, dA, dB += where
 * they are trained. */
struct linear_backward_args {
    enum weight_id id;
    int layer;
    void *dx;
    const void *dy;
    bool accumulate;
};
/* Of `count` linears of one input x (N, in) act, that of the forward. It may be still on its way:
 * the matrices' parts of dx, which it isn't needed for, are made before it is waited for. With
 * batch->weights_later dW is left to linear_backward_weight, which takes the same dy and x; where
 * there are no adapters either, x is not read. */
void linear_backward(const struct exec *exec, const struct model *model, const struct batch *batch,
                     const struct linear_backward_args *args, int count,
                     struct sequence_gathering *x);

/* dW += where it is trained. dy (N, out), x (N, in) act. */
void linear_backward_weight(const struct exec *exec, const struct model *model, enum weight_id id,
                            int layer, int64_t tokens, const void *dy, const void *x);

#endif
