/* The events of all ranks, on one clock, in one file. Format: "Trace Event Format", Google, the
 * JSON object form; ts and dur are microseconds. */
#define _GNU_SOURCE
#include "kernels/base/clock.h"
#include "train/trace.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUND_TRIPS = 16, LABEL_BYTES = 128, NAME_BYTES = 48 };

/* An event as it travels. */
struct sent_event {
    double begin, end, started; /* seconds after the first event of all ranks */
    int64_t elements;
    int32_t microbatch, first_layer, end_layer, kind;
    char name[NAME_BYTES];
};

struct sent_head {
    int64_t count, dropped;
    char label[LABEL_BYTES];
};

/* How much later rank 0's clock is than mine. Half of the fastest round trip is the error. */
static double offset_to_first(struct comm *world, struct stream *s) {
    double offset = 0.0;
    for (int rank = 1; rank < world->size; rank++) {
        double fastest = DBL_MAX;
        for (int i = 0; i < ROUND_TRIPS && (world->rank == 0 || world->rank == rank); i++) {
            double theirs, now = clock_seconds();
            if (world->rank == 0) {
                comm_recv(world, s, &theirs, 1, DTYPE_F64, rank);
                theirs = clock_seconds();
                comm_send(world, s, &theirs, 1, DTYPE_F64, rank);
                continue;
            }
            comm_send(world, s, &now, 1, DTYPE_F64, 0);
            comm_recv(world, s, &theirs, 1, DTYPE_F64, 0);
            double trip = clock_seconds() - now;
            if (trip < fastest) {
                fastest = trip;
                offset = theirs - (now + trip / 2.0);
            }
        }
    }
    return offset;
}

/* The first event's begin on rank 0's clock, over all ranks. */
static double find_origin(const struct trace *trace, struct comm *world, struct stream *s,
                          double offset) {
    double first = DBL_MAX;
    for (int64_t i = 0; i < trace->count; i++) first = fmin(first, trace->events[i].begin + offset);
    comm_all_reduce(world, s, &first, 1, DTYPE_F64, COMM_MIN);
    return first;
}

static void pack(const struct trace *trace, double shift, struct sent_event *sent) {
    for (int64_t i = 0; i < trace->count; i++) {
        const struct trace_event *event = &trace->events[i];
        sent[i] =
            (struct sent_event){.begin = event->begin + shift,
                                .end = event->end + shift,
                                .started = event->started > 0.0 ? event->started + shift : -1.0,
                                .elements = event->elements,
                                .microbatch = event->microbatch,
                                .first_layer = event->first_layer,
                                .end_layer = event->end_layer,
                                .kind = (int32_t)event->kind};
        if (event->op)
            snprintf(sent[i].name, NAME_BYTES, "%s %s", event->comm, event->op);
        else if (event->microbatch >= 0)
            snprintf(sent[i].name, NAME_BYTES, "%s %d", trace_kind_name(event->kind),
                     event->microbatch);
        else
            snprintf(sent[i].name, NAME_BYTES, "%s", trace_kind_name(event->kind));
    }
}

static void print_event(FILE *out, int rank, const struct sent_event *event, int64_t id) {
    const char *kind = trace_kind_name((enum trace_kind)event->kind);
    fprintf(out,
            ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":0,\"ts\":%.3f,\"dur\":%.3f,\"cat\":\"%s\","
            "\"name\":\"%s\",\"args\":{",
            rank, event->begin * 1e6, (event->end - event->begin) * 1e6, kind, event->name);
    if (event->kind == TRACE_COLLECTIVE || event->kind == TRACE_EXCHANGE)
        fprintf(out, "\"elements\":%lld", (long long)event->elements);
    if (event->microbatch >= 0) fprintf(out, "\"microbatch\":%d", event->microbatch);
    if (event->first_layer >= 0)
        fprintf(out, "%s\"first_layer\":%d,\"end_layer\":%d", event->microbatch >= 0 ? "," : "",
                event->first_layer, event->end_layer);
    fputs("}}", out);
    if (event->started < 0.0) return;
    for (int end = 0; end < 2; end++) /* from its start to the end of the wait for it */
        fprintf(out,
                ",\n{\"ph\":\"%s\",\"pid\":%d,\"tid\":0,\"ts\":%.3f,\"cat\":\"flight\",\"name\":"
                "\"%s\",\"id\":\"%d.%lld\"}",
                end ? "e" : "b", rank, (end ? event->end : event->started) * 1e6, event->name, rank,
                (long long)id);
}

