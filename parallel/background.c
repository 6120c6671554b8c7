#define _GNU_SOURCE
#include "parallel/background.h"

#include <signal.h>
#include <stdio.h>

static void *run(void *argument) {
    struct background *b = argument;
    b->status = b->run(b->context);
    if (b->status != STATUS_OK) snprintf(b->message, sizeof b->message, "%s", status_message());
    atomic_store_explicit(&b->done, true, memory_order_release);
    return NULL;
}

void background_start(struct background *b, enum status (*function)(void *), void *context) {
    sigset_t all, before;
    *b = (struct background){.run = function, .context = context, .started = true};
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    b->joinable = pthread_create(&b->thread, NULL, run, b) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!b->joinable) run(b);
}

bool background_done(const struct background *b) {
    return !b->started || atomic_load_explicit(&b->done, memory_order_acquire);
}

enum status background_join(struct background *b) {
    if (b->joinable) pthread_join(b->thread, NULL);
    b->joinable = false;
    return b->status == STATUS_OK ? STATUS_OK : status_fail(b->status, "%s", b->message);
}
