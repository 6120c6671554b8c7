/* What of a run is in a checkpoint, and going back to one. */
#ifndef STRATA_TRAIN_CHECKPOINTS_H
#define STRATA_TRAIN_CHECKPOINTS_H

#include "train/trainer.h"

/* Continues from the newest intact checkpoint of the run; nothing happens where there is none.
 * STATUS_CONFIG when it was trained with another tokenizer or another order of samples (the key is
 * named), STATUS_SHAPE or STATUS_FORMAT when its tensors are another model's. Collective. */
enum status checkpoints_resume(struct trainer *trainer);

/* STATUS_CONFIG when the run's directory holds a checkpoint: one that begins anew would leave later
 * ones of another run, and a resume would take those. Collective. */
enum status checkpoints_refuse(struct trainer *trainer);

#endif
