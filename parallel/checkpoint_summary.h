/* A checkpoint as a reader sees it who has no run: where it is, its scalars, its tensors. One
 * process; nothing is verified. */
#ifndef STRATA_PARALLEL_CHECKPOINT_SUMMARY_H
#define STRATA_PARALLEL_CHECKPOINT_SUMMARY_H

#include "parallel/checkpoint.h"
#include "parallel/checkpoint_directory.h"

struct checkpoint_tensor {
    char *name; /* owned */
    int64_t rows, cols;
};

struct checkpoint_summary {
    struct checkpoint_path folder; /* the step's */
    struct checkpoint_state state; /* owns config */
    struct checkpoint_tensor *tensors;
    int tensor_count;
    int files;     /* all that lie in the folder */
    int64_t bytes; /* theirs */
    int steps;     /* checkpoints beside it, itself included */
};

/* Finds a checkpoint at `path`: a step's folder or a file in it, a folder of steps or a run's
 * directory (then the newest). False when there is none. */
bool checkpoint_find(const char *path, struct checkpoint_path *folder);

/* The caller gives checkpoint_summary_free, also after a failure. */
enum status checkpoint_summarise(struct checkpoint_summary *summary,
                                 const struct checkpoint_path *folder);
void checkpoint_summary_free(struct checkpoint_summary *summary);

#endif
