#include "parallel/comm_nccl_internal.h"

#include "kernels/base/units.h"

#include <assert.h>

enum nccl_type comm_nccl_type(enum dtype type) {
    switch (type) {
    case DTYPE_F32:
        return NCCL_F32;
    case DTYPE_F64:
        return NCCL_F64;
    case DTYPE_BF16:
        return NCCL_BF16;
    case DTYPE_I32:
        return NCCL_I32;
    case DTYPE_I64:
        return NCCL_I64;
    default:
        assert(type == DTYPE_U8);
        return NCCL_U8;
    }
}

static enum nccl_sum nccl_sum(enum comm_sum sum) {
    return sum == COMM_SUM ? NCCL_SUM : sum == COMM_MAX ? NCCL_MAX : NCCL_MIN;
}

bool comm_nccl_failed(struct comm *comm, struct stream *s, const char *op, struct ncclComm *handle,
                      int result) {
    struct comm_nccl *state = comm_nccl_state(comm);
    const struct nccl_library *nccl = state->library;
    int later = NCCL_OK;
    if (!state->handle) result = NCCL_INVALID_USAGE;
    if (result == NCCL_OK && nccl->async_error(handle, &later) == NCCL_OK) result = later;
    if (result == NCCL_OK || result == NCCL_IN_PROGRESS) return false;
    const char *detail = state->handle ? nccl->last_error(handle) : "it was aborted before";
    stream_fail(s, STATUS_PEER, op, "rank %d of %d in communicator '%s': %s: %s", comm->rank,
                comm->size, comm->name, nccl->result_text(result), detail);
    comm_nccl_abort(state);
    return true;
}

bool comm_nccl_join(struct comm *comm, struct stream *s, const char *op, struct ncclComm *handle,
                    uint64_t mark) {
    const struct nccl_device *device = comm_nccl_state(comm)->device;
    while (!device->join(device, s, mark))
        if (comm_nccl_failed(comm, s, op, handle, NCCL_OK)) return false;
    return !comm_nccl_failed(comm, s, op, handle, NCCL_OK);
}

/* The end of a call that was issued on s; false when it failed. */
static bool settle(struct comm *comm, struct stream *s, const char *op, int result) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_failed(comm, s, op, state->handle, result)) return false;
    return comm_nccl_join(comm, s, op, state->handle,
                          state->device->mark(state->device, s->device));
}

/* A call begins: ring_leave ends it. */
static struct ring_call enter(const struct comm *comm, const struct stream *s, enum ring_op op,
                              int64_t count, enum dtype type, int peer) {
    return comm_enter(comm_nccl_state(comm)->ring, s, op, count, type, peer);
}

int comm_nccl_exchange(const struct comm *comm, struct ncclComm *handle, void *stream, void *out,
                       const void *in, int64_t count, int64_t stride, enum dtype type) {
    const struct nccl_library *nccl = comm_nccl_state(comm)->library;
    enum nccl_type as = comm_nccl_type(type);
    int result = nccl->group_start();
    for (int r = 0; r < comm->size && result == NCCL_OK; r++) {
        result = nccl->send(comm_at(in, r * stride, type), (size_t)count, as, r, handle, stream);
        if (result == NCCL_OK)
            result =
                nccl->recv(comm_at(out, r * count, type), (size_t)count, as, r, handle, stream);
    }
    int end = nccl->group_end();
    return result == NCCL_OK ? end : result;
}

/* One step of an ordered sum in place over at most `count` elements; returns how many it did, 0 on
 * failure. */
static int64_t ordered_step(struct comm *comm, struct stream *s, const char *op, char *buffer,
                            int64_t count, enum dtype type, enum comm_sum sum) {
    struct comm_nccl *state = comm_nccl_state(comm);
    const struct nccl_library *nccl = state->library;
    int64_t width = (int64_t)dtype_bytes(type, 1), room = COMM_SCRATCH_BYTES / width;
    int64_t slice = min_i64(count, room) / comm->size;
    enum nccl_type as = comm_nccl_type(type);
    if (count * comm->size * width <= COMM_GATHER_BYTES || slice == 0) {
        int64_t n = min_i64(count, room / comm->size);
        int result =
            nccl->all_gather(buffer, state->scratch, (size_t)n, as, state->handle, s->device);
        if (!settle(comm, s, op, result)) return 0;
        state->device->fold(s, buffer, state->scratch, comm->size, n, type, sum);
        return n;
    }
    char *mine = comm_at(buffer, comm->rank * slice, type);
    int result = comm_nccl_exchange(comm, state->handle, s->device, state->scratch, buffer, slice,
                                    slice, type);
    if (!settle(comm, s, op, result)) return 0;
    state->device->fold(s, mine, state->scratch, comm->size, slice, type, sum);
    result = nccl->all_gather(mine, buffer, (size_t)slice, as, state->handle, s->device);
    return settle(comm, s, op, result) ? slice * comm->size : 0;
}

void comm_nccl_ordered(struct comm *comm, struct stream *s, enum ring_op op, void *buffer,
                       int64_t count, enum dtype type, enum comm_sum sum) {
    if (comm_lost(s)) return;
    struct ring_call call = enter(comm, s, op, count, type, RING_NO_PEER);
    for (int64_t done = 0, step; done < count; done += step) {
        step = ordered_step(comm, s, ring_op_name(op), comm_at(buffer, done, type), count - done,
                            type, sum);
        if (step == 0) break;
    }
    ring_leave(&call);
}

