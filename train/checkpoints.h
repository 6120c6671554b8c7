/* What of a run is in a checkpoint, and going back to one. */
#ifndef STRATA_TRAIN_CHECKPOINTS_H
#define STRATA_TRAIN_CHECKPOINTS_H

#include "train/trainer.h"

/* Continues from the newest intact checkpoint of the run; nothing happens where there is none.
 * STATUS_CONFIG when it belongs to another model, mode or tokenizer. Collective. */
enum status checkpoints_resume(struct trainer *trainer);

#endif
