/* Everything a model needs to run batches up to a size: stream, op table, activations, scratch.
 * Laid out once from what the layers themselves count; nothing is allocated afterwards. */
#ifndef STRATA_CORE_WORKSPACE_H
#define STRATA_CORE_WORKSPACE_H

#include "core/stage.h"

struct workspace_plan {
    int64_t tokens;     /* N of the largest batch */
    int64_t logit_rows; /* rows asked of head_logits at once */
    enum acts_keep keep;
    bool backward;
    bool sequence;                 /* core/sequence.h */
    const struct adapter *adapter; /* the largest that batches go through, or NULL */
};

struct workspace {
    struct stream stream;
    struct comm self; /* stands in where no tensor-parallel communicator is given */
    struct arena held, scratch;
    struct exec exec;
    struct stage_acts acts;
};

/* threads = 0 takes all that the process may use; tp = NULL is one rank, else its ranks are those
 * that the model's shard counts. Frees everything on
 * failure. The struct must not move afterwards: exec points into it. */
enum status workspace_open(struct workspace *ws, const struct model *model,
                           const struct kernels *kernels, int threads, struct comm *tp,
                           const struct workspace_plan *plan);
void workspace_close(struct workspace *ws); /* may be called twice, and on a zeroed struct */

/* Bytes of activations and scratch that workspace_open would take, by the same code. */
void workspace_count(const struct model *model, enum dtype act, const struct workspace_plan *plan,
                     size_t *activation_bytes, size_t *scratch_bytes);

#endif
