/* The ops that stand in for a communicator's own while a trace watches it. */
#include "train/trace.h"

#include "kernels/base/clock.h"

#include <assert.h>

static struct trace_watched *watched(struct comm *comm) {
    return comm->state;
}

static struct trace_event enter(struct comm *comm, enum trace_kind kind, const char *op,
                                int64_t elements) {
    return (struct trace_event){.begin = clock_seconds(),
                                .comm = comm->name,
                                .op = op,
                                .elements = elements,
                                .microbatch = TRACE_NONE,
                                .first_layer = TRACE_NONE,
                                .end_layer = TRACE_NONE,
                                .kind = kind};
}

static void leave(struct comm *comm, struct trace_event *event) {
    struct trace *trace = watched(comm)->trace;
    event->end = clock_seconds();
    trace->waited += event->end - event->begin;
    trace_record(trace, event);
}

/* The start itself is inside a call too, if only for a moment. */
static void leave_started(struct comm *comm, struct trace_event *event,
                          const struct comm_request *request, const char *op) {
    struct trace *trace = watched(comm)->trace;
    leave(comm, event);
    if (!trace->on || trace->flight_count == trace->flight_capacity) return;
    trace->flights[trace->flight_count++] =
        (struct trace_flight){request, event->begin, op, event->elements, event->kind};
}

static bool take_flight(struct trace *trace, const struct comm_request *request,
                        struct trace_flight *flight) {
    for (int i = trace->flight_count - 1; i >= 0; i--) {
        if (trace->flights[i].request != request) continue;
        *flight = trace->flights[i];
        trace->flights[i] = trace->flights[--trace->flight_count];
        return true;
    }
    return false;
}

static void watched_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                               enum dtype type, enum comm_sum sum) {
    struct trace_event event = enter(comm, TRACE_COLLECTIVE, "all_reduce", count);
    comm_all_reduce(&watched(comm)->inner, s, buffer, count, type, sum);
    leave(comm, &event);
}

static void watched_all_reduce_ordered(struct comm *comm, struct stream *s, void *buffer,
                                       int64_t count, enum dtype type) {
    struct trace_event event = enter(comm, TRACE_COLLECTIVE, "all_reduce_ordered", count);
    comm_all_reduce_ordered(&watched(comm)->inner, s, buffer, count, type);
    leave(comm, &event);
}

static void watched_reduce_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                                   int64_t count, enum dtype type) {
    struct trace_event event = enter(comm, TRACE_COLLECTIVE, "reduce_scatter", count);
    comm_reduce_scatter(&watched(comm)->inner, s, out, in, count, type);
    leave(comm, &event);
}

static void watched_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                               int64_t count, enum dtype type) {
    struct trace_event event = enter(comm, TRACE_COLLECTIVE, "all_gather", count);
    comm_all_gather(&watched(comm)->inner, s, out, in, count, type);
    leave(comm, &event);
}

static void watched_broadcast(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                              enum dtype type, int root) {
    struct trace_event event = enter(comm, TRACE_COLLECTIVE, "broadcast", count);
    comm_broadcast(&watched(comm)->inner, s, buffer, count, type, root);
    leave(comm, &event);
}

static void watched_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                         enum dtype type, int to) {
    struct trace_event event = enter(comm, TRACE_EXCHANGE, "send", count);
    comm_send(&watched(comm)->inner, s, buffer, count, type, to);
    leave(comm, &event);
}

static void watched_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                         enum dtype type, int from) {
    struct trace_event event = enter(comm, TRACE_EXCHANGE, "recv", count);
    comm_recv(&watched(comm)->inner, s, buffer, count, type, from);
    leave(comm, &event);
}

static void watched_barrier(struct comm *comm, struct stream *s) {
    struct trace_event event = enter(comm, TRACE_COLLECTIVE, "barrier", 0);
    comm_barrier(&watched(comm)->inner, s);
    leave(comm, &event);
}

static void watched_start_all_reduce(struct comm *comm, struct stream *s, void *buffer,
                                     int64_t count, enum dtype type, struct comm_request *request) {
    struct trace_event event = enter(comm, TRACE_COLLECTIVE, "start_all_reduce", count);
    comm_start_all_reduce(&watched(comm)->inner, s, buffer, count, type, request);
    leave_started(comm, &event, request, "all_reduce");
}

