/* Collectives as the layers see them. The real ones live in parallel/ (MPI, NCCL); core/comm_self.c
 * is the one-rank version. Size 1 is a no-op, so no caller writes `if (size > 1)`.
 *
 * Counts are elements. Calls return void: the first failure sticks to the stream with the
 * communicator's name. Buffers are in the memory of the stream's device. Every rank of a
 * communicator makes the same calls in the same order. */
#ifndef STRATA_CORE_COMM_H
#define STRATA_CORE_COMM_H

#include "kernels/base/dtype.h"
#include "kernels/base/stream.h"
#include <stdbool.h>
#include <stdint.h>

enum comm_sum { COMM_SUM, COMM_MAX, COMM_MIN };

/* What the library takes besides the buffers for started sums of a communicator, at most. */
enum { COMM_SUMS_BYTES = 32 << 20 };

struct comm;

/* A started collective; wait() ends it. Zeroed = nothing in flight. */
struct comm_request {
    void *state;
};

/* What an implementation provides. dtype is F32, F64, BF16, I32, I64 or U8 as the op allows. */
struct comm_ops {
    /* In place. Forward sums use the ordered form: the sum is made in rank order, so its bits do
     * not depend on the message's size or the library's choice of algorithm. */
    void (*all_reduce)(struct comm *, struct stream *, void *buffer, int64_t count, enum dtype,
                       enum comm_sum);
    void (*all_reduce_ordered)(struct comm *, struct stream *, void *buffer, int64_t count,
                               enum dtype);
    /* out (count / size) = my slice of the sum of in (count); may be the matching slice of in. */
    void (*reduce_scatter)(struct comm *, struct stream *, void *out, const void *in, int64_t count,
                           enum dtype);
    /* out (count * size); in (count) may be the matching slice of out. */
    void (*all_gather)(struct comm *, struct stream *, void *out, const void *in, int64_t count,
                       enum dtype);
    void (*broadcast)(struct comm *, struct stream *, void *buffer, int64_t count, enum dtype,
                      int root);
    void (*send)(struct comm *, struct stream *, const void *buffer, int64_t count, enum dtype,
                 int to);
    void (*recv)(struct comm *, struct stream *, void *buffer, int64_t count, enum dtype, int from);
    void (*barrier)(struct comm *, struct stream *);
    /* Non-blocking sum in place; the buffer is the library's until wait. What passes
     * COMM_SUMS_BYTES moves on in test and wait of any sum of this communicator, so a rank that
     * waits needs the others to come there too. */
    void (*start_all_reduce)(struct comm *, struct stream *, void *buffer, int64_t count,
                             enum dtype, struct comm_request *);
    /* send and recv without waiting; the buffer is the library's until wait. Between two ranks
     * messages arrive in the order in which they were started. */
    void (*start_send)(struct comm *, struct stream *, const void *buffer, int64_t count,
                       enum dtype, int to, struct comm_request *);
    void (*start_recv)(struct comm *, struct stream *, void *buffer, int64_t count, enum dtype,
                       int from, struct comm_request *);
    /* reduce_scatter and all_gather without waiting, with the same bits. All buffers are the
     * library's until wait, which also makes the sum; what passes its largest message is done at
     * once. scratch (count). */
    void (*start_reduce_scatter)(struct comm *, struct stream *, void *out, const void *in,
                                 void *scratch, int64_t count, enum dtype, struct comm_request *);
    void (*start_all_gather)(struct comm *, struct stream *, void *out, const void *in,
                             int64_t count, enum dtype, struct comm_request *);
    /* Moves what was started on without waiting; true when it has only wait's own work left. */
    bool (*test)(struct comm *, struct stream *, struct comm_request *);
    void (*wait)(struct comm *, struct stream *, struct comm_request *);
    void (*close)(struct comm *);
};

struct comm {
    const struct comm_ops *ops;
    const char *name; /* "tp", "dp", "world" */
    int rank, size;
    void *state;
};

/* One rank: every collective is a no-op (or a copy where out differs from in). */
void comm_open_self(struct comm *comm, const char *name);

/* Calls that do nothing, whatever the size: to run layout code on counting arenas. */
void comm_open_nothing(struct comm *comm, const char *name, int rank, int size);

static inline void comm_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                   enum dtype type, enum comm_sum sum) {
    comm->ops->all_reduce(comm, s, buffer, count, type, sum);
}
static inline void comm_all_reduce_ordered(struct comm *comm, struct stream *s, void *buffer,
                                           int64_t count, enum dtype type) {
    comm->ops->all_reduce_ordered(comm, s, buffer, count, type);
}
static inline void comm_reduce_scatter(struct comm *comm, struct stream *s, void *out,
                                       const void *in, int64_t count, enum dtype type) {
    comm->ops->reduce_scatter(comm, s, out, in, count, type);
}
static inline void comm_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                                   int64_t count, enum dtype type) {
    comm->ops->all_gather(comm, s, out, in, count, type);
}
static inline void comm_broadcast(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                  enum dtype type, int root) {
    comm->ops->broadcast(comm, s, buffer, count, type, root);
}
static inline void comm_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                             enum dtype type, int to) {
    comm->ops->send(comm, s, buffer, count, type, to);
}
static inline void comm_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                             enum dtype type, int from) {
    comm->ops->recv(comm, s, buffer, count, type, from);
}
static inline void comm_barrier(struct comm *comm, struct stream *s) {
    comm->ops->barrier(comm, s);
}
static inline void comm_start_all_reduce(struct comm *comm, struct stream *s, void *buffer,
                                         int64_t count, enum dtype type,
                                         struct comm_request *request) {
    comm->ops->start_all_reduce(comm, s, buffer, count, type, request);
}
static inline void comm_start_send(struct comm *comm, struct stream *s, const void *buffer,
                                   int64_t count, enum dtype type, int to,
                                   struct comm_request *request) {
    comm->ops->start_send(comm, s, buffer, count, type, to, request);
}
static inline void comm_start_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                   enum dtype type, int from, struct comm_request *request) {
    comm->ops->start_recv(comm, s, buffer, count, type, from, request);
}
static inline void comm_start_reduce_scatter(struct comm *comm, struct stream *s, void *out,
                                             const void *in, void *scratch, int64_t count,
                                             enum dtype type, struct comm_request *request) {
    comm->ops->start_reduce_scatter(comm, s, out, in, scratch, count, type, request);
}
static inline void comm_start_all_gather(struct comm *comm, struct stream *s, void *out,
                                         const void *in, int64_t count, enum dtype type,
                                         struct comm_request *request) {
    comm->ops->start_all_gather(comm, s, out, in, count, type, request);
}
static inline bool comm_test(struct comm *comm, struct stream *s, struct comm_request *request) {
    return comm->ops->test(comm, s, request);
}
static inline void comm_wait(struct comm *comm, struct stream *s, struct comm_request *request) {
    comm->ops->wait(comm, s, request);
}
static inline void comm_close(struct comm *comm) {
    if (comm->ops) comm->ops->close(comm);
}

#endif
