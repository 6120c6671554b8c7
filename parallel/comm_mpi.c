#include "parallel/comm_mpi.h"
#include "kernels/base/units.h"
#include "parallel/comm_fold.h"
#include "parallel/comm_sums.h"

#include <assert.h>
#include <mpi.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    SCRATCH_BYTES = 4 << 20, /* what an ordered sum receives at a time */
    GATHER_BYTES = 64 << 10, /* below this, latency counts: gather everything and add locally */
    MESSAGE_TAG = 1,
    NO_PEER = -1
};

struct mpi_state {
    MPI_Comm handle;
    int64_t piece; /* bytes */
    char *scratch; /* SCRATCH_BYTES */
    struct rings *rings;
    struct ring *ring; /* what is called here; NULL: not recorded */
    struct comm_sums sums;
};

/* What was started: one MPI request a piece. */
struct flight {
    struct ring_call call;
    struct comm_sum_job sum; /* of an all-reduce, whose count is above 0 */
    int count;
    /* Of a reduce-scatter: what all ranks sent of my slice, borrowed, and where its sum goes. */
    void *rows, *out;
    int64_t slice;
    enum dtype type;
    MPI_Request requests[];
};

static struct mpi_state *state_of(const struct comm *comm) {
    return comm->state;
}

static MPI_Datatype mpi_type(enum dtype type) {
    switch (type) {
    case DTYPE_F32:
        return MPI_FLOAT;
    case DTYPE_F64:
        return MPI_DOUBLE;
    case DTYPE_BF16:
        return MPI_UINT16_T; /* moved as bits; never summed by MPI */
    case DTYPE_I32:
        return MPI_INT32_T;
    case DTYPE_I64:
        return MPI_INT64_T;
    case DTYPE_U8:
        return MPI_UINT8_T;
    default:
        assert(!"a dtype that collectives carry");
        return MPI_DATATYPE_NULL;
    }
}

static MPI_Op mpi_op(enum comm_sum sum) {
    return sum == COMM_SUM ? MPI_SUM : sum == COMM_MAX ? MPI_MAX : MPI_MIN;
}

/* True when the call failed; the stream then knows rank, communicator, op and peer. */
static bool failed(struct comm *comm, struct stream *s, const char *op, int peer, int code) {
    if (code == MPI_SUCCESS) return false;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    char with[32] = "";
    if (peer != NO_PEER) snprintf(with, sizeof with, " with rank %d", peer);
    stream_fail(s, STATUS_PEER, op, "rank %d of %d in communicator '%s'%s: %s", comm->rank,
                comm->size, comm->name, with, text);
    return true;
}

/* After a failed collective the peers are where this rank is not: another one would wait for ever.
 * The rank must come to its stream_check, whose STATUS_PEER ends the job. */
static bool lost(const struct stream *s) {
    return s->status == STATUS_PEER;
}

/* A call begins that the caller is inside of until ring_leave. */
static struct ring_call enter(const struct comm *comm, const struct stream *s, enum ring_op op,
                              int64_t count, enum dtype type, int peer) {
    struct ring_call call;
    ring_enter(&call, state_of(comm)->ring, &s->where,
               &(struct ring_entry){
                   .op = (uint8_t)op, .count = count, .dtype = (uint8_t)type, .peer = peer},
               true);
    return call;
}

/* Elements in the largest message. */
static int64_t piece_elements(const struct comm *comm, enum dtype type) {
    int64_t elements = state_of(comm)->piece / (int64_t)dtype_bytes(type, 1);
    return elements < 1 ? 1 : elements;
}

/* In the largest message of a sum, of which MPI keeps a temporary of up to `bytes`. */
static int64_t sum_piece_elements(const struct comm *comm, enum dtype type, int64_t bytes) {
    return min_i64(bytes / (int64_t)dtype_bytes(type, 1), piece_elements(comm, type));
}

static char *at(const void *base, int64_t element, enum dtype type) {
    return (char *)base + element * (int64_t)dtype_bytes(type, 1);
}

