/* What a rank does and when: spans of computing, and every collective.
 *
 *     struct trace_span span = trace_begin(trace, TRACE_FORWARD, microbatch, first_layer,
 * end_layer);
 *     ... forward ...
 *     trace_end(trace, &span);
 *
 * Collectives need no such lines: while a trace watches communicators (a step long), their ops are
 * replaced by ones that note the time and call the real ones. Spans may contain collectives; other
 * spans don't overlap on a rank.
 *
 * Two sums are always kept, for about 60 ns a span; events only while `on`, into memory allocated
 * beforehand. All times are seconds of this host's monotonic clock. */
#ifndef STRATA_TRAIN_TRACE_H
#define STRATA_TRAIN_TRACE_H

#include "core/comm.h"

enum trace_kind {
    TRACE_DATA,
    TRACE_FORWARD,
    TRACE_LOSS,
    TRACE_BACKWARD,        /* all of it */
    TRACE_BACKWARD_INPUT,  /* or the gradient of the input, */
    TRACE_BACKWARD_WEIGHT, /* and that of the weights */
    TRACE_OPTIMIZER,
    TRACE_VALIDATION,
    TRACE_CHECKPOINT,
    TRACE_COLLECTIVE, /* inside a call that all ranks of a communicator make */
    TRACE_EXCHANGE,   /* inside a send, a receive, or a wait for one */
    TRACE_KINDS
};

/* "forward", "backward_input", ...; also the category of an event in a file. */
const char *trace_kind_name(enum trace_kind kind);

enum { TRACE_NONE = -1 /* no microbatch, no layer */, TRACE_EVENTS = 1 << 16, TRACE_COMMS = 16 };

struct trace_event {
    double begin, end;
    double started;        /* of a wait: when the collective was started; else 0 */
    const char *comm, *op; /* of a collective: string literals; else NULL */
    int64_t elements;      /* of a collective, as the caller gave them */
    int32_t microbatch, first_layer, end_layer; /* layers [first, end) */
    enum trace_kind kind;
};

/* A started collective that nobody has waited for yet. */
struct trace_flight {
    const struct comm_request *request;
    double started;
    const char *op;
    int64_t elements;
    enum trace_kind kind;
};

struct trace;
struct trace_watched {
    struct comm inner; /* as it was */
    struct comm *comm;
    struct trace *trace;
};

struct trace {
    bool on;
    double waited;  /* seconds inside collectives so far */
    double compute; /* seconds of forward, loss and backward so far, without collectives */
    int64_t count, capacity, dropped;
    struct trace_event *events; /* (capacity), owned */
    int flight_count, flight_capacity;
    struct trace_flight *flights; /* owned */
    int watched_count;
    struct trace_watched watched[TRACE_COMMS];
};

/* Memory for TRACE_EVENTS events; without it `on` records nothing. STATUS_MEMORY. */
enum status trace_open(struct trace *trace);
void trace_close(struct trace *trace); /* may be called twice, and on a zeroed struct */

struct trace_span {
    struct trace_event event;
    double waited;
};
struct trace_span trace_begin(const struct trace *trace, enum trace_kind kind, int microbatch,
                              int first_layer, int end_layer);
void trace_end(struct trace *trace, struct trace_span *span);

/* One that has neither a microbatch nor layers. */
static inline struct trace_span trace_begin_phase(const struct trace *trace, enum trace_kind kind) {
    return trace_begin(trace, kind, TRACE_NONE, TRACE_NONE, TRACE_NONE);
}

/* Keeps an event if the trace is on and has room. */
void trace_record(struct trace *trace, const struct trace_event *event);

/* Watches a communicator until trace_unwatch, which puts all of them back. One of a single rank, or
 * that is not open, is left alone. The trace and the communicators must not move meanwhile. */
void trace_watch(struct trace *trace, struct comm *comm);
void trace_unwatch(struct trace *trace);

/* Writes what was recorded by all ranks as Chrome trace events (docs/observability.md), one process
 * a rank, clocks aligned with rank 0's by the fastest of several round trips; then forgets the
 * events. `label` says who this rank is. Rank 0 writes; the others return STATUS_OK unless a
 * collective fails. Collective over world, which is not being watched. */
enum status trace_write(struct trace *trace, struct comm *world, const char *path,
                        const char *label);

#endif
