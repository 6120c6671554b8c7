/* Where a NaN came from. */
#ifndef STRATA_TRAIN_DIAGNOSE_H
#define STRATA_TRAIN_DIAGNOSE_H

#include "train/trainer.h"

/* STATUS_NUMERIC whose message names the step and the first tensor, in the order of computation,
 * that holds a NaN or an infinity: a weight, a layer's output, the logits' loss, or a gradient. */
enum status diagnose_nonfinite(const struct trainer *trainer, const struct step_report *report);

#endif