/* `count` elements, repeated every `stride` elements: a piece of every rank's slice. */
static int strided_type(MPI_Datatype *out, int64_t count, int64_t stride, enum dtype type) {
    MPI_Datatype row;
    int code = MPI_Type_contiguous((int)count, mpi_type(type), &row);
    if (code != MPI_SUCCESS) return code;
    code = MPI_Type_create_resized(row, 0, (MPI_Aint)(stride * (int64_t)dtype_bytes(type, 1)), out);
    MPI_Type_free(&row);
    return code == MPI_SUCCESS ? MPI_Type_commit(out) : code;
}

/* scratch (size, count) = everybody's `count` elements of my slice, slices `stride` apart. */
static int exchange_slices(struct comm *comm, const void *in, int64_t count, int64_t stride,
                           enum dtype type) {
    MPI_Datatype row;
    int code = strided_type(&row, count, stride, type);
    if (code != MPI_SUCCESS) return code;
    code = MPI_Alltoall(in, 1, row, state_of(comm)->scratch, (int)count, mpi_type(type),
                        state_of(comm)->handle);
    MPI_Type_free(&row);
    return code;
}

/* One step of an ordered sum in place over at most `count` elements; returns how many it did, 0 on
 * failure. */
static int64_t ordered_step(struct comm *comm, struct stream *s, const char *op, char *buffer,
                            int64_t count, enum dtype type, enum comm_sum sum) {
    struct mpi_state *state = state_of(comm);
    int64_t width = (int64_t)dtype_bytes(type, 1);
    int64_t room = min_i64(SCRATCH_BYTES, state->piece) / width;
    int64_t slice = min_i64(count, room) / comm->size;
    if (count * comm->size * width <= GATHER_BYTES || slice == 0) {
        int64_t n = min_i64(count, room / comm->size > 0 ? room / comm->size : 1);
        int code = MPI_Allgather(buffer, (int)n, mpi_type(type), state->scratch, (int)n,
                                 mpi_type(type), state->handle);
        if (failed(comm, s, op, NO_PEER, code)) return 0;
        comm_fold(buffer, state->scratch, comm->size, n, type, sum, s->threads);
        return n;
    }
    int code = exchange_slices(comm, buffer, slice, slice, type);
    if (failed(comm, s, op, NO_PEER, code)) return 0;
    comm_fold(at(buffer, comm->rank * slice, type), state->scratch, comm->size, slice, type, sum,
              s->threads);
    code = MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, buffer, (int)slice, mpi_type(type),
                         state->handle);
    return failed(comm, s, op, NO_PEER, code) ? 0 : slice * comm->size;
}

static void ordered(struct comm *comm, struct stream *s, enum ring_op op, void *buffer,
                    int64_t count, enum dtype type, enum comm_sum sum) {
    if (comm->size == 1 || lost(s)) return;
    struct ring_call call = enter(comm, s, op, count, type, RING_NO_PEER);
    for (int64_t done = 0, step; done < count; done += step) {
        step = ordered_step(comm, s, ring_op_name(op), at(buffer, done, type), count - done, type,
                            sum);
        if (step == 0) break;
    }
    ring_leave(&call);
}

static void mpi_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                           enum dtype type, enum comm_sum sum) {
    if (comm->size == 1 || lost(s)) return;
    if (type == DTYPE_BF16) {
        ordered(comm, s, RING_ALL_REDUCE, buffer, count, type, sum);
        return;
    }
    int64_t piece = sum_piece_elements(comm, type, COMM_SUMS_BYTES);
    struct ring_call call = enter(comm, s, RING_ALL_REDUCE, count, type, RING_NO_PEER);
    for (int64_t done = 0; done < count; done += piece) {
        int code =
            MPI_Allreduce(MPI_IN_PLACE, at(buffer, done, type), (int)min_i64(piece, count - done),
                          mpi_type(type), mpi_op(sum), state_of(comm)->handle);
        if (failed(comm, s, "all_reduce", NO_PEER, code)) break;
    }
    ring_leave(&call);
}

static void mpi_all_reduce_ordered(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                   enum dtype type) {
    ordered(comm, s, RING_ALL_REDUCE_ORDERED, buffer, count, type, COMM_SUM);
}

