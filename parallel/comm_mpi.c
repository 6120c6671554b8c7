#include "parallel/comm_mpi_internal.h"

#include "parallel/comm_fold.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

MPI_Datatype comm_mpi_type(enum dtype type) {
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

bool comm_mpi_failed(struct comm *comm, struct stream *s, const char *op, int peer, int code) {
    if (code == MPI_SUCCESS) return false;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    char with[32] = "";
    if (peer != RING_NO_PEER) snprintf(with, sizeof with, " with rank %d", peer);
    stream_fail(s, STATUS_PEER, op, "rank %d of %d in communicator '%s'%s: %s", comm->rank,
                comm->size, comm->name, with, text);
    return true;
}

/* `count` elements, repeated every `stride` elements: a piece of every rank's slice. */
static int strided_type(MPI_Datatype *out, int64_t count, int64_t stride, enum dtype type) {
    MPI_Datatype row;
    int code = MPI_Type_contiguous((int)count, comm_mpi_type(type), &row);
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
    code = MPI_Alltoall(in, 1, row, comm_mpi_state(comm)->scratch, (int)count, comm_mpi_type(type),
                        comm_mpi_state(comm)->handle);
    MPI_Type_free(&row);
    return code;
}

/* One step of an ordered sum in place over at most `count` elements; returns how many it did, 0 on
 * failure. */
static int64_t ordered_step(struct comm *comm, struct stream *s, const char *op, char *buffer,
                            int64_t count, enum dtype type, enum comm_sum sum) {
    struct comm_mpi *state = comm_mpi_state(comm);
    int64_t width = (int64_t)dtype_bytes(type, 1);
    int64_t room = min_i64(COMM_SCRATCH_BYTES, state->piece) / width;
    int64_t slice = min_i64(count, room) / comm->size;
    if (count * comm->size * width <= COMM_GATHER_BYTES || slice == 0) {
        int64_t n = min_i64(count, room / comm->size > 0 ? room / comm->size : 1);
        int code = MPI_Allgather(buffer, (int)n, comm_mpi_type(type), state->scratch, (int)n,
                                 comm_mpi_type(type), state->handle);
        if (comm_mpi_failed(comm, s, op, RING_NO_PEER, code)) return 0;
        comm_fold(buffer, state->scratch, comm->size, n, type, sum, s->threads);
        return n;
    }
    int code = exchange_slices(comm, buffer, slice, slice, type);
    if (comm_mpi_failed(comm, s, op, RING_NO_PEER, code)) return 0;
    comm_fold(comm_at(buffer, comm->rank * slice, type), state->scratch, comm->size, slice, type,
              sum, s->threads);
    code = MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, buffer, (int)slice,
                         comm_mpi_type(type), state->handle);
    return comm_mpi_failed(comm, s, op, RING_NO_PEER, code) ? 0 : slice * comm->size;
}

void comm_mpi_ordered(struct comm *comm, struct stream *s, enum ring_op op, void *buffer,
                      int64_t count, enum dtype type, enum comm_sum sum) {
    if (comm->size == 1 || comm_lost(s)) return;
    struct ring_call call =
        comm_enter(comm_mpi_state(comm)->ring, s, op, count, type, RING_NO_PEER);
    for (int64_t done = 0, step; done < count; done += step) {
        step = ordered_step(comm, s, ring_op_name(op), comm_at(buffer, done, type), count - done,
                            type, sum);
        if (step == 0) break;
    }
    ring_leave(&call);
}

static void mpi_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                           enum dtype type, enum comm_sum sum) {
    if (comm->size == 1 || comm_lost(s)) return;
    if (type == DTYPE_BF16) {
        comm_mpi_ordered(comm, s, RING_ALL_REDUCE, buffer, count, type, sum);
        return;
    }
    int64_t piece = comm_mpi_sum_piece(comm, type, COMM_SUMS_BYTES);
    struct ring_call call =
        comm_enter(comm_mpi_state(comm)->ring, s, RING_ALL_REDUCE, count, type, RING_NO_PEER);
    for (int64_t done = 0; done < count; done += piece) {
        int code = MPI_Allreduce(MPI_IN_PLACE, comm_at(buffer, done, type),
                                 (int)min_i64(piece, count - done), comm_mpi_type(type),
                                 mpi_op(sum), comm_mpi_state(comm)->handle);
        if (comm_mpi_failed(comm, s, "all_reduce", RING_NO_PEER, code)) break;
    }
    ring_leave(&call);
}