static void print_rank(FILE *out, int rank, const struct sent_head *head,
                       const struct sent_event *events) {
    fprintf(out,
            "%s\n{\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"name\":\"process_name\",\"args\":{\"name\":"
            "\"%s\"}},\n{\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"name\":\"process_sort_index\","
            "\"args\":{\"sort_index\":%d}}",
            rank ? "," : "", rank, head->label, rank, rank);
    if (head->dropped > 0) /* an instant: what is missing should not look like idleness */
        fprintf(out,
                ",\n{\"ph\":\"i\",\"pid\":%d,\"tid\":0,\"ts\":0,\"s\":\"p\",\"name\":\"%lld events "
                "did not fit\"}",
                rank, (long long)head->dropped);
    for (int64_t i = 0; i < head->count; i++) print_event(out, rank, &events[i], i);
}

/* A label in JSON's quotes. */
static void copy_label(char out[LABEL_BYTES], const char *label) {
    snprintf(out, LABEL_BYTES, "%s", label);
    for (char *at = out; *at; at++)
        if ((unsigned char)*at < ' ' || *at == '"' || *at == '\\') *at = '_';
}

/* Rank 0 takes rank after rank, so it never holds more than two ranks' events. */
static enum status gather(struct comm *world, struct stream *s, const struct sent_head *mine,
                          const struct sent_event *events, FILE *out) {
    enum { HEAD = sizeof(struct sent_head), EVENT = sizeof(struct sent_event) };
    if (world->rank != 0) {
        comm_send(world, s, mine, HEAD, DTYPE_U8, 0);
        comm_send(world, s, events, mine->count * EVENT, DTYPE_U8, 0);
        return STATUS_OK;
    }
    struct sent_event *theirs = malloc(TRACE_EVENTS * sizeof *theirs);
    if (!theirs) return status_fail(STATUS_PEER, "no memory to gather a trace"); /* they wait */
    if (out) print_rank(out, 0, mine, events);
    for (int rank = 1; rank < world->size; rank++) {
        struct sent_head head = {0};
        comm_recv(world, s, &head, HEAD, DTYPE_U8, rank);
        if (s->status != STATUS_OK) break;
        comm_recv(world, s, theirs, head.count * EVENT, DTYPE_U8, rank);
        if (s->status != STATUS_OK) break;
        if (out) print_rank(out, rank, &head, theirs);
    }
    free(theirs);
    return STATUS_OK;
}

static enum status write_file(struct trace *trace, struct comm *world, struct stream *s,
                              const char *path, const struct sent_head *head,
                              const struct sent_event *events) {
    FILE *out = world->rank == 0 ? fopen(path, "w") : NULL;
    int code = world->rank == 0 && !out ? errno : 0;
    if (out) fprintf(out, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
    enum status status = gather(world, s, head, events, out);
    if (out) {
        fprintf(out, "\n]}\n");
        if (ferror(out)) code = errno;
        if (fclose(out) != 0) code = errno;
    }
    TRY(status);
    TRY(stream_check(s));
    trace->count = trace->dropped = 0;
    if (code) return status_fail(STATUS_IO, "%s: %s", path, strerror(code));
    return STATUS_OK;
}

enum status trace_write(struct trace *trace, struct comm *world, const char *path,
                        const char *label) {
    struct stream s;
    stream_open_cpu(&s, 1);
    struct sent_head head = {.count = trace->count, .dropped = trace->dropped};
    copy_label(head.label, label);
    double offset = offset_to_first(world, &s);
    double origin = find_origin(trace, world, &s, offset);
    TRY(stream_check(&s));
    struct sent_event *events = malloc((size_t)(trace->count + 1) * sizeof *events);
    if (!events) return status_fail(STATUS_PEER, "no memory to gather a trace");
    pack(trace, offset - origin, events);
    enum status status = write_file(trace, world, &s, path, &head, events);
    free(events);
    return status;
}
