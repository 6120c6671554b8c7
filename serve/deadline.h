/* Waiting on a condition for some seconds at most, whatever happens to the time of day. */
#ifndef STRATA_SERVE_DEADLINE_H
#define STRATA_SERVE_DEADLINE_H

#include <pthread.h>
#include <time.h>

/* A condition whose timed waits take the moments of deadline_after(). The caller destroys it. */
void deadline_init(pthread_cond_t *condition);

/* The moment `seconds` (not negative) from now, by the monotonic clock. */
struct timespec deadline_after(double seconds);

#endif
