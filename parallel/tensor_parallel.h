/* Gradients of what several tensor-parallel ranks hold: sums that layers leave to the end of a
 * step.
 *
 * A layer's own sums (core/block.h) make the gradient of everything that is cut complete. Of what
 * is on several ranks each has a part:
 *
 *     norms of the residual stream     under sequence parallelism, that of its own tokens
 *     norms of queries and keys        that of its own heads
 *     k and v, and their biases        where there are fewer heads than ranks: that of the query
 *                                      heads that are here
 *     the LoRA factor that is whole    that of its own columns (A beside q, k, v, gate, up) or of
 *                                      its part of the input (B beside o and down)
 *
 * Biases of o and down, and norms without sequence parallelism, are the same everywhere already.
 *
 * The parts of a layer are added as soon as its backward is over, before the sum over replicas: in
 * one call, small ones side by side in a buffer, and in rank order, so that all holders get the
 * same bits and their weights stay the same. */
#ifndef STRATA_PARALLEL_TENSOR_PARALLEL_H
#define STRATA_PARALLEL_TENSOR_PARALLEL_H

#include "core/comm.h"
#include "core/model.h"

struct tensor_part {
    struct param *param;
    struct comm *comm; /* its holders */
    bool summed;       /* in this step */
};

struct tensor_parallel {
    struct comm *tp;    /* all ranks that share a layer; borrowed */
    struct comm copies; /* those that hold my key/value heads */
    struct stream *stream;
    int layers;
    int count;
    struct tensor_part *parts;
    float *buffer;
};

/* Splits `tp` (borrowed) into the holders of each key/value head. Collective over tp. */
enum status tensor_parallel_open(struct tensor_parallel *t, struct comm *tp,
                                 const struct model_config *config);

/* Lists those of the trained `params` that ranks have parts of, and pushes a buffer onto `arena`,
 * which may be counting; gradients are laid out already. Without tensor_parallel_open it counts for
 * a rank of `tp_size`. May be called again. STATUS_MEMORY only. */
enum status tensor_parallel_plan(struct tensor_parallel *t, struct stream *stream,
                                 struct param *const *params, int param_count, int layers,
                                 bool sequence, struct arena *arena);

/* A stage_layer_done (core/stage.h): sums the parts of a layer (L: final norm). Whoever reduces
 * gradients further calls this first. Collective over tp. */
void tensor_parallel_layer_done(struct tensor_parallel *t, int layer);

/* A backward through some layers is over, another one of this step follows: what was summed is not
 * any more. */
void tensor_parallel_reset(struct tensor_parallel *t, const struct shard *shard);

/* Sums what was never reported in this step, and is ready for the next. Collective over tp. */
void tensor_parallel_finish(struct tensor_parallel *t);

/* May be called twice, and on a zeroed struct. */
void tensor_parallel_close(struct tensor_parallel *t);

#endif
