/* What of a run is in a checkpoint, and going back to one. */
#ifndef STRATA_TRAIN_CHECKPOINTS_H
#define STRATA_TRAIN_CHECKPOINTS_H

#include "train/trainer.h"

/* Where the checkpoints of the run in `out` are. */
void checkpoints_directory(const char *out, char path[4096]);

/* A rectangle of a tensor each. */
struct slabs {
    int count;
    struct checkpoint_slab *items;
    char (*names)[CHECKPOINT_NAME_BYTES];
};

/* The part of every trained tensor, and of its state, that is here, fp32. What several ranks hold
 * all of them read, and the first of them writes. Values are borrowed. */
enum status checkpoints_slabs(const struct trainer *trainer, bool to_write, struct slabs *slabs);
void checkpoints_slabs_free(struct slabs *slabs); /* may be called twice, and on a zeroed struct */

/* Claims the run's directory of checkpoints, unless it did: before anything of it is read, so that
 * no former start can change it any more. Collective. */
enum status checkpoints_claim(struct trainer *trainer);

/* Continues from the newest intact checkpoint of the run; nothing happens where there is none.
 * STATUS_CONFIG names the key when something changed that may not (train/continuation.h), or when
 * the run is beyond its last step already; STATUS_SHAPE or STATUS_FORMAT when its tensors are
 * another model's. Other changes are logged. Collective. */
enum status checkpoints_resume(struct trainer *trainer);

/* Goes back to the newest intact checkpoint of a step below `below`, with its data cursor; *step =
 * -1 where there is none, and nothing happens. Collective. */
enum status checkpoints_rewind(struct trainer *trainer, int64_t below, int64_t *step);

/* STATUS_CONFIG when the run's directory holds a checkpoint: one that begins anew would leave later
 * ones of another run, and a resume would take those. Collective. */
enum status checkpoints_refuse(struct trainer *trainer);

#endif
