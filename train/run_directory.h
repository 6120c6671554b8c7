/* train.out, the folder of a run: made, kept from other runs, and told what this run is. Rank 0's
 * business alone. */
#ifndef STRATA_TRAIN_RUN_DIRECTORY_H
#define STRATA_TRAIN_RUN_DIRECTORY_H

#include "core/config.h"
#include "train/options.h"

/* Makes the folder with those above it and locks it until the process ends: two runs in one folder
 * would overwrite each other's checkpoints. STATUS_IO, or STATUS_CONFIG where another run has it. A
 * former start of this Slurm job is no other run: one that a lost node still computes loses the
 * lock to this one, and its hold on the checkpoints (parallel/checkpoint_claim.h) when they are
 * opened. */
enum status run_directory_take(const char *out);

/* OUT/config.yaml says what this run is, all defaults spelled out. */
enum status run_directory_store_config(const char *out, const struct config_table *tables);

#endif
