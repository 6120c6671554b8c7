/* Where a NaN or a spike came from. */
#ifndef STRATA_TRAIN_DIAGNOSE_H
#define STRATA_TRAIN_DIAGNOSE_H

#include "train/trainer.h"

enum { DIAGNOSIS_BYTES = 384 };
struct diagnosis {
    int rank;
    char tensor[DIAGNOSIS_BYTES]; /* "queries of layer 3", "gradient of lm_head.weight" */
};

/* The first tensor, in the order of computation, that holds a NaN or an infinity on any rank: a
 * weight, the embeddings, a tensor of a layer, the logits, or a gradient; and that rank. Runs the
 * step's microbatches forward once more to find it, so the weights must be those that the step
 * began with. `loss` is this rank's own. The same on every rank. Collective. */
enum status diagnose_nonfinite(struct trainer *trainer, double loss, struct diagnosis *diagnosis);

/* The gradient with the largest norm on any rank, and that rank (the first of equals). The same on
 * every rank. Collective. */
enum status diagnose_largest(struct trainer *trainer, struct diagnosis *diagnosis);

#endif
