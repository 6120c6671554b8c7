/* Signals that ask a run to stop: SIGTERM, SIGINT and SIGUSR1 set a flag, which the run looks at
 * between steps; whoever sends SIGTERM or SIGINT a second time doesn't want to wait for a
 * checkpoint, or for weights that are still being read, and ends the process at once. SIGUSR1,
 * which launchers hand on, may come as often as they like. */
#ifndef STRATA_TRAIN_STOP_H
#define STRATA_TRAIN_STOP_H

#include <signal.h>

/* From now on, for the whole process. Returns the flag: 0 until a signal came. */
const volatile sig_atomic_t *stop_catch_signals(void);

#endif
