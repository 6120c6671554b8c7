/* Everything a model needs to run batches up to a size: stream, op table, activations, scratch.
 * Laid out once from what the layers themselves count; nothing is allocated afterwards. */
#ifndef STRATA_CORE_WORKSPACE_H
#define STRATA_CORE_WORKSPACE_H

#include "core/stage.h"

/* The parts of a model, of those layers that this rank holds, that batches go through one at a
 * time, and how many batches are under way in them at once: pipeline stages. */
struct workspace_parts {
    int count;
    const struct model *models; /* (count), see model_part */
    int sets;                   /* activations of a part each; a set serves any part */
    int inputs;                 /* inputs of parts; at least sets, at most one more */
};

struct workspace_plan {
    int64_t tokens;     /* N of the largest batch */
    int64_t logit_rows; /* rows asked of head_logits at once */
    enum acts_keep keep;
    bool weights_later; /* struct acts_plan */
    bool backward;
    bool sequence;                 /* core/sequence.h */
    int context;                   /* ranks that share a batch (core/context.h); 0 or 1: none */
    const struct adapter *adapter; /* the largest that batches go through, or NULL */
    const struct workspace_parts *parts; /* NULL: one batch in all of the model */
};

struct workspace {
    struct stream stream;
    struct comm self; /* stands in where no tensor-parallel communicator is given */
    struct arena held, scratch;
    struct exec exec;
    struct stage_acts acts;  /* of set 0 and part 0 */
    struct stage_acts *sets; /* (sets, parts); owned */
    void *input;             /* the one that belongs to no set, or NULL */
};

/* Where set `set` keeps what part `part` of `parts` leaves. */
static inline struct stage_acts *workspace_acts(const struct workspace *ws, int set, int part,
                                                int parts) {
    return &ws->sets[set * parts + part];
}

/* threads = 0 takes all that the process may use; tp = NULL is one rank, else its ranks are those
 * that the model's shard counts. Frees everything on failure. The struct must not move afterwards:
 * exec points into it. */
enum status workspace_open(struct workspace *ws, const struct model *model,
                           const struct kernels *kernels, int threads, struct comm *tp,
                           const struct workspace_plan *plan);
void workspace_close(struct workspace *ws); /* may be called twice, and on a zeroed struct */

/* Bytes of activations and scratch that workspace_open would take, by the same code. STATUS_MEMORY
 * when there is none for the count. */
enum status workspace_count(const struct model *model, enum dtype act,
                            const struct workspace_plan *plan, size_t *activation_bytes,
                            size_t *scratch_bytes);

#endif
