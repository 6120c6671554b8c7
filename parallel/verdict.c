#include "parallel/verdict.h"

#include <stdlib.h>
#include <string.h>

/* What is worked on: the ranks, and the call that each of them is inside (entry NULL: in none). */
struct work {
    const struct verdict_rank *ranks;
    int count;
    int64_t limit;               /* ns */
    struct verdict_call *inside; /* (count) */
};

static const struct rings_copy *rings_of(const struct work *work, int rank) {
    const struct verdict_rank *r = &work->ranks[rank];
    return r->presence == PRESENT ? r->rings : NULL;
}

static const struct ring_copy *find_ring(const struct rings_copy *rings, int64_t id) {
    for (int i = 0; rings && i < rings->count; i++)
        if (rings->ring[i].id == id) return &rings->ring[i];
    return NULL;
}

static bool unfinished(const struct ring_entry *entry) {
    return entry->waiting && !entry->left;
}

static struct verdict_call find_inside(const struct rings_copy *rings) {
    for (int i = 0; rings && i < rings->count; i++)
        for (int e = rings->ring[i].entry_count - 1; e >= 0; e--)
            if (unfinished(&rings->ring[i].entries[e]))
                return (struct verdict_call){&rings->ring[i], &rings->ring[i].entries[e]};
    return (struct verdict_call){0};
}

static int place_in(const struct ring_copy *ring, int rank) {
    for (int i = 0; i < ring->size; i++)
        if (ring->members[i] == rank) return i;
    return -1;
}

static bool valid_member(const struct work *work, const struct ring_copy *ring, int place) {
    return place >= 0 && place < ring->size && ring->members[place] >= 0 &&
           ring->members[place] < work->count;
}

/* The newest entry of collective `sequence`. */
static const struct ring_entry *find_collective(const struct ring_copy *ring, int64_t sequence) {
    for (int e = ring->entry_count - 1; e >= 0; e--) {
        const struct ring_entry *entry = &ring->entries[e];
        if (!ring_op_pairs((enum ring_op)entry->op) && entry->sequence == sequence) return entry;
    }
    return NULL;
}

