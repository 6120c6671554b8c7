#include "core/comm.h"

#include <string.h>

static void self_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                            enum dtype type, enum comm_sum sum) {
    (void)comm, (void)s, (void)buffer, (void)count, (void)type, (void)sum;
}

static void self_all_reduce_ordered(struct comm *comm, struct stream *s, void *buffer,
                                    int64_t count, enum dtype type) {
    (void)comm, (void)s, (void)buffer, (void)count, (void)type;
}

static void self_copy(struct comm *comm, struct stream *s, void *out, const void *in, int64_t count,
                      enum dtype type) {
    (void)comm, (void)s;
    if (out != in) memmove(out, in, dtype_bytes(type, (size_t)count));
}

static void self_broadcast(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                           enum dtype type, int root) {
    (void)comm, (void)s, (void)buffer, (void)count, (void)type, (void)root;
}

static void self_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                      enum dtype type, int to) {
    (void)buffer, (void)count, (void)type;
    stream_fail(s, STATUS_PEER, comm->name, "send to rank %d of a communicator of one", to);
}

static void self_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                      enum dtype type, int from) {
    (void)buffer, (void)count, (void)type;
    stream_fail(s, STATUS_PEER, comm->name, "receive from rank %d of a communicator of one", from);
}

static void self_barrier(struct comm *comm, struct stream *s) {
    (void)comm, (void)s;
}

static void self_start_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                  enum dtype type, struct comm_request *request) {
    (void)comm, (void)s, (void)buffer, (void)count, (void)type;
    request->state = NULL;
}

static void self_start_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                            enum dtype type, int to, struct comm_request *request) {
    request->state = NULL;
    self_send(comm, s, buffer, count, type, to);
}

static void self_start_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                            enum dtype type, int from, struct comm_request *request) {
    request->state = NULL;
    self_recv(comm, s, buffer, count, type, from);
}

static void self_start_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                               void *scratch, int64_t count, enum dtype type,
                               struct comm_request *request) {
    (void)scratch;
    self_copy(comm, s, out, in, count, type);
    request->state = NULL;
}

static void self_start_copy(struct comm *comm, struct stream *s, void *out, const void *in,
                            int64_t count, enum dtype type, struct comm_request *request) {
    self_copy(comm, s, out, in, count, type);
    request->state = NULL;
}

static bool self_test(struct comm *comm, struct stream *s, struct comm_request *request) {
    (void)comm, (void)s, (void)request;
    return true;
}

static void self_wait(struct comm *comm, struct stream *s, struct comm_request *request) {
    (void)comm, (void)s, (void)request;
}

static void self_close(struct comm *comm) {
    (void)comm;
}

static const struct comm_ops self_ops = {
    .all_reduce = self_all_reduce,
    .all_reduce_ordered = self_all_reduce_ordered,
    .reduce_scatter = self_copy,
    .all_gather = self_copy,
    .broadcast = self_broadcast,
    .send = self_send,
    .recv = self_recv,
    .barrier = self_barrier,
    .start_all_reduce = self_start_all_reduce,
    .start_send = self_start_send,
    .start_recv = self_start_recv,
    .start_reduce_scatter = self_start_scatter,
    .start_all_gather = self_start_copy,
    .test = self_test,
    .wait = self_wait,
    .close = self_close,
};

static void no_copy(struct comm *comm, struct stream *s, void *out, const void *in, int64_t count,
                    enum dtype type) {
    (void)comm, (void)s, (void)out, (void)in, (void)count, (void)type;
}

static void no_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                    enum dtype type, int to) {
    (void)comm, (void)s, (void)buffer, (void)count, (void)type, (void)to;
}

static void no_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                    enum dtype type, int from) {
    (void)comm, (void)s, (void)buffer, (void)count, (void)type, (void)from;
}

static void no_start_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                          enum dtype type, int to, struct comm_request *request) {
    (void)comm, (void)s, (void)buffer, (void)count, (void)type, (void)to, (void)request;
}

static void no_start_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                          enum dtype type, int from, struct comm_request *request) {
    (void)comm, (void)s, (void)buffer, (void)count, (void)type, (void)from, (void)request;
}

static void no_start_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                             void *scratch, int64_t count, enum dtype type,
                             struct comm_request *request) {
    (void)comm, (void)s, (void)out, (void)in, (void)scratch, (void)count, (void)type, (void)request;
}

static void no_start_copy(struct comm *comm, struct stream *s, void *out, const void *in,
                          int64_t count, enum dtype type, struct comm_request *request) {
    (void)comm, (void)s, (void)out, (void)in, (void)count, (void)type, (void)request;
}

static const struct comm_ops nothing_ops = {
    .all_reduce = self_all_reduce,
    .all_reduce_ordered = self_all_reduce_ordered,
    .reduce_scatter = no_copy,
    .all_gather = no_copy,
    .broadcast = self_broadcast,
    .send = no_send,
    .recv = no_recv,
    .barrier = self_barrier,
    .start_all_reduce = self_start_all_reduce,
    .start_send = no_start_send,
    .start_recv = no_start_recv,
    .start_reduce_scatter = no_start_scatter,
    .start_all_gather = no_start_copy,
    .test = self_test,
    .wait = self_wait,
    .close = self_close,
};

void comm_open_self(struct comm *comm, const char *name) {
    *comm = (struct comm){.ops = &self_ops, .name = name, .rank = 0, .size = 1};
}

void comm_open_nothing(struct comm *comm, const char *name, int rank, int size) {
    *comm = (struct comm){.ops = &nothing_ops, .name = name, .rank = rank, .size = size};
}
