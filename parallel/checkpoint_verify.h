/* Whether a checkpoint's files are there and say what was written. */
#ifndef STRATA_PARALLEL_CHECKPOINT_VERIFY_H
#define STRATA_PARALLEL_CHECKPOINT_VERIFY_H

#include "parallel/checkpoint_directory.h"

/* Keeps the hash of the finished index beside it, in index.xxh3. HDF5 parses the mappings of
 * virtual datasets before it checks them, so a rotten index must not reach it. */
enum status checkpoint_seal_index(const struct checkpoint_path *folder);

/* The index has the hash that was kept. Before anything opens it. */
enum status checkpoint_verify_index(const struct checkpoint_path *folder);

/* The rank files that the index of a folder lists; the caller frees *ranks. */
enum status checkpoint_files(const struct checkpoint_path *folder, int32_t **ranks, int *count);

/* The index intact, every rank file there and none cut short. */
enum status checkpoint_verify_structure(const struct checkpoint_path *folder);

/* Reads every dataset of a file and compares its hash. STATUS_FORMAT names file and dataset. */
enum status checkpoint_verify_file(const char *path);

#endif
