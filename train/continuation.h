/* What a run was when a checkpoint of it was written, against what it is now.
 *
 * A checkpoint's config holds the run's options and, under `found`, what the files that they name
 * held: the model's shape and each token file's size and hash; the op table and the number of ranks
 * too, which decide the last digits. A run that goes on may not change
 * what decides which tensors there are and which samples a step sees; other changes are its user's
 * to make and are told, one warning a key; how long a run is and how often it reports changes
 * silently. */
#ifndef STRATA_TRAIN_CONTINUATION_H
#define STRATA_TRAIN_CONTINUATION_H

#include "train/trainer.h"

/* The config text of a checkpoint; the caller frees it. */
enum status continuation_describe(const struct trainer *trainer, char **yaml);

/* STATUS_CONFIG names the first key that may not change, with both its values. With `tell`, what
 * may change and did is logged (`event=resume_changed key=... was=... now=...`). */
enum status continuation_check(const struct trainer *trainer, const struct checkpoint_state *state,
                               bool tell);

#endif
