/* The directory of a run's checkpoints as one process sees it: names, what is complete by name, and
 * the renames that make a change visible all at once. Only rank 0 changes anything. */
#ifndef STRATA_PARALLEL_CHECKPOINT_DIRECTORY_H
#define STRATA_PARALLEL_CHECKPOINT_DIRECTORY_H

#include "parallel/checkpoint_claim.h"

/* Everything that begins so is unfinished or on its way out. */
#define CHECKPOINT_UNFINISHED ".tmp-"

struct checkpoint_path {
    char text[CHECKPOINT_PATH_BYTES];
};

/* STATUS_CONFIG when paths below `directory` would not fit. */
enum status checkpoint_directory_check(const char *directory);

struct checkpoint_path checkpoint_path_join(const char *folder, const char *name);
struct checkpoint_path checkpoint_step_path(const char *directory, int64_t step);
struct checkpoint_path checkpoint_temporary_path(const struct checkpoint_claim *claim,
                                                 int64_t step);
struct checkpoint_path checkpoint_rank_path(const struct checkpoint_path *folder, int rank);
struct checkpoint_path checkpoint_index_path(const struct checkpoint_path *folder);

/* Steps whose folder has its final name, newest first; the caller frees *steps. A directory that is
 * not there holds none. */
enum status checkpoint_directory_list(const char *directory, int64_t **steps, int *count);

/* What follows changes the directory by renames out of and into the folder of the claim: once a
 * later start has removed that, each fails and nothing changes. */

/* Empties the claim's folder and makes the empty temporary folder of a step in it. STATUS_CONFIG
 * when a later start has taken over. */
enum status checkpoint_directory_begin(const struct checkpoint_claim *claim, int64_t step);

/* The temporary folder, its files synced, becomes step-N for good; an older step-N goes. A failure
 * before the rename leaves the directory as it was. When the sync after it fails (STATUS_IO, "can't
 * sync ..."), step-N is the new folder for every reader, but a crash of the machine may still bring
 * back what was there before; an older step-N stays until the next sweep. */
enum status checkpoint_directory_publish(const struct checkpoint_claim *claim, int64_t step);

/* Removes what an interrupted save left. Failures don't matter: the names are never read. */
void checkpoint_directory_sweep(const struct checkpoint_claim *claim);

/* Of the steps up to `newest`, the one just written, removes all but the last `keep` and `best`.
 * Later ones belong to a run that went back; they stay until it passes them. */
enum status checkpoint_directory_prune(const struct checkpoint_claim *claim, int64_t newest,
                                       int keep, int64_t best);

/* A folder with all that is in it, or a file. True when it is gone. */
bool checkpoint_directory_remove(const char *path);

#endif
