#include "parallel/verdict_internal.h"

#include <stdlib.h>
#include <string.h>

/* Ranks that the communicator of the caller's call has; 0 when it is inside none. */
static int members(const struct verdict_work *work, int caller) {
    return work->inside[caller].entry ? work->inside[caller].ring->size : 0;
}

static bool same_call(const struct verdict_call *a, const struct verdict_call *b) {
    if (!a->entry || !b->entry || a->ring->id != b->ring->id) return false;
    if (ring_op_pairs((enum ring_op)a->entry->op)) return a->entry == b->entry;
    return !ring_op_pairs((enum ring_op)b->entry->op) && a->entry->sequence == b->entry->sequence;
}

static bool overdue(const struct verdict_work *work, int rank) {
    const struct ring_entry *entry = work->inside[rank].entry;
    return entry && work->ranks[rank].rings->now - entry->waiting >= work->limit;
}

static int first_of(const bool *set, int count) {
    for (int i = 0; i < count; i++)
        if (set[i]) return i;
    return -1;
}

/* What the first culprit was last inside. */
static void tell_last(struct verdict *v, const struct verdict_work *work) {
    int rank = first_of(v->culprit, v->ranks);
    const struct rings_copy *rings = rank < 0 ? NULL : verdict_rings(work, rank);
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

static void count_behind(struct verdict *v, const struct verdict_work *work) {
    v->behind = 0;
    for (int r = 0; r < v->ranks; r++)
        v->behind += work->inside[r].entry && !v->waiting[r] && !v->culprit[r];
}

/* Ranks that no word comes from: what others wait in tells what they were needed for. */
static void blame_absent(struct verdict *v, const struct verdict_work *work,
                         enum verdict_kind kind) {
    v->kind = kind;
    for (int r = 0; r < v->ranks && !v->call.entry; r++) {
        const struct verdict_call *call = &work->inside[r];
        for (int c = 0; call->entry && c < v->ranks; c++)
            if (v->culprit[c] && verdict_place(call->ring, c) >= 0) v->call = *call;
    }
    for (int r = 0; r < v->ranks; r++) v->waiting[r] = same_call(&v->call, &work->inside[r]);
    v->pair = v->call.entry && ring_op_pairs((enum ring_op)v->call.entry->op);
}

static bool find_presence(struct verdict *v, const struct verdict_work *work,
                          enum presence presence) {
    for (int r = 0; r < v->ranks; r++) v->culprit[r] = work->ranks[r].presence == presence;
    return first_of(v->culprit, v->ranks) >= 0;
}

/* True when each culprit's whole host is silent, and it is not the judge's. */
static bool hosts_are_silent(const struct verdict *v, const struct verdict_work *work, int judge) {
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

/* Marks what is reached from overdue ranks by following verdict_lacks(). */
static void reach(const struct verdict_work *work, bool *reached, bool *followed) {
    for (int r = 0; r < work->count; r++) reached[r] = overdue(work, r);
    for (bool more = true; more;) {
        more = false;
        for (int from = 0; from < work->count; from++) {
            if (!reached[from] || followed[from]) continue;
            more = followed[from] = true;
            for (int place = 0; place < members(work, from); place++)
                if (verdict_lacks(work, from, place))
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
static int count_lacking(const struct verdict_work *work, int caller, bool waiting) {
    int count = 0;
    for (int place = 0; place < members(work, caller); place++) {
        if (!verdict_lacks(work, caller, place)) continue;
        int rank = work->inside[caller].ring->members[place];
        count += (work->inside[rank].entry != NULL) == waiting;
    }
    return count;
}

static struct weight_of_call weigh(const struct verdict_work *work, int caller) {
    struct weight_of_call weight = {.first = count_lacking(work, caller, true) == 0};
    for (int place = 0; place < members(work, caller) && !weight.missed; place++)
        weight.missed = verdict_needed(work, caller, place) == CALL_ABSENT;
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
static int64_t done_like(const struct verdict_work *work, int rank,
                         const struct verdict_call *call) {
    const struct rings_copy *rings = verdict_rings(work, rank);
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
static bool out_of_order(const struct verdict_work *work, int caller) {
    const struct verdict_call *call = &work->inside[caller];
    int missing = -1, ahead = 0;
    for (int place = 0; place < members(work, caller); place++) {
        if (!verdict_lacks(work, caller, place)) continue;
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
static int choose_call(const struct verdict_work *work, const bool *reached, bool idle) {
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

static enum verdict_kind kind_of_missing(const struct verdict *v, const struct verdict_work *work) {
    int first = first_of(v->culprit, v->ranks);
    if (work->ranks[first].presence == LEFT) return VERDICT_LEFT;
    return !v->pair && verdict_progress(work, first, &v->call) == CALL_STARTED
               ? VERDICT_NEVER_WAITED
               : VERDICT_NEVER_ENTERED;
}

/* More ranks went past a call than made it, and none of them is inside another one. */
static bool made_too_many(const struct verdict *v, const struct verdict_work *work) {
    int missing = 0, entered = 0;
    for (int i = 0; i < v->call.ring->size; i++) {
        if (!verdict_valid_member(work, v->call.ring, i)) continue;
        int rank = v->call.ring->members[i];
        if (verdict_progress(work, rank, &v->call) == CALL_ABSENT)
            missing++;
        else
            entered++;
        if (work->ranks[rank].presence != PRESENT) return false;
    }
    return missing > entered;
}

static void blame_missing(struct verdict *v, const struct verdict_work *work, int waiter,
                          bool idle) {
    v->call = work->inside[waiter];
    v->pair = ring_op_pairs((enum ring_op)v->call.entry->op);
    for (int r = 0; r < v->ranks; r++) v->waiting[r] = same_call(&v->call, &work->inside[r]);
    for (int place = 0; place < v->call.ring->size; place++) {
        if (!verdict_lacks(work, waiter, place)) continue;
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

static void blame_waits(struct verdict *v, const struct verdict_work *work, bool *reached) {
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

static void decide(struct verdict *v, const struct verdict_work *work, int judge, bool *reached) {
    if (find_presence(v, work, GONE)) {
        blame_absent(v, work, VERDICT_GONE);
    } else if (find_presence(v, work, SILENT)) {
        bool far = hosts_are_silent(v, work, judge);
        blame_absent(v, work, far ? VERDICT_UNREACHABLE : VERDICT_SILENT);
    } else if (!verdict_find_mismatch(v, work) && !verdict_find_pair_mismatch(v, work)) {
        blame_waits(v, work, reached);
    }
    count_behind(v, work);
    tell_last(v, work);
}

enum status verdict_decide(struct verdict *v, const struct verdict_rank *ranks, int count,
                           int judge, double seconds) {
    struct verdict_work work = {.ranks = ranks, .count = count, .limit = (int64_t)(seconds * 1e9)};
    *v = (struct verdict){.ranks = count, .outside = -1.0};
    work.inside = calloc((size_t)count, sizeof *work.inside);
    v->culprit = calloc((size_t)count, sizeof *v->culprit);
    v->waiting = calloc((size_t)count, sizeof *v->waiting);
    bool *reached = calloc(2 * (size_t)count, sizeof *reached); /* and followed */
    enum status status = STATUS_OK;
    if (work.inside && v->culprit && v->waiting && reached) {
        for (int r = 0; r < count; r++) work.inside[r] = verdict_inside(verdict_rings(&work, r));
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
