/* How far a long task is: a bar with the time left on a terminal, a key=value log line now and then
 * elsewhere. On rank 0's standard error; one thread. */
#ifndef STRATA_CORE_PROGRESS_H
#define STRATA_CORE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *task; /* one word, borrowed */
    int64_t total;
    bool terminal;
    double started, shown; /* seconds of the monotonic clock */
    int64_t first; /* done at the first update, -1 before: a task may go on from the middle */
    double first_seconds;
};

void progress_begin(struct progress *progress, const char *task, int64_t total);

/* `done` of `total`, and what else there is to say as key=value pairs. Cheap: shows itself at most
 * ten times a second on a terminal and every ten seconds in a log. */
void progress_update(struct progress *progress, int64_t done, const char *details);

/* Takes the bar away, for lines of other kinds and when all is done; the next update that is due
 * draws it again. */
void progress_end(struct progress *progress);

/* Since progress_begin. */
double progress_seconds(const struct progress *progress);

#endif
