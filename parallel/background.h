/* One function that runs once, on a thread of its own. It makes no MPI call (a process may make
 * them from one thread at a time: parallel/parallel.c) and no HDF5 call (Debian's library knows no
 * threads, and the loader reads token files meanwhile). Signals go to the other threads. */
#ifndef STRATA_PARALLEL_BACKGROUND_H
#define STRATA_PARALLEL_BACKGROUND_H

#include "kernels/base/status.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct background {
    enum status (*run)(void *context);
    void *context;
    pthread_t thread;
    bool started, joinable;
    atomic_bool done;
    enum status status;
    char message[1024];
};

/* Starts run(context); here and now where the system gives no thread. *background stays where it is
 * until it is joined. */
void background_start(struct background *background, enum status (*run)(void *), void *context);

/* Whether it has returned; also where it was never started. */
bool background_done(const struct background *background);

/* Waits, and returns what it returned: its message is now this thread's. May be called twice, and
 * on a zeroed struct (STATUS_OK). */
enum status background_join(struct background *background);

#endif