static void mpi_reduce_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                               int64_t count, enum dtype type) {
    assert(count % comm->size == 0);
    int64_t slice = count / comm->size;
    if (comm->size == 1) {
        if (out != in) memmove(out, in, dtype_bytes(type, (size_t)count));
        return;
    }
    if (lost(s)) return;
    int64_t room = min_i64(SCRATCH_BYTES, state_of(comm)->piece) / (int64_t)dtype_bytes(type, 1);
    int64_t piece = room / comm->size > 0 ? room / comm->size : 1;
    struct ring_call call = enter(comm, s, RING_REDUCE_SCATTER, count, type, RING_NO_PEER);
    for (int64_t done = 0; done < slice; done += piece) {
        int64_t n = min_i64(piece, slice - done);
        int code = exchange_slices(comm, at(in, done, type), n, slice, type);
        if (failed(comm, s, "reduce_scatter", NO_PEER, code)) break;
        comm_fold(at(out, done, type), state_of(comm)->scratch, comm->size, n, type, COMM_SUM,
                  s->threads);
    }
    ring_leave(&call);
}

static void mpi_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                           int64_t count, enum dtype type) {
    bool in_place = in == at(out, comm->rank * count, type);
    if (comm->size == 1) {
        if (!in_place) memmove(out, in, dtype_bytes(type, (size_t)count));
        return;
    }
    int64_t piece = piece_elements(comm, type);
    if (lost(s)) return;
    struct ring_call call = enter(comm, s, RING_ALL_GATHER, count, type, RING_NO_PEER);
    for (int64_t done = 0; done < count; done += piece) {
        int64_t n = min_i64(piece, count - done);
        MPI_Datatype row;
        int code = strided_type(&row, n, count, type);
        if (failed(comm, s, "all_gather", NO_PEER, code)) break;
        code = MPI_Allgather(in_place ? MPI_IN_PLACE : at(in, done, type), (int)n, mpi_type(type),
                             at(out, done, type), 1, row, state_of(comm)->handle);
        MPI_Type_free(&row);
        if (failed(comm, s, "all_gather", NO_PEER, code)) break;
    }
    ring_leave(&call);
}

static void mpi_broadcast(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                          enum dtype type, int root) {
    if (comm->size == 1 || lost(s)) return;
    int64_t piece = piece_elements(comm, type);
    struct ring_call call = enter(comm, s, RING_BROADCAST, count, type, root);
    for (int64_t done = 0; done < count; done += piece) {
        int code = MPI_Bcast(at(buffer, done, type), (int)min_i64(piece, count - done),
                             mpi_type(type), root, state_of(comm)->handle);
        if (failed(comm, s, "broadcast", root, code)) break;
    }
    ring_leave(&call);
}

static void mpi_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                     enum dtype type, int to) {
    if (lost(s)) return;
    int64_t piece = piece_elements(comm, type);
    struct ring_call call = enter(comm, s, RING_SEND, count, type, to);
    for (int64_t done = 0; done < count; done += piece) {
        int code = MPI_Send(at(buffer, done, type), (int)min_i64(piece, count - done),
                            mpi_type(type), to, MESSAGE_TAG, state_of(comm)->handle);
        if (failed(comm, s, "send", to, code)) break;
    }
    ring_leave(&call);
}

static void mpi_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                     enum dtype type, int from) {
    if (lost(s)) return;
    int64_t piece = piece_elements(comm, type);
    struct ring_call call = enter(comm, s, RING_RECV, count, type, from);
    for (int64_t done = 0; done < count; done += piece) {
        int n = (int)min_i64(piece, count - done), got = 0;
        MPI_Status status;
        int code = MPI_Recv(at(buffer, done, type), n, mpi_type(type), from, MESSAGE_TAG,
                            state_of(comm)->handle, &status);
        if (failed(comm, s, "recv", from, code)) break;
        MPI_Get_count(&status, mpi_type(type), &got);
        if (got == n) continue;
        stream_fail(s, STATUS_PEER, "recv",
                    "rank %d of %d in communicator '%s' expected %d elements, rank %d sent %d",
                    comm->rank, comm->size, comm->name, n, from, got);
        break;
    }
    ring_leave(&call);
}

