#include "parallel/comm_nccl_internal.h"

#include <assert.h>
#include <stdlib.h>

/* What was started on a lane. */
struct flight {
    struct ring_call call;
    struct nccl_lane *lane;
    uint64_t mark;
    /* Of a reduce-scatter: what all ranks sent of my slice, borrowed, and where its sum goes. */
    void *rows, *out;
    int64_t slice;
    enum dtype type;
};

/* A flight whose work comes after all that is on s; NULL when there is none. */
static struct flight *take_off(struct comm *comm, struct stream *s, struct nccl_lane *lane,
                               const struct ring_entry *what, struct comm_request *request) {
    struct comm_nccl *state = comm_nccl_state(comm);
    assert(!request->state);
    if (what->count == 0 || comm_lost(s)) return NULL;
    const char *op = ring_op_name((enum ring_op)what->op);
    if (comm_nccl_failed(comm, s, op, state->handle, NCCL_OK)) return NULL;
    assert(lane->comm); /* the communicator was opened for it */
    struct flight *flight = calloc(1, sizeof *flight);
    if (!flight) { /* not STATUS_MEMORY: the others have started, there is no agreeing any more */
        stream_fail(s, STATUS_PEER, op, "no memory for a request");
        return NULL;
    }
    flight->lane = lane;
    ring_enter(&flight->call, state->ring, &s->where, what, false);
    state->device->follow(state->device, lane->stream, s);
    return request->state = flight;
}

/* After the library took it, or did not. */
static void issued(struct comm *comm, struct stream *s, struct flight *flight, int result) {
    const struct nccl_device *device = comm_nccl_state(comm)->device;
    const char *op = ring_op_name((enum ring_op)flight->call.entry.op);
    if (comm_nccl_failed(comm, s, op, flight->lane->comm, result)) return;
    flight->mark = device->mark(device, flight->lane->stream);
}

static struct ring_entry entry_of(enum ring_op op, int64_t count, enum dtype type, int peer) {
    return (struct ring_entry){
        .op = (uint8_t)op, .count = count, .dtype = (uint8_t)type, .peer = peer};
}

void comm_nccl_start_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                enum dtype type, struct comm_request *request) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_start_all_reduce(&state->host, s, buffer, count, type, request);
        return;
    }
    if (type == DTYPE_BF16) { /* NCCL would round at every rank: the sum is made now */
        comm_nccl_ordered(comm, s, RING_START_ALL_REDUCE, buffer, count, type, COMM_SUM);
        return;
    }
    const struct ring_entry what = entry_of(RING_START_ALL_REDUCE, count, type, RING_NO_PEER);
    struct flight *flight = take_off(comm, s, &state->sums, &what, request);
    if (flight)
        issued(comm, s, flight,
               state->library->all_reduce(buffer, buffer, (size_t)count, comm_nccl_type(type),
                                          NCCL_SUM, state->sums.comm, state->sums.stream));
}

/* Around a ring of ranks neighbours differ: what a rank sends and what it receives from a neighbour
 * are on two lanes. */
static struct nccl_lane *message_lane(const struct comm *comm, int sender) {
    bool odd_one = comm->size % 2 == 1 && sender == comm->size - 1;
    return &comm_nccl_state(comm)->messages[odd_one ? 2 : sender % 2];
}

void comm_nccl_start_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                          enum dtype type, int to, struct comm_request *request) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_start_send(&state->host, s, buffer, count, type, to, request);
        return;
    }
    const struct ring_entry what = entry_of(RING_SEND, count, type, to);
    struct nccl_lane *lane = message_lane(comm, comm->rank);
    struct flight *flight = take_off(comm, s, lane, &what, request);
    if (flight)
        issued(comm, s, flight,
               state->library->send(buffer, (size_t)count, comm_nccl_type(type), to, lane->comm,
                                    lane->stream));
}

void comm_nccl_start_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                          enum dtype type, int from, struct comm_request *request) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_start_recv(&state->host, s, buffer, count, type, from, request);
        return;
    }
    const struct ring_entry what = entry_of(RING_RECV, count, type, from);
    struct nccl_lane *lane = message_lane(comm, from);
    struct flight *flight = take_off(comm, s, lane, &what, request);
    if (flight)
        issued(comm, s, flight,
               state->library->recv(buffer, (size_t)count, comm_nccl_type(type), from, lane->comm,
                                    lane->stream));
}

/* The slices are exchanged, and wait adds them up in rank order. */
void comm_nccl_start_reduce_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                                    void *scratch, int64_t count, enum dtype type,
                                    struct comm_request *request) {
    assert(count % comm->size == 0);
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_start_reduce_scatter(&state->host, s, out, in, scratch, count, type, request);
        return;
    }
    const struct ring_entry what = entry_of(RING_START_REDUCE_SCATTER, count, type, RING_NO_PEER);
    struct flight *flight = take_off(comm, s, &state->sums, &what, request);
    if (!flight) return;
    flight->rows = scratch;
    flight->out = out;
    flight->slice = count / comm->size;
    flight->type = type;
    issued(comm, s, flight,
           comm_nccl_exchange(comm, state->sums.comm, state->sums.stream, scratch, in,
                              flight->slice, flight->slice, type));
}

void comm_nccl_start_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                                int64_t count, enum dtype type, struct comm_request *request) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_start_all_gather(&state->host, s, out, in, count, type, request);
        return;
    }
    const struct ring_entry what = entry_of(RING_START_ALL_GATHER, count, type, RING_NO_PEER);
    struct flight *flight = take_off(comm, s, &state->sums, &what, request);
    if (flight)
        issued(comm, s, flight,
               state->library->all_gather(in, out, (size_t)count, comm_nccl_type(type),
                                          state->sums.comm, state->sums.stream));
}

bool comm_nccl_test(struct comm *comm, struct stream *s, struct comm_request *request) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) return comm_test(&state->host, s, request);
    struct flight *flight = request->state;
    if (!flight || comm_lost(s)) return true;
    if (comm_nccl_failed(comm, s, "test", flight->lane->comm, NCCL_OK)) return true;
    bool done = state->device->done(state->device, flight->mark);
    if (done) ring_leave(&flight->call);
    return done;
}

void comm_nccl_wait(struct comm *comm, struct stream *s, struct comm_request *request) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (comm_nccl_on_host(comm, s)) {
        comm_wait(&state->host, s, request);
        return;
    }
    struct flight *flight = request->state;
    if (!flight) return;
    ring_wait(&flight->call);
    request->state = NULL;
    if (!comm_lost(s) && comm_nccl_join(comm, s, "wait", flight->lane->comm, flight->mark) &&
        flight->rows)
        state->device->fold(s, flight->out, flight->rows, comm->size, flight->slice, flight->type,
                            COMM_SUM);
    ring_leave(&flight->call);
    free(flight);
}
