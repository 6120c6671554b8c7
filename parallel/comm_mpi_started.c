#include "parallel/comm_mpi_internal.h"

#include "parallel/comm_fold.h"

#include <assert.h>
#include <stdlib.h>

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
    ring_enter(&flight->call, comm_mpi_state(comm)->ring, &s->where, &what, false);
    return flight;
}

/* comm_mpi_failed() for started sums, which then are given up. */
static bool sum_failed(struct comm *comm, struct stream *s, const char *op, int code) {
    if (!comm_mpi_failed(comm, s, op, RING_NO_PEER, code)) return false;
    comm_sums_abandon(&comm_mpi_state(comm)->sums);
    return true;
}

void comm_mpi_start_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                               enum dtype type, struct comm_request *request) {
    assert(!request->state);
    if (comm->size == 1 || count == 0 || comm_lost(s)) return;
    if (type == DTYPE_BF16) { /* MPI can't widen: the sum is made now, the wait is nothing */
        comm_mpi_ordered(comm, s, RING_START_ALL_REDUCE, buffer, count, type, COMM_SUM);
        return;
    }
    struct flight *flight =
        open_flight(comm, s, RING_START_ALL_REDUCE, RING_NO_PEER, count, type, 0);
    request->state = flight;
    if (!flight) return;
    flight->sum =
        (struct comm_sum_job){.data = buffer,
                              .count = count,
                              .piece = comm_mpi_sum_piece(comm, type, COMM_SUMS_PIECE_BYTES),
                              .width = dtype_bytes(type, 1),
                              .type = comm_mpi_type(type)};
    sum_failed(comm, s, "start_all_reduce",
               comm_sums_start(&comm_mpi_state(comm)->sums, &flight->sum));
}

/* A flight of a message of `count` elements, in request->state; NULL when there is none. */
static struct flight *open_message(struct comm *comm, struct stream *s, enum ring_op op, int peer,
                                   int64_t count, enum dtype type, struct comm_request *request) {
    assert(!request->state);
    if (count == 0 || comm_lost(s)) return NULL;
    int64_t piece = comm_mpi_piece(comm, type);
    return request->state =
               open_flight(comm, s, op, peer, count, type, (count + piece - 1) / piece);
}

void comm_mpi_start_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                         enum dtype type, int to, struct comm_request *request) {
    struct flight *flight = open_message(comm, s, RING_SEND, to, count, type, request);
    int64_t piece = comm_mpi_piece(comm, type);
    for (int64_t done = 0; flight && done < count; done += piece) {
        int code = MPI_Isend(comm_at(buffer, done, type), (int)min_i64(piece, count - done),
                             comm_mpi_type(type), to, COMM_MPI_TAG, comm_mpi_state(comm)->handle,
                             &flight->requests[flight->count]);
        if (comm_mpi_failed(comm, s, "start_send", to, code)) return;
        flight->count++;
    }
}

void comm_mpi_start_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                         enum dtype type, int from, struct comm_request *request) {
    struct flight *flight = open_message(comm, s, RING_RECV, from, count, type, request);
    int64_t piece = comm_mpi_piece(comm, type);
    for (int64_t done = 0; flight && done < count; done += piece) {
        int code = MPI_Irecv(comm_at(buffer, done, type), (int)min_i64(piece, count - done),
                             comm_mpi_type(type), from, COMM_MPI_TAG, comm_mpi_state(comm)->handle,
                             &flight->requests[flight->count]);
        if (comm_mpi_failed(comm, s, "start_recv", from, code)) return;
        flight->count++;
    }
}

/* MPI's own sum would be in an order of its choice: the slices are exchanged, and wait adds them
 * up in rank order. */
void comm_mpi_start_reduce_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                                   void *scratch, int64_t count, enum dtype type,
                                   struct comm_request *request) {
    assert(!request->state && count % comm->size == 0);
    if (comm->size == 1 || count > comm_mpi_piece(comm, type)) {
        comm_mpi_reduce_scatter(comm, s, out, in, count, type);
        return;
    }
    if (count == 0 || comm_lost(s)) return;
    struct flight *flight =
        open_flight(comm, s, RING_START_REDUCE_SCATTER, RING_NO_PEER, count, type, 1);
    request->state = flight;
    if (!flight) return;
    flight->rows = scratch;
    flight->out = out;
    flight->slice = count / comm->size;
    flight->type = type;
    int code =
        MPI_Ialltoall(in, (int)flight->slice, comm_mpi_type(type), flight->rows, (int)flight->slice,
                      comm_mpi_type(type), comm_mpi_state(comm)->handle, &flight->requests[0]);
    if (!comm_mpi_failed(comm, s, "start_reduce_scatter", RING_NO_PEER, code)) flight->count = 1;
}

void comm_mpi_start_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                               int64_t count, enum dtype type, struct comm_request *request) {
    assert(!request->state);
    int64_t bytes = (int64_t)dtype_bytes(type, (size_t)count) * comm->size;
    if (comm->size == 1 || bytes > comm_mpi_state(comm)->piece) {
        comm_mpi_all_gather(comm, s, out, in, count, type);
        return;
    }
    if (count == 0 || comm_lost(s)) return;
    struct flight *flight =
        open_flight(comm, s, RING_START_ALL_GATHER, RING_NO_PEER, count, type, 1);
    request->state = flight;
    if (!flight) return;
    bool in_place = in == comm_at(out, comm->rank * count, type);
    int code = MPI_Iallgather(in_place ? MPI_IN_PLACE : in, (int)count, comm_mpi_type(type), out,
                              (int)count, comm_mpi_type(type), comm_mpi_state(comm)->handle,
                              &flight->requests[0]);
    if (!comm_mpi_failed(comm, s, "start_all_gather", RING_NO_PEER, code)) flight->count = 1;
}

/* Open MPI moves non-blocking collectives only inside its calls: this is one. */
bool comm_mpi_test(struct comm *comm, struct stream *s, struct comm_request *request) {
    struct flight *flight = request->state;
    if (!flight || comm_lost(s)) return true;
    int done = 0;
    if (flight->sum.count > 0) {
        if (sum_failed(comm, s, "test", comm_sums_test(&comm_mpi_state(comm)->sums))) return true;
        done = flight->sum.pieces_left == 0;
    } else {
        int code = MPI_Testall(flight->count, flight->requests, &done, MPI_STATUSES_IGNORE);
        if (comm_mpi_failed(comm, s, "test", RING_NO_PEER, code)) return true;
    }
    if (done) ring_leave(&flight->call);
    return done;
}

/* A lost peer's share never comes: what is under way is left to the end of the job. */
static void wait_for(struct comm *comm, struct stream *s, struct flight *flight) {
    struct comm_sums *sums = &comm_mpi_state(comm)->sums;
    if (comm_lost(s)) {
        comm_sums_abandon(sums);
    } else if (flight->sum.count > 0) {
        sum_failed(comm, s, "wait", comm_sums_wait(sums, &flight->sum));
    } else {
        int code = MPI_Waitall(flight->count, flight->requests, MPI_STATUSES_IGNORE);
        if (!comm_mpi_failed(comm, s, "wait", RING_NO_PEER, code) && flight->rows)
            comm_fold(flight->out, flight->rows, comm->size, flight->slice, flight->type, COMM_SUM,
                      s->threads);
    }
}

void comm_mpi_wait(struct comm *comm, struct stream *s, struct comm_request *request) {
    struct flight *flight = request->state;
    if (!flight) return;
    ring_wait(&flight->call);
    request->state = NULL;
    wait_for(comm, s, flight);
    ring_leave(&flight->call);
    free(flight);
}
