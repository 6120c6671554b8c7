/* Who holds a job up: a pure function over what every rank last did (parallel/ring.h), and the
 * words for it. No clock, no sockets, no MPI.
 *
 * In this order:
 *   gone          the rank's connection broke: its process ended without saying so
 *   silent        its process does not answer (stopped), or nobody of its host does (host or link)
 *   mismatched    at one sequence number of a communicator ranks called different things; those
 *                 that differ from most are named (half against half: those that differ from the
 *                 other groups of that name, then from the lowest rank)
 *   else waits are followed from each overdue call to the ranks that it lacks, from those that wait
 *   themselves on to what they lack, until a rank is found that waits for nobody:
 *   left          it ended in good order, and the call still lacks it
 *   never entered it did not make the call that the others are in
 *   never waited  it started a non-blocking call and did not come back to wait for it, so that the
 *                 library could not move it on
 *   alone         fewer ranks made the call than did not, and nothing holds those that did not: the
 *                 ranks that made one too many are named
 *   Where all wait in a circle, a rank is named that came to a call without having done before it
 *   what the others there did; else most waiters are right, then those who wait longest.
 *   stuck         nobody is missing: the library or the network below it does not finish */
#ifndef STRATA_PARALLEL_VERDICT_H
#define STRATA_PARALLEL_VERDICT_H

#include "parallel/ring.h"

#include <stdio.h>

enum presence {
    PRESENT, /* answered, or this rank itself */
    GONE,    /* connection broken without a word */
    SILENT,  /* connected, but no answer and no heartbeat */
    LEFT,    /* said goodbye */
    UNKNOWN  /* lost after the case was opened, or never connected: proves nothing */
};

struct verdict_rank {
    enum presence presence;
    const char *host;
    const struct rings_copy *rings; /* NULL when there is none */
};

enum verdict_kind {
    VERDICT_NONE, /* nothing is overdue */
    VERDICT_GONE,
    VERDICT_SILENT,
    VERDICT_UNREACHABLE, /* silent, and so is every rank of its host */
    VERDICT_MISMATCH,
    VERDICT_LEFT,
    VERDICT_NEVER_ENTERED,
    VERDICT_NEVER_WAITED,
    VERDICT_ALONE,
    VERDICT_STUCK
};

/* A call as one rank made it. entry NULL = there is none. */
struct verdict_call {
    const struct ring_copy *ring;
    const struct ring_entry *entry;
};

struct verdict {
    enum verdict_kind kind;
    int ranks;
    bool *culprit;             /* (ranks) */
    bool *waiting;             /* (ranks) in that call; others may wait behind them */
    int behind;                /* ranks that wait elsewhere */
    struct verdict_call call;  /* what the others wait in, or called */
    struct verdict_call other; /* what the first culprit called instead, or waits in */
    bool pair;                 /* call is a send or receive; the culprit owes its counterpart */
    double outside;            /* s since the first culprit was last inside a call; < 0 unknown */
    struct verdict_call last;  /* which call that was */
};

/* `judge` is the rank that decides: others' hosts are far from its own. Calls count as overdue
 * after `seconds` inside. Borrows the ranks' copies. STATUS_MEMORY only; the caller gives
 * verdict_free. */
enum status verdict_decide(struct verdict *verdict, const struct verdict_rank *ranks, int count,
                           int judge, double seconds);
void verdict_free(struct verdict *verdict); /* may be called twice, and on a zeroed struct */

/* One line without a newline:
 *   rank 5 @ n2 never entered tp all_reduce #1559 (layer 12 backward, microbatch 3); ranks 4, 6, 7
 *   wait; rank 5 was last in ... */
void verdict_line(const struct verdict *verdict, const struct verdict_rank *ranks, char *text,
                  size_t bytes);

/* Everything that is known, for a person: the line, then a table a rank. */
void verdict_table(const struct verdict *verdict, const struct verdict_rank *ranks, FILE *file);

#endif
