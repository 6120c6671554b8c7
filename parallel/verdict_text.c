/* The words of a verdict. */
#include "kernels/base/dtype.h"
#include "parallel/verdict.h"

#include <ctype.h>
#include <stdarg.h>
#include <string.h>

/* Text that grows within its room; what doesn't fit is cut. */
struct text {
    char *at;
    size_t left;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text->at, text->left, format, arguments);
    va_end(arguments);
    size_t used = n < 0 ? 0 : (size_t)n < text->left ? (size_t)n : text->left - 1;
    text->at += used;
    text->left -= used;
}

/* Ranks marked in `in`; of those, where a host is given, the ranks on it. */
struct rank_set {
    const bool *in;
    int count;
    const struct verdict_rank *ranks;
    const char *host;
};

static bool has(const struct rank_set *set, int rank) {
    return rank < set->count && set->in[rank] &&
           (!set->host || strcmp(set->ranks[rank].host, set->host) == 0);
}

/* "rank 5", "ranks 4, 6, 7", "ranks 0-62, 64": more than three neighbours become a range. */
static void add_set(struct text *text, const struct rank_set *set) {
    int count = 0;
    const char *between = "";
    for (int r = 0; r < set->count; r++) count += has(set, r);
    add(text, count == 1 ? "rank " : "ranks ");
    for (int r = 0; r < set->count;) {
        int length = 0;
        while (has(set, r + length)) length++;
        bool range = length > 3;
        if (range)
            add(text, "%s%d-%d", between, r, r + length - 1);
        else if (length > 0)
            add(text, "%s%d", between, r);
        if (length > 0) between = ", ";
        r += range ? length : 1;
    }
}

static void add_ranks(struct text *text, const bool *in, int ranks) {
    add_set(text, &(struct rank_set){.in = in, .count = ranks});
}

/* "rank 5 @ n2", "ranks 2, 3 @ n2, rank 4 @ n3" */
static void add_culprits(struct text *text, const struct verdict *v,
                         const struct verdict_rank *ranks) {
    enum { HOSTS = 8 };
    int hosts = 0;
    for (int r = 0; r < v->ranks; r++) {
        struct rank_set same = {v->culprit, r, ranks, ranks[r].host};
        bool told = !v->culprit[r];
        for (int i = 0; i < r && !told; i++) told = has(&same, i);
        if (told) continue;
        if (hosts == HOSTS) {
            add(text, ", and more");
            return;
        }
        same.count = v->ranks;
        add(text, hosts++ > 0 ? ", " : "");
        add_set(text, &same);
        add(text, " @ %s", ranks[r].host);
    }
}

static void add_elements(struct text *text, const struct ring_entry *entry) {
    char type[16];
    snprintf(type, sizeof type, "%s", dtype_info((enum dtype)entry->dtype)->name);
    for (char *c = type; *c; c++) *c = (char)tolower((unsigned char)*c);
    if (entry->op != RING_BARRIER && entry->op != RING_SPLIT)
        add(text, " with %lld %s", (long long)entry->count, type);
}

static int member(const struct ring_copy *ring, int place) {
    return place >= 0 && place < ring->size ? ring->members[place] : -1;
}

/* " to rank 3": the other end of a send, receive or broadcast. */
static void add_peer(struct text *text, const struct ring_copy *ring,
                     const struct ring_entry *entry) {
    if (entry->op == RING_SEND)
        add(text, " to rank %d", member(ring, entry->peer));
    else if (entry->op == RING_RECV || entry->op == RING_BROADCAST)
        add(text, " from rank %d", member(ring, entry->peer));
}

/* " (layer 12 backward, microbatch 3)" */
static void add_where(struct text *text, const struct ring_entry *entry) {
    const char *phase = entry->phase == WHERE_FORWARD ? "forward" : "backward";
    if (entry->phase != WHERE_FORWARD && entry->phase != WHERE_BACKWARD) return;
    if (entry->layer == WHERE_EMBEDDING || entry->layer == WHERE_HEAD)
        add(text, " (%s", entry->layer == WHERE_HEAD ? "head" : "embedding");
    else
        add(text, " (layer %d", entry->layer);
    add(text, " %s", phase);
    if (entry->microbatch >= 0) add(text, ", microbatch %d", entry->microbatch);
    add(text, ")");
}

