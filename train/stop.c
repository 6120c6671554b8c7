#define _GNU_SOURCE
#include "train/stop.h"

#include <stddef.h>

/* A handler can reach nothing but a global. */
static volatile sig_atomic_t stop_requested;

static void request_stop(int signal) {
    const struct sigaction at_once = {.sa_handler = SIG_DFL};
    stop_requested = 1;
    if (signal == SIGUSR1) return;
    sigaction(SIGTERM, &at_once, NULL);
    sigaction(SIGINT, &at_once, NULL);
}

const volatile sig_atomic_t *stop_catch_signals(void) {
    struct sigaction action = {.sa_handler = request_stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    return &stop_requested;
}
