/* How far a long task is: a bar on a terminal, a key=value log line now and then elsewhere. From
 * rank 0's standard error; one thread. */
#ifndef STRATA_CORE_PROGRESS_H
#define STRATA_CORE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *task; /* one word, borrowed */
    int64_t total;
    bool terminal;
    double started, shown; /* seconds of the monotonic clock */
};

void progress_begin(struct progress *progress, const char *task, int64_t total);

/* `done` of `total`, and what else there is to say as key=value pairs. Cheap: shows itself at most
 * ten times a second on a terminal and every ten seconds in a log. */
void progress_update(struct progress *progress, int64_t done, const char *details);

/* Removes the bar; the caller logs the result. */
void progress_end(struct progress *progress);

/* Since progress_begin. */
double progress_seconds(const struct progress *progress);

#endif