static void mpi_barrier(struct comm *comm, struct stream *s) {
    if (lost(s)) return;
    struct ring_call call = enter(comm, s, RING_BARRIER, 0, DTYPE_U8, RING_NO_PEER);
    failed(comm, s, "barrier", NO_PEER, MPI_Barrier(state_of(comm)->handle));
    ring_leave(&call);
}

/* A flight of at most `pieces` requests. */
static struct flight *open_flight(struct comm *comm, struct stream *s, enum ring_op op, int peer,
                                  int64_t count, enum dtype type, int64_t pieces) {
    struct flight *flight = calloc(1, sizeof *flight + (size_t)pieces * sizeof(MPI_Request));
    if (!flight) { /* not STATUS_MEMORY: the others have started, there is no agreeing any more */
        stream_fail(s, STATUS_PEER, ring_op_name(op), "no memory for %lld requests",
                    (long long)pieces);
        return NULL;
    }
    const struct ring_entry what = {
        .op = (uint8_t)op, .count = count, .dtype = (uint8_t)type, .peer = peer};
    ring_enter(&flight->call, state_of(comm)->ring, &s->where, &what, false);
    return flight;
}

/* failed() for started sums, which then are given up. */
static bool sum_failed(struct comm *comm, struct stream *s, const char *op, int code) {
    if (!failed(comm, s, op, NO_PEER, code)) return false;
    comm_sums_abandon(&state_of(comm)->sums);
    return true;
}

static void mpi_start_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                 enum dtype type, struct comm_request *request) {
    assert(!request->state);
    if (comm->size == 1 || count == 0 || lost(s)) return;
    if (type == DTYPE_BF16) { /* MPI can't widen: the sum is made now, the wait is nothing */
        ordered(comm, s, RING_START_ALL_REDUCE, buffer, count, type, COMM_SUM);
        return;
    }
    struct flight *flight =
        open_flight(comm, s, RING_START_ALL_REDUCE, RING_NO_PEER, count, type, 0);
    request->state = flight;
    if (!flight) return;
    flight->sum =
        (struct comm_sum_job){.data = buffer,
                              .count = count,
                              .piece = sum_piece_elements(comm, type, COMM_SUMS_PIECE_BYTES),
                              .width = dtype_bytes(type, 1),
                              .type = mpi_type(type)};
    sum_failed(comm, s, "start_all_reduce", comm_sums_start(&state_of(comm)->sums, &flight->sum));
}

/* A flight of a message of `count` elements, in request->state; NULL when there is none. */
static struct flight *open_message(struct comm *comm, struct stream *s, enum ring_op op, int peer,
                                   int64_t count, enum dtype type, struct comm_request *request) {
    assert(!request->state);
    if (count == 0 || lost(s)) return NULL;
    int64_t piece = piece_elements(comm, type);
    return request->state =
               open_flight(comm, s, op, peer, count, type, (count + piece - 1) / piece);
}

static void mpi_start_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                           enum dtype type, int to, struct comm_request *request) {
    struct flight *flight = open_message(comm, s, RING_SEND, to, count, type, request);
    int64_t piece = piece_elements(comm, type);
    for (int64_t done = 0; flight && done < count; done += piece) {
        int code =
            MPI_Isend(at(buffer, done, type), (int)min_i64(piece, count - done), mpi_type(type), to,
                      MESSAGE_TAG, state_of(comm)->handle, &flight->requests[flight->count]);
        if (failed(comm, s, "start_send", to, code)) return;
        flight->count++;
    }
}

static void mpi_start_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                           enum dtype type, int from, struct comm_request *request) {
    struct flight *flight = open_message(comm, s, RING_RECV, from, count, type, request);
    int64_t piece = piece_elements(comm, type);
    for (int64_t done = 0; flight && done < count; done += piece) {
        int code =
            MPI_Irecv(at(buffer, done, type), (int)min_i64(piece, count - done), mpi_type(type),
                      from, MESSAGE_TAG, state_of(comm)->handle, &flight->requests[flight->count]);
        if (failed(comm, s, "start_recv", from, code)) return;
        flight->count++;
    }
}

/* MPI's own sum would be in an order of its choice: the slices are exchanged, and wait adds them
 * up in rank order. */