static void comm_nccl_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                 enum dtype type, enum comm_sum sum) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_all_reduce(&state->host, s, buffer, count, type, sum);
        return;
    }
    if (type == DTYPE_BF16) {
        comm_nccl_ordered(comm, s, RING_ALL_REDUCE, buffer, count, type, sum);
        return;
    }
    if (comm_lost(s)) return;
    struct ring_call call = enter(comm, s, RING_ALL_REDUCE, count, type, RING_NO_PEER);
    if (count > 0)
        settle(comm, s, "all_reduce",
               state->library->all_reduce(buffer, buffer, (size_t)count, comm_nccl_type(type),
                                          nccl_sum(sum), state->handle, s->device));
    ring_leave(&call);
}

static void comm_nccl_all_reduce_ordered(struct comm *comm, struct stream *s, void *buffer,
                                         int64_t count, enum dtype type) {
    if (comm_nccl_on_host(comm, s))
        comm_all_reduce_ordered(&comm_nccl_state(comm)->host, s, buffer, count, type);
    else
        comm_nccl_ordered(comm, s, RING_ALL_REDUCE_ORDERED, buffer, count, type, COMM_SUM);
}

static void comm_nccl_reduce_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                                     int64_t count, enum dtype type) {
    assert(count % comm->size == 0);
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_reduce_scatter(&state->host, s, out, in, count, type);
        return;
    }
    if (comm_lost(s)) return;
    int64_t slice = count / comm->size;
    int64_t piece = COMM_SCRATCH_BYTES / (int64_t)dtype_bytes(type, 1) / comm->size;
    struct ring_call call = enter(comm, s, RING_REDUCE_SCATTER, count, type, RING_NO_PEER);
    for (int64_t done = 0; done < slice; done += piece) {
        int64_t n = min_i64(piece, slice - done);
        int result = comm_nccl_exchange(comm, state->handle, s->device, state->scratch,
                                        comm_at(in, done, type), n, slice, type);
        if (!settle(comm, s, "reduce_scatter", result)) break;
        state->device->fold(s, comm_at(out, done, type), state->scratch, comm->size, n, type,
                            COMM_SUM);
    }
    ring_leave(&call);
}

static void comm_nccl_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                                 int64_t count, enum dtype type) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_all_gather(&state->host, s, out, in, count, type);
        return;
    }
    if (comm_lost(s)) return;
    struct ring_call call = enter(comm, s, RING_ALL_GATHER, count, type, RING_NO_PEER);
    if (count > 0)
        settle(comm, s, "all_gather",
               state->library->all_gather(in, out, (size_t)count, comm_nccl_type(type),
                                          state->handle, s->device));
    ring_leave(&call);
}

static void comm_nccl_broadcast(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                enum dtype type, int root) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_broadcast(&state->host, s, buffer, count, type, root);
        return;
    }
    if (comm_lost(s)) return;
    struct ring_call call = enter(comm, s, RING_BROADCAST, count, type, root);
    if (count > 0)
        settle(comm, s, "broadcast",
               state->library->broadcast(buffer, buffer, (size_t)count, comm_nccl_type(type), root,
                                         state->handle, s->device));
    ring_leave(&call);
}

static void comm_nccl_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                           enum dtype type, int to) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_send(&state->host, s, buffer, count, type, to);
        return;
    }
    if (comm_lost(s)) return;
    struct ring_call call = enter(comm, s, RING_SEND, count, type, to);
    if (count > 0)
        settle(comm, s, "send",
               state->library->send(buffer, (size_t)count, comm_nccl_type(type), to, state->handle,
                                    s->device));
    ring_leave(&call);
}

static void comm_nccl_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                           enum dtype type, int from) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_recv(&state->host, s, buffer, count, type, from);
        return;
    }
    if (comm_lost(s)) return;
    struct ring_call call = enter(comm, s, RING_RECV, count, type, from);
    if (count > 0)
        settle(comm, s, "recv",
               state->library->recv(buffer, (size_t)count, comm_nccl_type(type), from,
                                    state->handle, s->device));
    ring_leave(&call);
}

static void comm_nccl_barrier(struct comm *comm, struct stream *s) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_lost(s)) return;
    if (comm_nccl_on_host(comm, s) || settle(comm, s, "barrier", NCCL_OK))
        comm_barrier(&state->host, s);
}

const struct comm_ops comm_nccl_ops = {
    .all_reduce = comm_nccl_all_reduce,
    .all_reduce_ordered = comm_nccl_all_reduce_ordered,
    .reduce_scatter = comm_nccl_reduce_scatter,
    .all_gather = comm_nccl_all_gather,
    .broadcast = comm_nccl_broadcast,
    .send = comm_nccl_send,
    .recv = comm_nccl_recv,
    .barrier = comm_nccl_barrier,
    .start_all_reduce = comm_nccl_start_all_reduce,
    .start_send = comm_nccl_start_send,
    .start_recv = comm_nccl_start_recv,
    .start_reduce_scatter = comm_nccl_start_reduce_scatter,
    .start_all_gather = comm_nccl_start_all_gather,
    .test = comm_nccl_test,
    .wait = comm_nccl_wait,
    .close = comm_nccl_close,
};
