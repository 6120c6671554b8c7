#include "train/timeline.h"

#include "core/json_util.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- reading ---------------------------------------------------------------------------------- */

static bool find_kind(const char *name, enum trace_kind *kind) {
    for (int i = 0; name && i < TRACE_KINDS; i++) {
        if (strcmp(name, trace_kind_name((enum trace_kind)i)) != 0) continue;
        *kind = (enum trace_kind)i;
        return true;
    }
    return false;
}

static enum status read_rank(const json_t *event, const char *path, int32_t *rank) {
    int64_t pid = 0;
    TRY(json_field_i64(event, path, "pid", JSON_REQUIRED, 0, TIMELINE_MAX_RANKS - 1, &pid));
    *rank = (int32_t)pid;
    return STATUS_OK;
}

static enum status read_event(struct timeline *timeline, const json_t *object, const char *path) {
    struct timeline_event *event = &timeline->events[timeline->count];
    double begin = 0.0, duration = 0.0;
    int64_t microbatch = TRACE_NONE;
    if (!find_kind(json_string_value(json_object_get(object, "cat")), &event->kind))
        return STATUS_OK;
    TRY(read_rank(object, path, &event->rank));
    TRY(json_field_f64(object, path, "ts", JSON_REQUIRED, &begin));
    TRY(json_field_f64(object, path, "dur", JSON_REQUIRED, &duration));
    if (!isfinite(begin + duration) || duration < 0.0)
        return status_fail(STATUS_FORMAT, "%s: an event of rank %d lasts %g us", path, event->rank,
                           duration);
    const json_t *arguments = json_object_get(object, "args");
    if (json_is_object(arguments))
        TRY(json_field_i64(arguments, path, "microbatch", JSON_OPTIONAL, TRACE_NONE, INT32_MAX,
                           &microbatch));
    event->microbatch = (int32_t)microbatch;
    event->begin = begin * 1e-3;
    event->end = (begin + duration) * 1e-3;
    if (event->rank >= timeline->ranks) timeline->ranks = event->rank + 1;
    timeline->count++;
    return STATUS_OK;
}

static enum status read_events(struct timeline *timeline, const json_t *list, const char *path) {
    size_t i;
    const json_t *event;
    json_array_foreach(list, i, event) {
        const char *phase = json_string_value(json_object_get(event, "ph"));
        if (phase && strcmp(phase, "X") == 0) TRY(read_event(timeline, event, path));
    }
    return STATUS_OK;
}

/* The names that ranks were given; "rank N" for those without one. */
static void read_labels(struct timeline *timeline, const json_t *list) {
    size_t i;
    const json_t *event;
    for (int rank = 0; rank < timeline->ranks; rank++)
        snprintf(timeline->labels[rank], TIMELINE_LABEL_BYTES, "rank %d", rank);
    json_array_foreach(list, i, event) {
        const char *name = json_string_value(json_object_get(event, "name"));
        json_int_t rank = json_integer_value(json_object_get(event, "pid"));
        const char *label =
            json_string_value(json_object_get(json_object_get(event, "args"), "name"));
        if (name && label && strcmp(name, "process_name") == 0 && rank >= 0 &&
            rank < timeline->ranks)
            snprintf(timeline->labels[rank], TIMELINE_LABEL_BYTES, "%s", label);
    }
}