static void mpi_all_reduce_ordered(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                   enum dtype type) {
    comm_mpi_ordered(comm, s, RING_ALL_REDUCE_ORDERED, buffer, count, type, COMM_SUM);
}

void comm_mpi_reduce_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                             int64_t count, enum dtype type) {
    assert(count % comm->size == 0);
    int64_t slice = count / comm->size;
    if (comm->size == 1) {
        if (out != in) memmove(out, in, dtype_bytes(type, (size_t)count));
        return;
    }
    if (comm_lost(s)) return;
    int64_t room =
        min_i64(COMM_SCRATCH_BYTES, comm_mpi_state(comm)->piece) / (int64_t)dtype_bytes(type, 1);
    int64_t piece = room / comm->size > 0 ? room / comm->size : 1;
    struct ring_call call =
        comm_enter(comm_mpi_state(comm)->ring, s, RING_REDUCE_SCATTER, count, type, RING_NO_PEER);
    for (int64_t done = 0; done < slice; done += piece) {
        int64_t n = min_i64(piece, slice - done);
        int code = exchange_slices(comm, comm_at(in, done, type), n, slice, type);
        if (comm_mpi_failed(comm, s, "reduce_scatter", RING_NO_PEER, code)) break;
        comm_fold(comm_at(out, done, type), comm_mpi_state(comm)->scratch, comm->size, n, type,
                  COMM_SUM, s->threads);
    }
    ring_leave(&call);
}

void comm_mpi_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                         int64_t count, enum dtype type) {
    bool in_place = in == comm_at(out, comm->rank * count, type);
    if (comm->size == 1) {
        if (!in_place) memmove(out, in, dtype_bytes(type, (size_t)count));
        return;
    }
    int64_t piece = comm_mpi_piece(comm, type);
    if (comm_lost(s)) return;
    struct ring_call call =
        comm_enter(comm_mpi_state(comm)->ring, s, RING_ALL_GATHER, count, type, RING_NO_PEER);
    for (int64_t done = 0; done < count; done += piece) {
        int64_t n = min_i64(piece, count - done);
        MPI_Datatype row;
        int code = strided_type(&row, n, count, type);
        if (comm_mpi_failed(comm, s, "all_gather", RING_NO_PEER, code)) break;
        code = MPI_Allgather(in_place ? MPI_IN_PLACE : comm_at(in, done, type), (int)n,
                             comm_mpi_type(type), comm_at(out, done, type), 1, row,
                             comm_mpi_state(comm)->handle);
        MPI_Type_free(&row);
        if (comm_mpi_failed(comm, s, "all_gather", RING_NO_PEER, code)) break;
    }
    ring_leave(&call);
}

static void mpi_broadcast(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                          enum dtype type, int root) {
    if (comm->size == 1 || comm_lost(s)) return;
    int64_t piece = comm_mpi_piece(comm, type);
    struct ring_call call =
        comm_enter(comm_mpi_state(comm)->ring, s, RING_BROADCAST, count, type, root);
    for (int64_t done = 0; done < count; done += piece) {
        int code = MPI_Bcast(comm_at(buffer, done, type), (int)min_i64(piece, count - done),
                             comm_mpi_type(type), root, comm_mpi_state(comm)->handle);
        if (comm_mpi_failed(comm, s, "broadcast", root, code)) break;
    }
    ring_leave(&call);
}

