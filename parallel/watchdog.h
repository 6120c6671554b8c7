/* A thread a rank that notices when the job hangs, finds out who holds it up and ends it.
 *
 * Watchdogs talk over TCP (parallel/watch_link.h), never over MPI, which may be what is stuck:
 *
 *     rank 0 and a deputy (the first rank of another host, or rank 1) are connected with everybody;
 *     rank 0 judges; where it is gone, silent or has left, the deputy does; where both are, each
 *     rank judges alone with what it knows
 *
 * A case is opened when a rank has been inside one call for `seconds`, when a connection breaks,
 * when a rank sends no heartbeat for `seconds`, or when a rank gives up (watchdog_accuse). The
 * judge collects every rank's rings (parallel/ring.h), decides (parallel/verdict.h), logs one line,
 *
 *     level=error rank=0 host=n1 event=hang verdict="rank 5 @ n2 never entered ..." table=FILE
 *
 * writes the table, and every watchdog ends its process with code 1, wherever its other threads
 * are. A verdict is there within 2 x `seconds`. Time in which a process was stopped itself doesn't
 * count against others. */
#ifndef STRATA_PARALLEL_WATCHDOG_H
#define STRATA_PARALLEL_WATCHDOG_H

#include "parallel/ring.h"

struct watchdog;

struct watchdog_options {
    double seconds; /* above 0 */
    const char
        *folder; /* of hang-TIME.txt, must be there; NULL writes the table to stderr. Copied */
    void (*end_job)(
        void); /* ends the job's other processes as well as it can; may return, or not */
};

/* Connects and starts. Collective over world (all ranks of the job, at least 2); every rank returns
 * the same status. STATUS_PEER when ranks can't reach each other. */
enum status watchdog_open(struct watchdog **watchdog, struct comm *world, struct rings *rings,
                          const struct watchdog_options *options);

/* Says goodbye and ends the thread; not collective. NULL is nothing. */
void watchdog_close(struct watchdog *watchdog);

/* This rank is about to end the job because a call failed. The cause may be another one's
 * mismatched call: has the judge look, and does not return if there is a verdict. Otherwise returns
 * within a second or so, and others don't take what follows for a hang. NULL is nothing. */
void watchdog_accuse(struct watchdog *watchdog);

#endif
