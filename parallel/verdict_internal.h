/* What the files of the verdict share. verdict_waits.c tells how far each rank is with a call that
 * another one waits in, verdict_mismatch.c finds calls that ranks made differently, verdict.c
 * decides. */
#ifndef STRATA_PARALLEL_VERDICT_INTERNAL_H
#define STRATA_PARALLEL_VERDICT_INTERNAL_H

#include "parallel/verdict.h"

/* What is worked on: the ranks, and the call that each of them is inside (entry NULL: in none). */
struct verdict_work {
    const struct verdict_rank *ranks;
    int count;
    int64_t limit;               /* ns */
    struct verdict_call *inside; /* (count) */
};

/* How far a rank is with a call that another one is inside. */
enum verdict_progress { CALL_ABSENT, CALL_STARTED, CALL_ENTERED };

/* What a rank that is present said; NULL when there is nothing. */
const struct rings_copy *verdict_rings(const struct verdict_work *work, int rank);

/* The ring of that id; NULL when there is none. rings may be NULL. */
const struct ring_copy *verdict_ring(const struct rings_copy *rings, int64_t id);

/* The call that a rank is inside; entry NULL: none. rings may be NULL. */
struct verdict_call verdict_inside(const struct rings_copy *rings);

/* The place of a rank of the job among a ring's members, -1 for a stranger; and whether a place, as
 * another process wrote it, is one. */
int verdict_place(const struct ring_copy *ring, int rank);
bool verdict_valid_member(const struct verdict_work *work, const struct ring_copy *ring, int place);

/* The newest entry of collective `sequence`; of a send to (receive from) peer. NULL when there is
 * none. */
const struct ring_entry *verdict_collective(const struct ring_copy *ring, int64_t sequence);
const struct ring_entry *verdict_pair(const struct ring_copy *ring, enum ring_op op, int peer,
                                      int64_t sequence);

/* How far `rank` is with a collective. */
enum verdict_progress verdict_progress(const struct verdict_work *work, int rank,
                                       const struct verdict_call *call);

/* How far the member at `place` is with what `caller` is inside; CALL_ENTERED where it isn't
 * needed. */
enum verdict_progress verdict_needed(const struct verdict_work *work, int caller, int place);

/* Whether the call that `caller` is inside lacks the member at `place`. Who started it and is
 * inside some other call moves it on from there. */
bool verdict_lacks(const struct verdict_work *work, int caller, int place);

/* Finds the first collective that members called differently, or a send whose receive is of another
 * size, and fills the verdict in; false when there is none. */
bool verdict_find_mismatch(struct verdict *v, const struct verdict_work *work);
bool verdict_find_pair_mismatch(struct verdict *v, const struct verdict_work *work);

#endif
