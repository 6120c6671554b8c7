/* Makes the runs of a scaling report: one job after the other, each a child process. */
#ifndef STRATA_TRAIN_SCALING_LAUNCH_H
#define STRATA_TRAIN_SCALING_LAUNCH_H

#include "kernels/base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { SCALING_MAX_RUNS = 64, SCALING_MAX_WORDS = 256 };

struct scaling_plan {
    const char *config;
    char *const *settings; /* key=value; "{ranks}" in them is replaced */
    int setting_count;
    int64_t ranks[SCALING_MAX_RUNS]; /* ascending */
    int rank_count;
    bool weak; /* besides the strong series one with the fewest ranks' batch a rank */
    int64_t steps;
    const char *launch; /* words before the program; "{ranks}" and "{nodes}" are replaced; NULL:
                           srun in a Slurm job, else mpirun, and nothing for one rank */
    const char *out;    /* the runs are OUT/strong-N and OUT/weak-N */
};

/* "1,2,4", in any order. STATUS_CONFIG. */
enum status scaling_plan_ranks(struct scaling_plan *plan, const char *text);

/* Runs what isn't there yet with the same settings and as many steps; paths (of
 * SCALING_MAX_RUNS * 2) are those of all runs, the caller frees each. A run writes what it says to
 * train.log in its folder. STATUS_CANCELLED: one was stopped by a signal; STATUS_CONFIG and
 * STATUS_IO name a run that failed, and tell the last of what it said. */
enum status scaling_launch(const struct scaling_plan *plan, char **paths, int *count);

#endif
