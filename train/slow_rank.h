/* Which ranks are slower than those that do the same work. */
#ifndef STRATA_TRAIN_SLOW_RANK_H
#define STRATA_TRAIN_SLOW_RANK_H

#include <stdbool.h>

/* A rank is slow in a window of steps when its time a token, without waiting for others, is more
 * than SLOW_RANK_FACTOR times the median of its group (the lower one of two in the middle), and
 * that cost at least SLOW_RANK_SECONDS. It is told when it was so in SLOW_RANK_WINDOWS windows in a
 * row, and again only after a window in which it wasn't. */
#define SLOW_RANK_FACTOR 1.1
#define SLOW_RANK_SECONDS 0.5
enum { SLOW_RANK_WINDOWS = 2 };

struct slow_rank_window {
    double seconds, tokens; /* of a rank in the window */
};

struct slow_rank_verdict {
    bool tell;
    double median; /* seconds that the group's median rank would have taken for these tokens */
};

/* windows, group: of every rank; ranks of a group are compared with each other, and groups are
 * numbered from 0. times (ranks): windows in a row so far, zero at first, kept by the caller.
 * scratch (ranks) may hold anything. Returns how many are to be told. A rank without tokens is not
 * judged. */
int slow_rank_judge(struct slow_rank_verdict *verdicts, int *times,
                    const struct slow_rank_window *windows, const int *group, int ranks,
                    double *scratch);

#endif
