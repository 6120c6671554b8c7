/* Where a NaN came from. */
#ifndef STRATA_TRAIN_DIAGNOSE_H
#define STRATA_TRAIN_DIAGNOSE_H

#include "train/trainer.h"

/* STATUS_NUMERIC whose message names the step and the first tensor, in the order of computation,
 * that holds a NaN or an infinity on any rank: a weight, the embeddings, a tensor of a layer, the
 * logits, or a gradient. Runs the step's microbatches forward once more to find it, so the weights
 * must be those that the step began with. `loss` is this rank's own. Collective. */
enum status diagnose_nonfinite(struct trainer *trainer, const struct step_report *report,
                               double loss);

#endif