static void mpi_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                     enum dtype type, int to) {
    if (comm_lost(s)) return;
    int64_t piece = comm_mpi_piece(comm, type);
    struct ring_call call = comm_enter(comm_mpi_state(comm)->ring, s, RING_SEND, count, type, to);
    for (int64_t done = 0; done < count; done += piece) {
        int code = MPI_Send(comm_at(buffer, done, type), (int)min_i64(piece, count - done),
                            comm_mpi_type(type), to, COMM_MPI_TAG, comm_mpi_state(comm)->handle);
        if (comm_mpi_failed(comm, s, "send", to, code)) break;
    }
    ring_leave(&call);
}

static void mpi_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                     enum dtype type, int from) {
    if (comm_lost(s)) return;
    int64_t piece = comm_mpi_piece(comm, type);
    struct ring_call call = comm_enter(comm_mpi_state(comm)->ring, s, RING_RECV, count, type, from);
    for (int64_t done = 0; done < count; done += piece) {
        int n = (int)min_i64(piece, count - done), got = 0;
        MPI_Status status;
        int code = MPI_Recv(comm_at(buffer, done, type), n, comm_mpi_type(type), from, COMM_MPI_TAG,
                            comm_mpi_state(comm)->handle, &status);
        if (comm_mpi_failed(comm, s, "recv", from, code)) break;
        MPI_Get_count(&status, comm_mpi_type(type), &got);
        if (got == n) continue;
        stream_fail(s, STATUS_PEER, "recv",
                    "rank %d of %d in communicator '%s' expected %d elements, rank %d sent %d",
                    comm->rank, comm->size, comm->name, n, from, got);
        break;
    }
    ring_leave(&call);
}

static void mpi_barrier(struct comm *comm, struct stream *s) {
    if (comm_lost(s)) return;
    struct ring_call call =
        comm_enter(comm_mpi_state(comm)->ring, s, RING_BARRIER, 0, DTYPE_U8, RING_NO_PEER);
    comm_mpi_failed(comm, s, "barrier", RING_NO_PEER, MPI_Barrier(comm_mpi_state(comm)->handle));
    ring_leave(&call);
}

static void mpi_close(struct comm *comm) {
    struct comm_mpi *state = comm_mpi_state(comm);
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
    .reduce_scatter = comm_mpi_reduce_scatter,
    .all_gather = comm_mpi_all_gather,
    .broadcast = mpi_broadcast,
    .send = mpi_send,
    .recv = mpi_recv,
    .barrier = mpi_barrier,
    .start_all_reduce = comm_mpi_start_all_reduce,
    .start_send = comm_mpi_start_send,
    .start_recv = comm_mpi_start_recv,
    .start_reduce_scatter = comm_mpi_start_reduce_scatter,
    .start_all_gather = comm_mpi_start_all_gather,
    .test = comm_mpi_test,
    .wait = comm_mpi_wait,
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
static int open_ring(struct comm_mpi *state, const struct comm *comm) {
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
    struct comm_mpi *state = calloc(1, sizeof *state);
    char *scratch = malloc(COMM_SCRATCH_BYTES);
    if (!state || !scratch) {
        free(state);
        free(scratch);
        MPI_Comm_free(&handle);
        return status_fail(STATUS_MEMORY, "no memory for communicator '%s'", name);
    }
    *state =
        (struct comm_mpi){.handle = handle, .piece = 256 << 20, .scratch = scratch, .rings = rings};
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
    struct ring_call call =
        comm_enter(comm_mpi_state(parent)->ring, &nowhere, RING_SPLIT, 0, DTYPE_U8, RING_NO_PEER);
    int code = MPI_Comm_split(comm_mpi_state(parent)->handle, colour, key, &handle);
    ring_leave(&call);
    if (code != MPI_SUCCESS) return open_failed(name, code);
    return open_handle(comm, name, handle, comm_mpi_state(parent)->rings);
}

void comm_mpi_set_piece(struct comm *comm, int64_t bytes) {
    assert(bytes > 0);
    if (comm->ops == &mpi_ops) comm_mpi_state(comm)->piece = bytes;
}
