/* AdamW over a list of parameters, with fp32 master weights where the layers compute in bf16. Under
 * ZeRO a rank keeps state for, and updates, its shares alone (parallel/data_parallel.h). */
#ifndef STRATA_TRAIN_OPTIMIZER_H
#define STRATA_TRAIN_OPTIMIZER_H

#include "core/exec.h"
#include "parallel/data_parallel.h"
#include "parallel/sharded_weights.h"

/* State of my piece of one parameter: fp32, a run of elements in the order of its gradient. */
struct optimizer_slot {
    struct param *param;
    struct dp_piece piece; /* not empty */
    void *home;            /* the piece of a sharded weight; NULL: the weight is whole */
    float *m, *v;
    float *master; /* the weights themselves where those are fp32 */
};

struct optimizer {
    struct dp *dp;
    struct sharded_weights *sharded;
    int count;
    struct optimizer_slot *slots; /* in the order of the parameters */
};

/* Lays out state for my pieces of the parameters that `dp` was planned for, in `arena`, which may
 * be counting; zero at first, masters are copied by optimizer_start. dp and sharded are borrowed.
 */
enum status optimizer_plan(struct optimizer *optimizer, struct dp *dp,
                           struct sharded_weights *sharded, struct param *const *params, int count,
                           struct arena *arena);
void optimizer_free(struct optimizer *optimizer); /* may be called twice, and on zeroes */

/* Takes the masters from the weights as they are now. Uses the gradients' memory. */
void optimizer_start(const struct optimizer *optimizer, struct stream *stream);

/* Rounds the masters into the weights of every rank: after a checkpoint was read into them, or an
 * update. Under ZeRO uses the gradients' memory, and is collective over dp->comm. */
void optimizer_refresh(const struct optimizer *optimizer, struct stream *stream);

/* Sum of squares over all gradients of this stage, each element of a tensor once, whichever of the
 * ranks of exec->tp, and under ZeRO of dp->comm, hold it. Not finite where any gradient isn't.
 * Collective over both. */
double optimizer_square_sum(const struct optimizer *optimizer, const struct exec *exec);

struct optimizer_step {
    double lr, beta1, beta2, eps, weight_decay;
    int64_t step;     /* from 1 */
    float grad_scale; /* of clipping */
};
/* Updates my pieces, then optimizer_refresh. */
void optimizer_update(const struct optimizer *optimizer, const struct exec *exec,
                      const struct optimizer_step *step);

/* The rectangles of the parameter that a slot is, as views of its fp32 values (master, m or v);
 * returns how many. parts[i] says where in the parameter views[i] lies. */
int optimizer_views(const struct optimizer_slot *slot, float *values,
                    struct weight_part parts[WEIGHT_PARTS], struct weight views[WEIGHT_PARTS]);

#endif
