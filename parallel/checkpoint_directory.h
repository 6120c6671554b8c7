/* The directory of a run's checkpoints as one process sees it: names, what is complete by name, and
 * the renames that make a change visible all at once. Only rank 0 changes anything. */
#ifndef STRATA_PARALLEL_CHECKPOINT_DIRECTORY_H
#define STRATA_PARALLEL_CHECKPOINT_DIRECTORY_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>

enum { CHECKPOINT_PATH_BYTES = 4096 };

struct checkpoint_path {
    char text[CHECKPOINT_PATH_BYTES];
};

/* STATUS_CONFIG when paths below `directory` would not fit. */
enum status checkpoint_directory_check(const char *directory);

struct checkpoint_path checkpoint_step_path(const char *directory, int64_t step);
struct checkpoint_path checkpoint_temporary_path(const char *directory, int64_t step);
struct checkpoint_path checkpoint_rank_path(const struct checkpoint_path *folder, int rank);
struct checkpoint_path checkpoint_index_path(const struct checkpoint_path *folder);

/* Steps whose folder has its final name, newest first; the caller frees *steps. A directory that is
 * not there holds none. */
enum status checkpoint_directory_list(const char *directory, int64_t **steps, int *count);

/* Makes the directory for good (its parent must exist and is synced), removes leftovers, and makes
 * the empty temporary folder of a step. */
enum status checkpoint_directory_begin(const char *directory, int64_t step);

/* The temporary folder, its files synced, becomes step-N for good; an older step-N goes. A failure
 * before the rename leaves the directory as it was. When the sync after it fails (STATUS_IO, "can't
 * sync ..."), step-N is the new folder for every reader, but a crash of the machine may still bring
 * back what was there before; an older step-N stays until the next sweep. */
enum status checkpoint_directory_publish(const char *directory, int64_t step);

/* Removes what interrupted writers left. Failures don't matter: the names are never read. */
void checkpoint_directory_sweep(const char *directory);

/* Of the steps up to `newest`, the one just written, removes all but the last `keep` and `best`.
 * Later ones belong to a run that went back; they stay until it passes them. */
enum status checkpoint_directory_prune(const char *directory, int64_t newest, int keep,
                                       int64_t best);

#endif