/* "tp all_reduce #1559 (layer 12 backward, microbatch 3)" */
static void add_call(struct text *text, const struct verdict_call *call) {
    add(text, "%s %s #%lld", call->ring->name, ring_op_name((enum ring_op)call->entry->op),
        (long long)call->entry->sequence);
    add_peer(text, call->ring, call->entry);
    add_where(text, call->entry);
}

/* The call that culprits owe: of a pair the other end. */
static void add_owed(struct text *text, const struct verdict *v) {
    if (!v->pair) {
        add_call(text, &v->call);
        return;
    }
    bool send = v->call.entry->op == RING_SEND;
    add(text, "%s %s #%lld %s ", v->call.ring->name, send ? "recv" : "send",
        (long long)v->call.entry->sequence, send ? "from" : "to");
    add_ranks(text, v->waiting, v->ranks);
    add_where(text, v->call.entry);
}

static bool any(const bool *set, int count) {
    return memchr(set, true, (size_t)count) != NULL;
}

static bool several(const bool *set, int count) {
    int n = 0;
    for (int i = 0; i < count; i++) n += set[i];
    return n > 1;
}

/* "; ranks 4, 6, 7 wait" */
static void add_waiting(struct text *text, const struct verdict *v, bool name_call) {
    if (any(v->waiting, v->ranks)) {
        add(text, "; ");
        add_ranks(text, v->waiting, v->ranks);
        add(text, several(v->waiting, v->ranks) ? " wait" : " waits");
        if (name_call) add(text, " in ");
        if (name_call) add_call(text, &v->call);
    }
    if (v->behind > 0) add(text, "; behind them %d more", v->behind);
}

/* What the first culprit is doing instead. */
static void add_instead(struct text *text, const struct verdict *v,
                        const struct verdict_rank *ranks) {
    int first = 0;
    while (first < v->ranks && !v->culprit[first]) first++;
    if (first == v->ranks) return;
    const char *note = ranks[first].rings ? ranks[first].rings->note : "";
    if (*note) {
        add(text, "; rank %d: %s", first, note);
    } else if (v->other.entry) {
        add(text, "; rank %d waits in ", first);
        add_call(text, &v->other);
    } else if (v->outside >= 0.0) {
        add(text, "; rank %d has been outside any call for %.1f s, since ", first, v->outside);
        add_call(text, &v->last);
    }
}

/* " called dp all_reduce #12 with 4096 f32 where ranks 0, 1, 2 called it with 8192 f32" */
static void add_mismatch(struct text *text, const struct verdict *v) {
    bool same = v->call.entry->op == v->other.entry->op;
    add(text, " called %s %s #%lld", v->other.ring->name,
        ring_op_name((enum ring_op)v->other.entry->op), (long long)v->other.entry->sequence);
    add_elements(text, v->other.entry);
    add_peer(text, v->other.ring, v->other.entry);
    add_where(text, v->other.entry);
    add(text, " where ");
    add_ranks(text, v->waiting, v->ranks);
    add(text, " called %s", same ? "it" : ring_op_name((enum ring_op)v->call.entry->op));
    add_elements(text, v->call.entry);
    add_peer(text, v->call.ring, v->call.entry);
    add_where(text, v->call.entry);
}

static void add_stuck(struct text *text, const struct verdict *v) {
    add(text, "nobody is missing in ");
    add_call(text, &v->call);
    add(text, " and it does not end: the network or the library is stuck");
    add_waiting(text, v, false);
}

