#include "parallel/verdict_internal.h"

#include <string.h>

static bool signatures_match(const struct ring_entry *a, const struct ring_entry *b) {
    return a->op == b->op && a->count == b->count && a->dtype == b->dtype && a->peer == b->peer;
}

/* Collective `sequence` of a ring as its member at `place` called it; NULL when it isn't known. */
static const struct ring_entry *member_entry(const struct verdict_work *work,
                                             const struct ring_copy *ring, int place,
                                             int64_t sequence) {
    if (!verdict_valid_member(work, ring, place)) return NULL;
    const struct ring_copy *theirs =
        verdict_ring(verdict_rings(work, ring->members[place]), ring->id);
    return theirs ? verdict_collective(theirs, sequence) : NULL;
}

/* How many ranks, on communicators of that name, made a call of that number as `entry` is: axes are
 * alike, so the other groups of one tell who is right. Sends count with receives. */
static int jury(const struct verdict_work *work, const char *name, const struct ring_entry *entry) {
    bool pair = ring_op_pairs((enum ring_op)entry->op);
    int count = 0;
    for (int r = 0; r < work->count; r++) {
        const struct rings_copy *rings = verdict_rings(work, r);
        for (int i = 0; rings && i < rings->count; i++) {
            const struct ring_copy *ring = &rings->ring[i];
            for (int e = 0; strcmp(ring->name, name) == 0 && e < ring->entry_count; e++) {
                const struct ring_entry *other = &ring->entries[e];
                count += other->sequence == entry->sequence && other->count == entry->count &&
                         other->dtype == entry->dtype &&
                         (pair ? ring_op_pairs((enum ring_op)other->op) : other->op == entry->op);
            }
        }
    }
    return count;
}

/* How many members called what member `place` did. */
static int agreeing(const struct verdict_work *work, const struct ring_copy *ring, int place,
                    int64_t sequence) {
    const struct ring_entry *entry = member_entry(work, ring, place, sequence);
    int count = 0;
    for (int i = 0; entry && i < ring->size; i++) {
        const struct ring_entry *other = member_entry(work, ring, i, sequence);
        count += other && signatures_match(entry, other);
    }
    return count;
}

static void blame_mismatch(struct verdict *v, const struct verdict_work *work,
                           const struct ring_copy *ring, int64_t sequence) {
    int most = 0, votes = 0, right = -1;
    for (int i = 0; i < ring->size; i++) {
        int count = agreeing(work, ring, i, sequence);
        if (count == 0 || count < most) continue;
        int others = jury(work, ring->name, member_entry(work, ring, i, sequence));
        if (count == most && others <= votes) continue;
        right = i;
        most = count;
        votes = others;
    }
    const struct ring_entry *entry = member_entry(work, ring, right, sequence);
    v->kind = VERDICT_MISMATCH;
    v->call = (struct verdict_call){ring, entry};
    for (int i = 0; i < ring->size; i++) {
        const struct ring_entry *theirs = member_entry(work, ring, i, sequence);
        if (!theirs) continue;
        bool agrees = signatures_match(entry, theirs);
        v->waiting[ring->members[i]] = agrees;
        v->culprit[ring->members[i]] = !agrees;
        if (!agrees && !v->other.entry) v->other = (struct verdict_call){ring, theirs};
    }
}

/* The first collective on `ring`, of those that its lowest present member remembers, that members
 * called differently; 0 when there is none. */
static int64_t first_mismatch(const struct verdict_work *work, const struct ring_copy *ring) {
    int64_t first = 0;
    for (int e = 0; e < ring->entry_count; e++) {
        const struct ring_entry *mine = &ring->entries[e];
        if (ring_op_pairs((enum ring_op)mine->op) || (first && mine->sequence >= first)) continue;
        for (int i = 0; i < ring->size; i++) {
            const struct ring_entry *theirs = member_entry(work, ring, i, mine->sequence);
            if (theirs && !signatures_match(mine, theirs)) first = mine->sequence;
        }
    }
    return first;
}

static bool lowest_present(const struct verdict_work *work, const struct ring_copy *ring,
                           int rank) {
    for (int i = 0; i < ring->size; i++)
        if (verdict_valid_member(work, ring, i) && verdict_rings(work, ring->members[i]))
            return ring->members[i] == rank;
    return false;
}

bool verdict_find_mismatch(struct verdict *v, const struct verdict_work *work) {
    for (int r = 0; r < work->count; r++) {
        const struct rings_copy *rings = verdict_rings(work, r);
        for (int i = 0; rings && i < rings->count; i++) {
            if (!lowest_present(work, &rings->ring[i], r)) continue;
            int64_t sequence = first_mismatch(work, &rings->ring[i]);
            if (!sequence) continue;
            blame_mismatch(v, work, &rings->ring[i], sequence);
            return true;
        }
    }
    return false;
}

/* A send whose receive is of another size. */
static bool pair_mismatch(struct verdict *v, const struct verdict_work *work, int rank,
                          const struct ring_copy *ring, const struct ring_entry *entry) {
    if (entry->op != RING_RECV || !verdict_valid_member(work, ring, entry->peer)) return false;
    int sender = ring->members[entry->peer];
    const struct ring_copy *theirs = verdict_ring(verdict_rings(work, sender), ring->id);
    const struct ring_entry *sent =
        theirs ? verdict_pair(theirs, RING_SEND, verdict_place(ring, rank), entry->sequence) : NULL;
    if (!sent || (sent->count == entry->count && sent->dtype == entry->dtype)) return false;
    v->kind = VERDICT_MISMATCH;
    v->pair = true;
    v->call = (struct verdict_call){ring, entry};
    v->other = (struct verdict_call){theirs, sent};
    if (jury(work, ring->name, sent) > jury(work, ring->name, entry)) { /* the receiver is alone */
        v->call = v->other;
        v->other = (struct verdict_call){ring, entry};
    }
    bool blame_sender = v->other.entry == sent;
    v->culprit[blame_sender ? sender : rank] = true;
    v->waiting[blame_sender ? rank : sender] = true;
    return true;
}

bool verdict_find_pair_mismatch(struct verdict *v, const struct verdict_work *work) {
    for (int r = 0; r < work->count; r++) {
        const struct rings_copy *rings = verdict_rings(work, r);
        for (int i = 0; rings && i < rings->count; i++)
            for (int e = 0; e < rings->ring[i].entry_count; e++)
                if (pair_mismatch(v, work, r, &rings->ring[i], &rings->ring[i].entries[e]))
                    return true;
    }
    return false;
}