static const struct ring_entry *find_pair(const struct ring_copy *ring, enum ring_op op, int peer,
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

/* How far a rank is with a call that another one is inside. */
enum progress { ABSENT, STARTED, ENTERED };

static enum progress of_entry(const struct ring_entry *entry, bool counted) {
    if (!entry) return counted ? ENTERED : ABSENT;
    return entry->waiting || entry->left ? ENTERED : STARTED;
}

static enum progress progress_in(const struct work *work, int rank,
                                 const struct verdict_call *call) {
    const struct ring_copy *mine = find_ring(rings_of(work, rank), call->ring->id);
    if (!mine || mine->collectives < call->entry->sequence) return ABSENT;
    return of_entry(find_collective(mine, call->entry->sequence), true);
}

/* The same for the peer of a send or receive. */
static enum progress progress_of_peer(const struct work *work, int caller, int peer_rank,
                                      const struct verdict_call *call) {
    const struct ring_copy *theirs = find_ring(rings_of(work, peer_rank), call->ring->id);
    if (!theirs) return ABSENT;
    enum ring_op counterpart = call->entry->op == RING_SEND ? RING_RECV : RING_SEND;
    int me = place_in(call->ring, caller);
    int64_t sequence = call->entry->sequence;
    return of_entry(find_pair(theirs, counterpart, me, sequence),
                    pair_count(theirs, counterpart, me) >= sequence);
}

/* How far the member at `place` is with what `caller` is inside; ENTERED where it isn't needed. */
static enum progress needed(const struct work *work, int caller, int place) {
    const struct verdict_call *call = &work->inside[caller];
    if (!valid_member(work, call->ring, place)) return ENTERED;
    int rank = call->ring->members[place];
    bool pair = ring_op_pairs((enum ring_op)call->entry->op);
    if (rank == caller || work->ranks[rank].presence == UNKNOWN) return ENTERED;
    if (pair && place != call->entry->peer) return ENTERED;
    return pair ? progress_of_peer(work, caller, rank, call) : progress_in(work, rank, call);
}

/* Whether the call that `caller` is inside lacks the member at `place`. Who started it and is
 * inside some other call moves it on from there. */
static bool lacks(const struct work *work, int caller, int place) {
    enum progress progress = needed(work, caller, place);
    if (progress == ENTERED) return false;
    return progress == ABSENT || !work->inside[work->inside[caller].ring->members[place]].entry;
}

/* Ranks that the communicator of the caller's call has; 0 when it is inside none. */
static int members(const struct work *work, int caller) {
    return work->inside[caller].entry ? work->inside[caller].ring->size : 0;
}

static bool same_call(const struct verdict_call *a, const struct verdict_call *b) {
    if (!a->entry || !b->entry || a->ring->id != b->ring->id) return false;
    if (ring_op_pairs((enum ring_op)a->entry->op)) return a->entry == b->entry;
    return !ring_op_pairs((enum ring_op)b->entry->op) && a->entry->sequence == b->entry->sequence;
}

static bool overdue(const struct work *work, int rank) {
    const struct ring_entry *entry = work->inside[rank].entry;
    return entry && work->ranks[rank].rings->now - entry->waiting >= work->limit;
}

static int first_of(const bool *set, int count) {
    for (int i = 0; i < count; i++)
        if (set[i]) return i;
    return -1;
}

/* What the first culprit was last inside. */
static void tell_last(struct verdict *v, const struct work *work) {
    int rank = first_of(v->culprit, v->ranks);
    const struct rings_copy *rings = rank < 0 ? NULL : rings_of(work, rank);
    int64_t newest = 0;
    for (int i = 0; rings && i < rings->count; i++)
        for (int e = 0; e < rings->ring[i].entry_count; e++) {
            const struct ring_entry *entry = &rings->ring[i].entries[e];
            int64_t at = entry->left > entry->entered ? entry->left : entry->entered;
            if (at <= newest) continue;
            newest = at;
            v->last = (struct verdict_call){&rings->ring[i], entry};
        }
    if (newest && !work->inside[rank].entry) v->outside = 1e-9 * (double)(rings->now - newest);
}

static void count_behind(struct verdict *v, const struct work *work) {
    v->behind = 0;
    for (int r = 0; r < v->ranks; r++)
        v->behind += work->inside[r].entry && !v->waiting[r] && !v->culprit[r];
}

/* Ranks that no word comes from: what others wait in tells what they were needed for. */
static void blame_absent(struct verdict *v, const struct work *work, enum verdict_kind kind) {
    v->kind = kind;
    for (int r = 0; r < v->ranks && !v->call.entry; r++) {
        const struct verdict_call *call = &work->inside[r];
        for (int c = 0; call->entry && c < v->ranks; c++)
            if (v->culprit[c] && place_in(call->ring, c) >= 0) v->call = *call;
    }
    for (int r = 0; r < v->ranks; r++) v->waiting[r] = same_call(&v->call, &work->inside[r]);
    v->pair = v->call.entry && ring_op_pairs((enum ring_op)v->call.entry->op);
}

static bool find_presence(struct verdict *v, const struct work *work, enum presence presence) {
    for (int r = 0; r < v->ranks; r++) v->culprit[r] = work->ranks[r].presence == presence;
    return first_of(v->culprit, v->ranks) >= 0;
}

/* True when each culprit's whole host is silent, and it is not the judge's. */
static bool hosts_are_silent(const struct verdict *v, const struct work *work, int judge) {
    for (int c = 0; c < v->ranks; c++) {
        if (!v->culprit[c]) continue;
        for (int r = 0; r < v->ranks; r++)
            if (work->ranks[r].presence != SILENT &&
                strcmp(work->ranks[r].host, work->ranks[c].host) == 0)
                return false;
        if (strcmp(work->ranks[judge].host, work->ranks[c].host) == 0) return false;
    }
    return true;
}

static bool signatures_match(const struct ring_entry *a, const struct ring_entry *b) {
    return a->op == b->op && a->count == b->count && a->dtype == b->dtype && a->peer == b->peer;
}

/* Collective `sequence` of a ring as its member at `place` called it; NULL when it isn't known. */
static const struct ring_entry *member_entry(const struct work *work, const struct ring_copy *ring,
                                             int place, int64_t sequence) {
    if (!valid_member(work, ring, place)) return NULL;
    const struct ring_copy *theirs = find_ring(rings_of(work, ring->members[place]), ring->id);
    return theirs ? find_collective(theirs, sequence) : NULL;
}

/* How many ranks, on communicators of that name, made a call of that number as `entry` is: axes are
 * alike, so the other groups of one tell who is right. Sends count with receives. */
static int jury(const struct work *work, const char *name, const struct ring_entry *entry) {
    bool pair = ring_op_pairs((enum ring_op)entry->op);
    int count = 0;
    for (int r = 0; r < work->count; r++) {
        const struct rings_copy *rings = rings_of(work, r);
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
static int agreeing(const struct work *work, const struct ring_copy *ring, int place,
                    int64_t sequence) {
    const struct ring_entry *entry = member_entry(work, ring, place, sequence);
    int count = 0;
    for (int i = 0; entry && i < ring->size; i++) {
        const struct ring_entry *other = member_entry(work, ring, i, sequence);
        count += other && signatures_match(entry, other);
    }
    return count;
}

static void blame_mismatch(struct verdict *v, const struct work *work, const struct ring_copy *ring,
                           int64_t sequence) {
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
static int64_t first_mismatch(const struct work *work, const struct ring_copy *ring) {
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

static bool lowest_present(const struct work *work, const struct ring_copy *ring, int rank) {
    for (int i = 0; i < ring->size; i++)
        if (valid_member(work, ring, i) && rings_of(work, ring->members[i]))
            return ring->members[i] == rank;
    return false;
}

static bool find_mismatch(struct verdict *v, const struct work *work) {
    for (int r = 0; r < work->count; r++) {
        const struct rings_copy *rings = rings_of(work, r);
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
static bool pair_mismatch(struct verdict *v, const struct work *work, int rank,
                          const struct ring_copy *ring, const struct ring_entry *entry) {
    if (entry->op != RING_RECV || !valid_member(work, ring, entry->peer)) return false;
    int sender = ring->members[entry->peer];
    const struct ring_copy *theirs = find_ring(rings_of(work, sender), ring->id);
    const struct ring_entry *sent =
        theirs ? find_pair(theirs, RING_SEND, place_in(ring, rank), entry->sequence) : NULL;
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

static bool find_pair_mismatch(struct verdict *v, const struct work *work) {
    for (int r = 0; r < work->count; r++) {
        const struct rings_copy *rings = rings_of(work, r);
        for (int i = 0; rings && i < rings->count; i++)
            for (int e = 0; e < rings->ring[i].entry_count; e++)
                if (pair_mismatch(v, work, r, &rings->ring[i], &rings->ring[i].entries[e]))
                    return true;
    }
    return false;
}

/* Marks what is reached from overdue ranks by following lacks(). */
static void reach(const struct work *work, bool *reached, bool *followed) {
    for (int r = 0; r < work->count; r++) reached[r] = overdue(work, r);
    for (bool more = true; more;) {
        more = false;
        for (int from = 0; from < work->count; from++) {
            if (!reached[from] || followed[from]) continue;
            more = followed[from] = true;
            for (int place = 0; place < members(work, from); place++)
                if (lacks(work, from, place))
                    reached[work->inside[from].ring->members[place]] = true;
        }
    }
}

/* How right a call is: that nobody it lacks waits for something else first, that somebody did not
 * even start it, its waiters, how long it has been waited in. */
struct weight_of_call {
    bool first, missed;
    int waiters;
    int64_t age;
};

static bool heavier(const struct weight_of_call *a, const struct weight_of_call *b) {
    if (a->first != b->first) return a->first;
    if (a->missed != b->missed) return a->missed;
    return a->waiters != b->waiters ? a->waiters > b->waiters : a->age > b->age;
}

/* How many of the ranks that the caller's call lacks wait themselves, or do not. */
static int count_lacking(const struct work *work, int caller, bool waiting) {
    int count = 0;
    for (int place = 0; place < members(work, caller); place++) {
        if (!lacks(work, caller, place)) continue;
        int rank = work->inside[caller].ring->members[place];
        count += (work->inside[rank].entry != NULL) == waiting;
    }
    return count;
}

static struct weight_of_call weigh(const struct work *work, int caller) {
    struct weight_of_call weight = {.first = count_lacking(work, caller, true) == 0};
    for (int place = 0; place < members(work, caller) && !weight.missed; place++)
        weight.missed = needed(work, caller, place) == ABSENT;
    for (int r = 0; r < work->count; r++) {
        if (!same_call(&work->inside[caller], &work->inside[r])) continue;
        int64_t age = work->ranks[r].rings->now - work->inside[r].entry->waiting;
        weight.waiters++;
        if (age > weight.age) weight.age = age;
    }
    return weight;
}

/* What `rank` did so far of what `call` is: collectives on its own communicator of that name, or
 * sends (receives) in all. */
static int64_t done_like(const struct work *work, int rank, const struct verdict_call *call) {
    const struct rings_copy *rings = rings_of(work, rank);
    int64_t done = 0;
    for (int i = 0; rings && i < rings->count; i++) {
        const struct ring_copy *ring = &rings->ring[i];
        if (strcmp(ring->name, call->ring->name) != 0) continue;
        if (!ring_op_pairs((enum ring_op)call->entry->op)) done += ring->collectives;
        for (int p = 0; p < ring->peer_count && ring_op_pairs((enum ring_op)call->entry->op); p++)
            done += call->entry->op == RING_SEND ? ring->peers[p].received : ring->peers[p].sent;
    }
    return done;
}

/* In a circle of waits, whether the one rank that the caller's call lacks is out of order: of the
 * ranks that are inside the same other call, it alone has not done before what the caller waits
 * for. */
static bool out_of_order(const struct work *work, int caller) {
    const struct verdict_call *call = &work->inside[caller];
    int missing = -1, ahead = 0;
    for (int place = 0; place < members(work, caller); place++) {
        if (!lacks(work, caller, place)) continue;
        if (missing >= 0) return false;
        missing = call->ring->members[place];
    }
    if (missing < 0) return false;
    int64_t done = done_like(work, missing, call);
    for (int r = 0; r < work->count; r++) {
        if (r == missing || !same_call(&work->inside[r], &work->inside[missing])) continue;
        if (done_like(work, r, call) <= done) return false;
        ahead++;
    }
    return ahead > 0;
}

/* The reached rank whose call is to be named. idle: of those that lack a rank that waits for
 * nobody; else all wait in a circle. -1 when there is none. */
static int choose_call(const struct work *work, const bool *reached, bool idle) {
    int best = -1;
    struct weight_of_call most = {0};
    for (int r = 0; r < work->count; r++) {
        if (!reached[r] || count_lacking(work, r, !idle) == 0) continue;
        if (!idle && out_of_order(work, r)) return r;
        struct weight_of_call weight = weigh(work, r);
        if (!heavier(&weight, &most)) continue;
        most = weight;
        best = r;
    }
    return best;
}

static enum verdict_kind kind_of_missing(const struct verdict *v, const struct work *work) {
    int first = first_of(v->culprit, v->ranks);
    if (work->ranks[first].presence == LEFT) return VERDICT_LEFT;
    return !v->pair && progress_in(work, first, &v->call) == STARTED ? VERDICT_NEVER_WAITED
                                                                     : VERDICT_NEVER_ENTERED;
}

/* More ranks went past a call than made it, and none of them is inside another one. */
static bool made_too_many(const struct verdict *v, const struct work *work) {
    int missing = 0, entered = 0;
    for (int i = 0; i < v->call.ring->size; i++) {
        if (!valid_member(work, v->call.ring, i)) continue;
        int rank = v->call.ring->members[i];
        if (progress_in(work, rank, &v->call) == ABSENT)
            missing++;
        else
            entered++;
        if (work->ranks[rank].presence != PRESENT) return false;
    }
    return missing > entered;
}

static void blame_missing(struct verdict *v, const struct work *work, int waiter, bool idle) {
    v->call = work->inside[waiter];
    v->pair = ring_op_pairs((enum ring_op)v->call.entry->op);
    for (int r = 0; r < v->ranks; r++) v->waiting[r] = same_call(&v->call, &work->inside[r]);
    for (int place = 0; place < v->call.ring->size; place++) {
        if (!lacks(work, waiter, place)) continue;
        int rank = v->call.ring->members[place];
        v->culprit[rank] = !idle || !work->inside[rank].entry;
    }
    v->kind = kind_of_missing(v, work);
    v->other = work->inside[first_of(v->culprit, v->ranks)];
    if (v->pair || !idle || v->kind != VERDICT_NEVER_ENTERED || !made_too_many(v, work)) return;
    v->kind = VERDICT_ALONE;
    bool *missing = v->culprit;
    v->culprit = v->waiting;
    v->waiting = missing;
}

static void blame_waits(struct verdict *v, const struct work *work, bool *reached) {
    reach(work, reached, reached + v->ranks);
    int first = first_of(reached, v->ranks);
    if (first < 0) return;
    int waiter = choose_call(work, reached, true);
    bool idle = waiter >= 0;
    if (!idle) waiter = choose_call(work, reached, false);
    if (waiter >= 0) {
        blame_missing(v, work, waiter, idle);
        return;
    }
    v->kind = VERDICT_STUCK;
    v->call = work->inside[first];
    v->pair = ring_op_pairs((enum ring_op)v->call.entry->op);
    for (int r = 0; r < v->ranks; r++) v->waiting[r] = same_call(&v->call, &work->inside[r]);
}

static void decide(struct verdict *v, const struct work *work, int judge, bool *reached) {
    if (find_presence(v, work, GONE)) {
        blame_absent(v, work, VERDICT_GONE);
    } else if (find_presence(v, work, SILENT)) {
        bool far = hosts_are_silent(v, work, judge);
        blame_absent(v, work, far ? VERDICT_UNREACHABLE : VERDICT_SILENT);
    } else if (!find_mismatch(v, work) && !find_pair_mismatch(v, work)) {
        blame_waits(v, work, reached);
    }
    count_behind(v, work);
    tell_last(v, work);
}

enum status verdict_decide(struct verdict *v, const struct verdict_rank *ranks, int count,
                           int judge, double seconds) {
    struct work work = {.ranks = ranks, .count = count, .limit = (int64_t)(seconds * 1e9)};
    *v = (struct verdict){.ranks = count, .outside = -1.0};
    work.inside = calloc((size_t)count, sizeof *work.inside);
    v->culprit = calloc((size_t)count, sizeof *v->culprit);
    v->waiting = calloc((size_t)count, sizeof *v->waiting);
    bool *reached = calloc(2 * (size_t)count, sizeof *reached); /* and followed */
    enum status status = STATUS_OK;
    if (work.inside && v->culprit && v->waiting && reached) {
        for (int r = 0; r < count; r++) work.inside[r] = find_inside(rings_of(&work, r));
        decide(v, &work, judge, reached);
    } else {
        status = status_fail(STATUS_MEMORY, "no memory to judge %d ranks", count);
    }
    free(work.inside);
    free(reached);
    return status;
}

void verdict_free(struct verdict *verdict) {
    free(verdict->culprit);
    free(verdict->waiting);
    *verdict = (struct verdict){0};
}
