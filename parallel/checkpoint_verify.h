/* Whether a checkpoint's files are there and say what was written. */
#ifndef STRATA_PARALLEL_CHECKPOINT_VERIFY_H
#define STRATA_PARALLEL_CHECKPOINT_VERIFY_H

#include "parallel/checkpoint_directory.h"

/* The rank files that the index of a folder lists; the caller frees *ranks. */
enum status checkpoint_files(const struct checkpoint_path *folder, int32_t **ranks, int *count);

/* Opens the index and every rank file: all there, none cut short. */
enum status checkpoint_verify_structure(const struct checkpoint_path *folder);

/* Reads every dataset of a file and compares its hash. STATUS_FORMAT names file and dataset. */
enum status checkpoint_verify_file(const char *path);

#endif
