/* Cuts loaded batches over context-parallel ranks (core/context.h). All of them load the same
 * samples; each keeps its own tokens, with their positions, targets, weights and numbers, and lists
 * which of its queries see which keys of whom. */
#ifndef STRATA_PARALLEL_CONTEXT_PARALLEL_H
#define STRATA_PARALLEL_CONTEXT_PARALLEL_H

#include "core/context.h"
#include "data/loader.h"

struct context_cut {
    struct context context;
    int ranks, rank;
    struct context_step *steps;   /* (ranks) */
    struct attention_part *parts; /* of one step after the other */
};

/* Arrays for batches of up to `tokens` tokens of all ranks; one rank needs none. Counts on a
 * counting arena. */
void context_cut_layout(struct context_cut *cut, struct arena *arena, int ranks, int rank,
                        int64_t tokens);

/* Leaves my part of a batch that was read whole: its tokens, targets and sums are those, and it has
 * no segments any more. One rank has all. */
void context_cut(struct context_cut *cut, struct loader_batch *batch);

/* For struct batch; NULL: one rank. */
static inline const struct context *context_cut_view(const struct context_cut *cut) {
    return cut->ranks > 1 ? &cut->context : NULL;
}

#endif