static int by_rank_and_time(const void *a, const void *b) {
    const struct timeline_event *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Validation and checkpoint end a step: what begins with them or later isn't part of it. */
static enum status keep_step(struct timeline *timeline, const char *path) {
    int64_t kept = 0;
    int over = -1; /* the rank whose step is */
    timeline->begin = INFINITY;
    timeline->end = -INFINITY;
    for (int64_t i = 0; i < timeline->count; i++) {
        const struct timeline_event event = timeline->events[i];
        if (event.kind == TRACE_VALIDATION || event.kind == TRACE_CHECKPOINT) over = event.rank;
        if (event.rank == over) continue;
        timeline->begin = fmin(timeline->begin, event.begin);
        timeline->end = fmax(timeline->end, event.end);
        timeline->events[kept++] = event;
    }
    timeline->count = kept;
    return kept > 0 ? STATUS_OK : status_fail(STATUS_FORMAT, "%s: no event of a step in it", path);
}

/* --- shares ----------------------------------------------------------------------------------- */

/* A span begins (+1) or ends (-1). */
struct edge {
    double at;
    enum trace_kind kind;
    int change;
};

static int by_time(const void *a, const void *b) {
    const struct edge *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static int list_edges(const struct timeline_event *events, int64_t count, struct edge *edges) {
    int used = 0;
    for (int64_t i = 0; i < count; i++) {
        edges[used++] = (struct edge){events[i].begin, events[i].kind, 1};
        edges[used++] = (struct edge){events[i].end, events[i].kind, -1};
    }
    qsort(edges, (size_t)used, sizeof *edges, by_time);
    return used;
}

/* Of spans inside each other the innermost counts: waiting for a message, then a collective. */
static struct timeline_shares share(const struct timeline *timeline, const struct edge *edges,
                                    int count) {
    int exchanges = 0, collectives = 0, others = 0;
    double at = timeline->begin, busy = 0.0, collective = 0.0;
    double whole = timeline->end - timeline->begin;
    for (int i = 0; i < count; at = edges[i++].at) {
        double passed = edges[i].at - at;
        if (exchanges == 0 && collectives > 0) collective += passed;
        if (exchanges == 0 && collectives == 0 && others > 0) busy += passed;
        exchanges += edges[i].kind == TRACE_EXCHANGE ? edges[i].change : 0;
        collectives += edges[i].kind == TRACE_COLLECTIVE ? edges[i].change : 0;
        others += edges[i].kind < TRACE_COLLECTIVE ? edges[i].change : 0;
    }
    if (!(whole > 0.0)) return (struct timeline_shares){0};
    return (struct timeline_shares){busy / whole, collective / whole,
                                    fmax(0.0, 1.0 - (busy + collective) / whole)};
}

static enum status fill_shares(struct timeline *timeline) {
    struct edge *edges = malloc((size_t)timeline->count * 2 * sizeof *edges);
    if (!edges) return status_fail(STATUS_MEMORY, "no memory for a trace's shares");
    for (int64_t first = 0, end; first < timeline->count; first = end) {
        int rank = timeline->events[first].rank;
        for (end = first; end < timeline->count && timeline->events[end].rank == rank;) end++;
        int count = list_edges(timeline->events + first, end - first, edges);
        timeline->shares[rank] = share(timeline, edges, count);
    }
    free(edges);
    return STATUS_OK;
}

struct timeline_shares timeline_mean(const struct timeline *timeline) {
    struct timeline_shares mean = {0};
    for (int i = 0; i < timeline->ranks; i++) {
        mean.busy += timeline->shares[i].busy / timeline->ranks;
        mean.collective += timeline->shares[i].collective / timeline->ranks;
        mean.bubble += timeline->shares[i].bubble / timeline->ranks;
    }
    return mean;
}

static enum status build(struct timeline *timeline, const json_t *root, const char *path) {
    const json_t *list = json_is_array(root) ? root : json_object_get(root, "traceEvents");
    if (!json_is_array(list))
        return status_fail(STATUS_FORMAT, "%s: `traceEvents` is not a list", path);
    timeline->events = calloc(json_array_size(list) + 1, sizeof *timeline->events);
    if (!timeline->events) return status_fail(STATUS_MEMORY, "no memory to read %s", path);
    TRY(read_events(timeline, list, path));
    timeline->labels = calloc((size_t)timeline->ranks + 1, sizeof *timeline->labels);
    timeline->shares = calloc((size_t)timeline->ranks + 1, sizeof *timeline->shares);
    if (!timeline->labels || !timeline->shares)
        return status_fail(STATUS_MEMORY, "no memory to read %s", path);
    for (int rank = 0; rank < timeline->ranks; rank++) timeline->shares[rank].bubble = 1.0;
    read_labels(timeline, list);
    qsort(timeline->events, (size_t)timeline->count, sizeof *timeline->events, by_rank_and_time);
    TRY(keep_step(timeline, path));
    return fill_shares(timeline);
}

enum status timeline_read(struct timeline *timeline, const char *path) {
    json_t *root;
    *timeline = (struct timeline){0};
    TRY(json_parse_file(&root, path));
    enum status status = build(timeline, root, path);
    json_decref(root);
    if (status != STATUS_OK) timeline_free(timeline);
    return status;
}

void timeline_free(struct timeline *timeline) {
    free(timeline->labels);
    free(timeline->events);
    free(timeline->shares);
    *timeline = (struct timeline){0};
}