static void mpi_start_reduce_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                                     void *scratch, int64_t count, enum dtype type,
                                     struct comm_request *request) {
    assert(!request->state && count % comm->size == 0);
    if (comm->size == 1 || count > piece_elements(comm, type)) {
        mpi_reduce_scatter(comm, s, out, in, count, type);
        return;
    }
    if (count == 0 || lost(s)) return;
    struct flight *flight =
        open_flight(comm, s, RING_START_REDUCE_SCATTER, RING_NO_PEER, count, type, 1);
    request->state = flight;
    if (!flight) return;
    flight->rows = scratch;
    flight->out = out;
    flight->slice = count / comm->size;
    flight->type = type;
    int code =
        MPI_Ialltoall(in, (int)flight->slice, mpi_type(type), flight->rows, (int)flight->slice,
                      mpi_type(type), state_of(comm)->handle, &flight->requests[0]);
    if (!failed(comm, s, "start_reduce_scatter", NO_PEER, code)) flight->count = 1;
}

static void mpi_start_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                                 int64_t count, enum dtype type, struct comm_request *request) {
    assert(!request->state);
    int64_t bytes = (int64_t)dtype_bytes(type, (size_t)count) * comm->size;
    if (comm->size == 1 || bytes > state_of(comm)->piece) {
        mpi_all_gather(comm, s, out, in, count, type);
        return;
    }
    if (count == 0 || lost(s)) return;
    struct flight *flight =
        open_flight(comm, s, RING_START_ALL_GATHER, RING_NO_PEER, count, type, 1);
    request->state = flight;
    if (!flight) return;
    bool in_place = in == at(out, comm->rank * count, type);
    int code =
        MPI_Iallgather(in_place ? MPI_IN_PLACE : in, (int)count, mpi_type(type), out, (int)count,
                       mpi_type(type), state_of(comm)->handle, &flight->requests[0]);
    if (!failed(comm, s, "start_all_gather", NO_PEER, code)) flight->count = 1;
}

/* Open MPI moves non-blocking collectives only inside its calls: this is one. */
static bool mpi_test(struct comm *comm, struct stream *s, struct comm_request *request) {
    struct flight *flight = request->state;
    if (!flight || lost(s)) return true;
    int done = 0;
    if (flight->sum.count > 0) {
        if (sum_failed(comm, s, "test", comm_sums_test(&state_of(comm)->sums))) return true;
        done = flight->sum.pieces_left == 0;
    } else {
        int code = MPI_Testall(flight->count, flight->requests, &done, MPI_STATUSES_IGNORE);
        if (failed(comm, s, "test", NO_PEER, code)) return true;
    }
    if (done) ring_leave(&flight->call);
    return done;
}

/* A lost peer's share never comes: what is under way is left to the end of the job. */
static void wait_for(struct comm *comm, struct stream *s, struct flight *flight) {
    struct comm_sums *sums = &state_of(comm)->sums;
    if (lost(s)) {
        comm_sums_abandon(sums);
    } else if (flight->sum.count > 0) {
        sum_failed(comm, s, "wait", comm_sums_wait(sums, &flight->sum));
    } else {
        int code = MPI_Waitall(flight->count, flight->requests, MPI_STATUSES_IGNORE);
        if (!failed(comm, s, "wait", NO_PEER, code) && flight->rows)
            comm_fold(flight->out, flight->rows, comm->size, flight->slice, flight->type, COMM_SUM,
                      s->threads);
    }
}

static void mpi_wait(struct comm *comm, struct stream *s, struct comm_request *request) {
    struct flight *flight = request->state;
    if (!flight) return;
    ring_wait(&flight->call);
    request->state = NULL;
    wait_for(comm, s, flight);
    ring_leave(&flight->call);
    free(flight);
}

static void mpi_close(struct comm *comm) {
    struct mpi_state *state = state_of(comm);
    if (state) {
        comm_sums_close(&state->sums);
        MPI_Comm_free(&state->handle);
        ring_close(state->rings, state->ring);
        free(state->scratch);
        free(state);
    }
    *comm = (struct comm){.name = comm->name};
}

