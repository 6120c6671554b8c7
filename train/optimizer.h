/* AdamW over a list of parameters, with fp32 master weights where the layers compute in bf16. */
#ifndef STRATA_TRAIN_OPTIMIZER_H
#define STRATA_TRAIN_OPTIMIZER_H

#include "core/exec.h"
#include "core/model.h"

/* State of one parameter: fp32, in the element order of its gradient. */
struct optimizer_slot {
    struct param *param;
    int64_t elements;
    float *m, *v;
    float *master; /* the weight itself where that is fp32 */
};

struct optimizer {
    int count;
    struct optimizer_slot *slots;
};

/* Lays out state for the trained parameters in `arena`, which may be counting; zero at first,
 * masters are copied by optimizer_start. */
enum status optimizer_plan(struct optimizer *optimizer, struct param *const *params, int count,
                           struct arena *arena);
void optimizer_free(struct optimizer *optimizer); /* may be called twice, and on zeroes */

/* Takes the masters from the weights as they are now. */
void optimizer_start(const struct optimizer *optimizer, struct stream *stream);

/* Rounds the masters into the weights: after a checkpoint was read into them. */
void optimizer_refresh(const struct optimizer *optimizer, struct stream *stream);

/* Sum of squares over all gradients of this stage, each element of a tensor once, whichever of the
 * ranks of exec->tp hold it. Not finite where any gradient isn't. Collective over exec->tp. */
double optimizer_square_sum(const struct optimizer *optimizer, const struct exec *exec);

struct optimizer_step {
    double lr, beta1, beta2, eps, weight_decay;
    int64_t step;     /* from 1 */
    float grad_scale; /* of clipping */
};
void optimizer_update(const struct optimizer *optimizer, const struct exec *exec,
                      const struct optimizer_step *step);

/* A view of a slot's fp32 values (its weight's master, m or v) as a matrix of the parameter's
 * shape. */
struct weight optimizer_view(const struct optimizer_slot *slot, float *values);

#endif
