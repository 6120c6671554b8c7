/* What the communicators of parallel/ have in common in a call. */
#ifndef STRATA_PARALLEL_COMM_CALL_H
#define STRATA_PARALLEL_COMM_CALL_H

#include "parallel/ring.h"

enum {
    COMM_SCRATCH_BYTES = 4 << 20, /* what an ordered sum receives at a time */
    COMM_GATHER_BYTES = 64 << 10 /* below this, latency counts: gather everything and add locally */
};

/* After a failed collective the peers are where this rank is not: another one would wait for ever.
 * The rank must come to its stream_check, whose STATUS_PEER ends the job. */
static inline bool comm_lost(const struct stream *s) {
    return s->status == STATUS_PEER;
}

/* A call begins that the caller is inside of until ring_leave. ring may be NULL. */
static inline struct ring_call comm_enter(struct ring *ring, const struct stream *s,
                                          enum ring_op op, int64_t count, enum dtype type,
                                          int peer) {
    struct ring_call call;
    ring_enter(&call, ring, &s->where,
               &(struct ring_entry){
                   .op = (uint8_t)op, .count = count, .dtype = (uint8_t)type, .peer = peer},
               true);
    return call;
}

static inline char *comm_at(const void *base, int64_t element, enum dtype type) {
    return (char *)base + element * (int64_t)dtype_bytes(type, 1);
}

#endif
