/* A run of `strata train`, from its folder to its result. */
#ifndef STRATA_TRAIN_TRAIN_H
#define STRATA_TRAIN_TRAIN_H

#include "core/config.h"
#include "train/trainer.h"

/* Takes train.out, trains to the last step and writes the result. `tables` are those of the
 * options. Once *stop is not 0 the step at hand is finished and a checkpoint written: then it ends
 * with STATUS_CANCELLED. Collective. */
enum status train_run(const struct run_options *options, const struct config_table *tables,
                      struct parallel *parallel, const volatile sig_atomic_t *stop);

/* What `strata train --dry-run` prints: the bytes that a rank of this job would allocate, and what
 * the token files hold, which are opened and compared with the tokenizer and the vocabulary as the
 * run itself would. Weights are not read, nothing is written.
 * Rank 0 looks, for all. */
enum status train_dry_run(const struct run_options *options, const struct parallel *parallel);

#endif