static const struct comm_ops mpi_ops = {
    .all_reduce = mpi_all_reduce,
    .all_reduce_ordered = mpi_all_reduce_ordered,
    .reduce_scatter = mpi_reduce_scatter,
    .all_gather = mpi_all_gather,
    .broadcast = mpi_broadcast,
    .send = mpi_send,
    .recv = mpi_recv,
    .barrier = mpi_barrier,
    .start_all_reduce = mpi_start_all_reduce,
    .start_send = mpi_start_send,
    .start_recv = mpi_start_recv,
    .start_reduce_scatter = mpi_start_reduce_scatter,
    .start_all_gather = mpi_start_all_gather,
    .test = mpi_test,
    .wait = mpi_wait,
    .close = mpi_close,
};

static enum status open_failed(const char *name, int code) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return status_fail(STATUS_PEER, "can't open communicator '%s': %s", name, text);
}

/* Everybody learns the ranks of the new communicator, and a number that only it has. No room: it is
 * not recorded. */
static int open_ring(struct mpi_state *state, const struct comm *comm) {
    if (!state->rings) return MPI_SUCCESS;
    int64_t mine = rings_next_id(state->rings), id = mine;
    int32_t me = rings_rank(state->rings);
    int32_t *members = malloc((size_t)comm->size * sizeof *members);
    if (!members) return MPI_ERR_NO_MEM;
    int code = MPI_Allgather(&me, 1, MPI_INT32_T, members, 1, MPI_INT32_T, state->handle);
    if (code == MPI_SUCCESS) code = MPI_Bcast(&id, 1, MPI_INT64_T, 0, state->handle);
    if (code == MPI_SUCCESS)
        state->ring = ring_open(state->rings, comm->name, id, members, comm->size);
    free(members);
    return code;
}

/* Takes `handle` over. */
static enum status open_handle(struct comm *comm, const char *name, MPI_Comm handle,
                               struct rings *rings) {
    struct mpi_state *state = calloc(1, sizeof *state);
    char *scratch = malloc(SCRATCH_BYTES);
    if (!state || !scratch) {
        free(state);
        free(scratch);
        MPI_Comm_free(&handle);
        return status_fail(STATUS_MEMORY, "no memory for communicator '%s'", name);
    }
    *state = (struct mpi_state){
        .handle = handle, .piece = 256 << 20, .scratch = scratch, .rings = rings};
    MPI_Comm_set_errhandler(handle, MPI_ERRORS_RETURN);
    *comm = (struct comm){.ops = &mpi_ops, .name = name, .state = state};
    MPI_Comm_rank(handle, &comm->rank);
    MPI_Comm_size(handle, &comm->size);
    int code = comm_sums_open(&state->sums, handle);
    if (code == MPI_SUCCESS) code = open_ring(state, comm);
    if (code == MPI_SUCCESS) return STATUS_OK;
    mpi_close(comm);
    return open_failed(name, code);
}

enum status comm_mpi_open_world(struct comm *comm, const char *name, struct rings *rings) {
    MPI_Comm handle;
    int code = MPI_Comm_dup(MPI_COMM_WORLD, &handle);
    if (code != MPI_SUCCESS) return open_failed(name, code);
    return open_handle(comm, name, handle, rings);
}

enum status comm_mpi_open_split(struct comm *comm, const struct comm *parent, const char *name,
                                int colour, int key) {
    if (parent->ops != &mpi_ops) {
        assert(parent->size == 1);
        comm_open_self(comm, name);
        return STATUS_OK;
    }
    MPI_Comm handle;
    const struct stream nowhere = {.threads = 1};
    struct ring_call call = enter(parent, &nowhere, RING_SPLIT, 0, DTYPE_U8, RING_NO_PEER);
    int code = MPI_Comm_split(state_of(parent)->handle, colour, key, &handle);
    ring_leave(&call);
    if (code != MPI_SUCCESS) return open_failed(name, code);
    return open_handle(comm, name, handle, state_of(parent)->rings);
}

void comm_mpi_set_piece(struct comm *comm, int64_t bytes) {
    assert(bytes > 0);
    if (comm->ops == &mpi_ops) state_of(comm)->piece = bytes;
}