void verdict_line(const struct verdict *v, const struct verdict_rank *ranks, char *room,
                  size_t bytes) {
    struct text text = {room, bytes};
    *room = '\0';
    if (v->kind == VERDICT_STUCK) add_stuck(&text, v);
    if (v->kind == VERDICT_STUCK || v->kind == VERDICT_NONE) return;
    add_culprits(&text, v, ranks);
    bool plural = several(v->culprit, v->ranks);
    switch (v->kind) {
    case VERDICT_GONE:
        add(&text, "%s gone: the process ended", plural ? " are" : " is");
        add_waiting(&text, v, true);
        break;
    case VERDICT_SILENT:
        add(&text, "%s not answer: stopped", plural ? " do" : " does");
        add_waiting(&text, v, true);
        break;
    case VERDICT_UNREACHABLE:
        add(&text, " can't be reached: stopped, or the host or the link to it is down");
        add_waiting(&text, v, true);
        break;
    case VERDICT_MISMATCH:
        add_mismatch(&text, v);
        break;
    case VERDICT_LEFT:
        add(&text, " left the job without ");
        add_owed(&text, v);
        add_waiting(&text, v, false);
        break;
    case VERDICT_NEVER_WAITED:
        add(&text, " started and never waited for ");
        add_call(&text, &v->call);
        add_waiting(&text, v, false);
        add_instead(&text, v, ranks);
        break;
    case VERDICT_ALONE:
        add(&text, "%s alone in ", plural ? " wait" : " waits");
        add_call(&text, &v->call);
        add(&text, "; ");
        add_ranks(&text, v->waiting, v->ranks);
        add(&text, " never entered it");
        break;
    default:
        add(&text, " never entered ");
        add_owed(&text, v);
        add_waiting(&text, v, false);
        add_instead(&text, v, ranks);
        break;
    }
}

static const char *presence_word(const struct verdict_rank *rank) {
    static const char *const words[] = {[PRESENT] = "answered",
                                        [GONE] = "gone",
                                        [SILENT] = "does not answer",
                                        [LEFT] = "left the job",
                                        [UNKNOWN] = "unknown"};
    return words[rank->presence];
}

/* Seconds before the copy was made; "-" where it hasn't happened. */
static void print_age(FILE *file, int64_t now, int64_t at) {
    if (at)
        fprintf(file, " %10.3f", 1e-9 * (double)(now - at));
    else
        fprintf(file, " %10s", "-");
}

static void print_entry(FILE *file, int64_t now, const struct ring_copy *ring,
                        const struct ring_entry *entry) {
    char room[256];
    struct text text = {room, sizeof room};
    fprintf(file, "   ");
    print_age(file, now, entry->entered);
    print_age(file, now, entry->waiting);
    print_age(file, now, entry->left);
    add_call(&text, &(struct verdict_call){ring, entry});
    add_elements(&text, entry);
    fprintf(file, "  %s\n", room);
}

static void print_ring(FILE *file, int64_t now, const struct ring_copy *ring) {
    enum { ENTRIES_SHOWN = 32, MEMBERS_SHOWN = 64 };
    fprintf(file, "  %s of ranks", ring->name);
    for (int i = 0; i < ring->size && i < MEMBERS_SHOWN; i++)
        fprintf(file, "%s %d", i ? "," : "", ring->members[i]);
    fprintf(file, "%s: %lld collectives\n", ring->size > MEMBERS_SHOWN ? ", ..." : "",
            (long long)ring->collectives);
    int first = ring->entry_count > ENTRIES_SHOWN ? ring->entry_count - ENTRIES_SHOWN : 0;
    for (int e = first; e < ring->entry_count; e++) print_entry(file, now, ring, &ring->entries[e]);
}

void verdict_table(const struct verdict *v, const struct verdict_rank *ranks, FILE *file) {
    char line[2048];
    verdict_line(v, ranks, line, sizeof line);
    fprintf(file, "%s\n\nThe last calls of every rank; seconds ago: entered, inside since, left.\n",
            line);
    for (int r = 0; r < v->ranks; r++) {
        fprintf(file, "\nrank %d @ %s: %s\n", r, ranks[r].host, presence_word(&ranks[r]));
        const struct rings_copy *rings = ranks[r].rings;
        if (rings && *rings->note) fprintf(file, "  %s\n", rings->note);
        for (int i = 0; rings && i < rings->count; i++)
            print_ring(file, rings->now, &rings->ring[i]);
    }
}