static void watched_start_reduce_scatter(struct comm *comm, struct stream *s, void *out,
                                         const void *in, void *scratch, int64_t count,
                                         enum dtype type, struct comm_request *request) {
    struct trace_event event = enter(comm, TRACE_COLLECTIVE, "start_reduce_scatter", count);
    comm_start_reduce_scatter(&watched(comm)->inner, s, out, in, scratch, count, type, request);
    leave_started(comm, &event, request, "reduce_scatter");
}

static void watched_start_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                                     int64_t count, enum dtype type, struct comm_request *request) {
    struct trace_event event = enter(comm, TRACE_COLLECTIVE, "start_all_gather", count);
    comm_start_all_gather(&watched(comm)->inner, s, out, in, count, type, request);
    leave_started(comm, &event, request, "all_gather");
}

static void watched_start_send(struct comm *comm, struct stream *s, const void *buffer,
                               int64_t count, enum dtype type, int to,
                               struct comm_request *request) {
    struct trace_event event = enter(comm, TRACE_EXCHANGE, "start_send", count);
    comm_start_send(&watched(comm)->inner, s, buffer, count, type, to, request);
    leave_started(comm, &event, request, "send");
}

static void watched_start_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                               enum dtype type, int from, struct comm_request *request) {
    struct trace_event event = enter(comm, TRACE_EXCHANGE, "start_recv", count);
    comm_start_recv(&watched(comm)->inner, s, buffer, count, type, from, request);
    leave_started(comm, &event, request, "recv");
}

/* Not recorded: it is called often and takes no time worth seeing. */
static bool watched_test(struct comm *comm, struct stream *s, struct comm_request *request) {
    return comm_test(&watched(comm)->inner, s, request);
}

static void watched_wait(struct comm *comm, struct stream *s, struct comm_request *request) {
    struct trace *trace = watched(comm)->trace;
    struct trace_flight flight;
    if (!request->state) { /* nothing was started */
        comm_wait(&watched(comm)->inner, s, request);
        return;
    }
    struct trace_event event = enter(comm, TRACE_COLLECTIVE, "wait", 0);
    comm_wait(&watched(comm)->inner, s, request);
    if (take_flight(trace, request, &flight)) {
        event.op = flight.op;
        event.started = flight.started;
        event.elements = flight.elements;
        event.kind = flight.kind;
    }
    leave(comm, &event);
}

static void watched_close(struct comm *comm) {
    struct trace_watched *mine = watched(comm);
    *comm = mine->inner;
    mine->comm = NULL;
    comm_close(comm);
}

/* An op that this file doesn't forward would be called through NULL. */
_Static_assert(sizeof(struct comm_ops) == 16 * sizeof(void (*)(void)), "every op is forwarded");

static const struct comm_ops watched_ops = {
    .all_reduce = watched_all_reduce,
    .all_reduce_ordered = watched_all_reduce_ordered,
    .reduce_scatter = watched_reduce_scatter,
    .all_gather = watched_all_gather,
    .broadcast = watched_broadcast,
    .send = watched_send,
    .recv = watched_recv,
    .barrier = watched_barrier,
    .start_all_reduce = watched_start_all_reduce,
    .start_reduce_scatter = watched_start_reduce_scatter,
    .start_all_gather = watched_start_all_gather,
    .start_send = watched_start_send,
    .start_recv = watched_start_recv,
    .test = watched_test,
    .wait = watched_wait,
    .close = watched_close,
};

void trace_watch(struct trace *trace, struct comm *comm) {
    if (comm->size <= 1 || comm->ops == &watched_ops) return;
    assert(trace->watched_count < TRACE_COMMS);
    struct trace_watched *watch = &trace->watched[trace->watched_count++];
    *watch = (struct trace_watched){.inner = *comm, .comm = comm, .trace = trace};
    comm->ops = &watched_ops;
    comm->state = watch;
}

void trace_unwatch(struct trace *trace) {
    for (int i = 0; i < trace->watched_count; i++)
        if (trace->watched[i].comm) *trace->watched[i].comm = trace->watched[i].inner;
    trace->watched_count = 0;
    trace->flight_count = 0;
}
