#include "parallel/verdict_internal.h"

const struct rings_copy *verdict_rings(const struct verdict_work *work, int rank) {
    const struct verdict_rank *r = &work->ranks[rank];
    return r->presence == PRESENT ? r->rings : NULL;
}

const struct ring_copy *verdict_ring(const struct rings_copy *rings, int64_t id) {
    for (int i = 0; rings && i < rings->count; i++)
        if (rings->ring[i].id == id) return &rings->ring[i];
    return NULL;
}

static bool unfinished(const struct ring_entry *entry) {
    return entry->waiting && !entry->left;
}

struct verdict_call verdict_inside(const struct rings_copy *rings) {
    for (int i = 0; rings && i < rings->count; i++)
        for (int e = rings->ring[i].entry_count - 1; e >= 0; e--)
            if (unfinished(&rings->ring[i].entries[e]))
                return (struct verdict_call){&rings->ring[i], &rings->ring[i].entries[e]};
    return (struct verdict_call){0};
}

int verdict_place(const struct ring_copy *ring, int rank) {
    for (int i = 0; i < ring->size; i++)
        if (ring->members[i] == rank) return i;
    return -1;
}

bool verdict_valid_member(const struct verdict_work *work, const struct ring_copy *ring,
                          int place) {
    return place >= 0 && place < ring->size && ring->members[place] >= 0 &&
           ring->members[place] < work->count;
}

const struct ring_entry *verdict_collective(const struct ring_copy *ring, int64_t sequence) {
    for (int e = ring->entry_count - 1; e >= 0; e--) {
        const struct ring_entry *entry = &ring->entries[e];
        if (!ring_op_pairs((enum ring_op)entry->op) && entry->sequence == sequence) return entry;
    }
    return NULL;
}

const struct ring_entry *verdict_pair(const struct ring_copy *ring, enum ring_op op, int peer,
                                      int64_t sequence) {
    for (int e = ring->entry_count - 1; e >= 0; e--) {
        const struct ring_entry *entry = &ring->entries[e];
        if (entry->op == op && entry->peer == peer && entry->sequence == sequence) return entry;
    }
    return NULL;
}

static uint32_t pair_count(const struct ring_copy *ring, enum ring_op op, int peer) {
    for (int i = 0; i < ring->peer_count; i++)
        if (ring->peers[i].peer == peer)
            return op == RING_SEND ? ring->peers[i].sent : ring->peers[i].received;
    return 0;
}

static enum verdict_progress of_entry(const struct ring_entry *entry, bool counted) {
    if (!entry) return counted ? CALL_ENTERED : CALL_ABSENT;
    return entry->waiting || entry->left ? CALL_ENTERED : CALL_STARTED;
}

enum verdict_progress verdict_progress(const struct verdict_work *work, int rank,
                                       const struct verdict_call *call) {
    const struct ring_copy *mine = verdict_ring(verdict_rings(work, rank), call->ring->id);
    if (!mine || mine->collectives < call->entry->sequence) return CALL_ABSENT;
    return of_entry(verdict_collective(mine, call->entry->sequence), true);
}

/* The same for the peer of a send or receive. */
static enum verdict_progress progress_of_peer(const struct verdict_work *work, int caller,
                                              int peer_rank, const struct verdict_call *call) {
    const struct ring_copy *theirs = verdict_ring(verdict_rings(work, peer_rank), call->ring->id);
    if (!theirs) return CALL_ABSENT;
    enum ring_op counterpart = call->entry->op == RING_SEND ? RING_RECV : RING_SEND;
    int me = verdict_place(call->ring, caller);
    int64_t sequence = call->entry->sequence;
    return of_entry(verdict_pair(theirs, counterpart, me, sequence),
                    pair_count(theirs, counterpart, me) >= sequence);
}

enum verdict_progress verdict_needed(const struct verdict_work *work, int caller, int place) {
    const struct verdict_call *call = &work->inside[caller];
    if (!verdict_valid_member(work, call->ring, place)) return CALL_ENTERED;
    int rank = call->ring->members[place];
    bool pair = ring_op_pairs((enum ring_op)call->entry->op);
    if (rank == caller || work->ranks[rank].presence == UNKNOWN) return CALL_ENTERED;
    if (pair && place != call->entry->peer) return CALL_ENTERED;
    return pair ? progress_of_peer(work, caller, rank, call) : verdict_progress(work, rank, call);
}

bool verdict_lacks(const struct verdict_work *work, int caller, int place) {
    enum verdict_progress progress = verdict_needed(work, caller, place);
    if (progress == CALL_ENTERED) return false;
    return progress == CALL_ABSENT ||
           !work->inside[work->inside[caller].ring->members[place]].entry;
}
