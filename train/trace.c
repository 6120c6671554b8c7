#include "train/trace.h"

#include "kernels/base/clock.h"

#include <stdlib.h>

enum { FLIGHTS = 4096 };

const char *trace_kind_name(enum trace_kind kind) {
    static const char *const names[TRACE_KINDS] = {
        "data",      "forward",    "loss",       "backward",   "backward_input", "backward_weight",
        "optimizer", "validation", "checkpoint", "collective", "exchange"};
    return names[kind];
}

enum status trace_open(struct trace *trace) {
    trace->events = malloc(TRACE_EVENTS * sizeof *trace->events);
    trace->flights = malloc(FLIGHTS * sizeof *trace->flights);
    if (!trace->events || !trace->flights) {
        trace_close(trace);
        return status_fail(STATUS_MEMORY, "no memory to trace a step");
    }
    trace->capacity = TRACE_EVENTS;
    trace->flight_capacity = FLIGHTS;
    return STATUS_OK;
}

void trace_close(struct trace *trace) {
    trace_unwatch(trace);
    free(trace->events);
    free(trace->flights);
    *trace = (struct trace){0};
}

void trace_record(struct trace *trace, const struct trace_event *event) {
    if (!trace->on) return;
    if (trace->count < trace->capacity)
        trace->events[trace->count++] = *event;
    else
        trace->dropped++;
}

struct trace_span trace_begin(const struct trace *trace, enum trace_kind kind, int microbatch,
                              int first_layer, int end_layer) {
    return (struct trace_span){.event = {.begin = clock_seconds(),
                                         .microbatch = microbatch,
                                         .first_layer = first_layer,
                                         .end_layer = end_layer,
                                         .kind = kind},
                               .waited = trace->waited};
}

void trace_end(struct trace *trace, struct trace_span *span) {
    span->event.end = clock_seconds();
    if (span->event.kind >= TRACE_FORWARD && span->event.kind <= TRACE_BACKWARD_WEIGHT)
        trace->compute += span->event.end - span->event.begin - (trace->waited - span->waited);
    trace_record(trace, &span->event);
}
