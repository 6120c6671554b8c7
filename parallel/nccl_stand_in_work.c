#include "parallel/nccl_stand_in.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum message { CALL_OF_COLLECTIVE, BYTES_OF_COLLECTIVE, CALL_OF_SEND, ANSWER, BYTES_OF_SEND };

enum { MESSAGES = 8, SEQUENCES = 1 << 20 }; /* numbers come again when what had them is over */

void stand_in_fail(struct ncclComm *comm, int error, const char *format, ...) {
    if (comm->error) return;
    comm->error = error;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(comm->text, sizeof comm->text, format, arguments);
    va_end(arguments);
}

size_t stand_in_width(int type) {
    switch (type) {
    case NCCL_U8:
        return 1;
    case NCCL_BF16:
        return 2;
    case NCCL_I32:
    case NCCL_F32:
        return 4;
    case NCCL_I64:
    case NCCL_F64:
        return 8;
    default:
        return 0;
    }
}

static size_t bytes_of(const struct work *work) {
    return (size_t)work->call.count * stand_in_width(work->call.type);
}

void stand_in_describe(const struct work_call *call, char text[96]) {
    static const char *const kinds[] = {"all_reduce", "reduce_scatter", "all_gather",
                                        "broadcast",  "send",           "recv"};
    static const char *const types[] = {
        [NCCL_U8] = "U8",   [NCCL_I32] = "I32", [NCCL_I64] = "I64",
        [NCCL_F32] = "F32", [NCCL_F64] = "F64", [NCCL_BF16] = "BF16"};
    int length = snprintf(text, 96, "%s of %lld %s", kinds[call->kind], (long long)call->count,
                          types[call->type]);
    if (call->kind == WORK_BROADCAST)
        snprintf(text + length, 96 - (size_t)length, " from rank %d", call->root);
    if (call->sum != NCCL_SUM) snprintf(text + length, 96 - (size_t)length, " (sum %d)", call->sum);
}

static int tag(const struct work *work, enum message message) {
    return (int)(work->sequence % SEQUENCES) * MESSAGES + (int)message;
}

static void post(struct work *work, int code) {
    if (code == MPI_SUCCESS)
        work->request_count++;
    else
        stand_in_fail(work->comm, NCCL_SYSTEM_ERROR, "MPI fails with code %d", code);
}

static void send_bytes(struct work *work, const void *data, size_t bytes, int to,
                       enum message message) {
    post(work, MPI_Isend(data, (int)bytes, MPI_BYTE, to, tag(work, message), work->comm->mpi,
                         &work->requests[work->request_count]));
}

static void receive_bytes(struct work *work, void *data, size_t bytes, int from,
                          enum message message) {
    post(work, MPI_Irecv(data, (int)bytes, MPI_BYTE, from, tag(work, message), work->comm->mpi,
                         &work->requests[work->request_count]));
}

/* True when all that was posted is over; posting starts anew. */
static bool over(struct work *work) {
    int done = 0;
    if (MPI_Testall(work->request_count, work->requests, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS)
        stand_in_fail(work->comm, NCCL_SYSTEM_ERROR, "MPI fails");
    if (done) work->request_count = 0;
    return done;
}

/* Elements of in and out, in multiples of call.count. */
static int blocks_in(const struct work *work) {
    return work->call.kind == WORK_REDUCE_SCATTER ? work->comm->size : 1;
}

static int blocks_out(const struct work *work) {
    return work->call.kind == WORK_ALL_GATHER ? work->comm->size : 1;
}

static void begin(struct work *work) {
    struct ncclComm *comm = work->comm;
    size_t in = bytes_of(work) * (size_t)blocks_in(work), ranks = (size_t)comm->size;
    bool sums = work->call.kind == WORK_ALL_REDUCE || work->call.kind == WORK_REDUCE_SCATTER;
    work->theirs = calloc(ranks, sizeof *work->theirs);
    work->requests = calloc(2 * ranks, sizeof *work->requests);
    work->staged = malloc(in + 1);
    work->rows = malloc(sums ? ranks * bytes_of(work) : 1);
    if (!work->theirs || !work->requests || !work->staged || !work->rows) {
        stand_in_fail(comm, NCCL_SYSTEM_ERROR, "no memory for a call");
        return;
    }
    if (work->in) memcpy(work->staged, work->in, in);
    if (work->out) memset(work->out, 0xff, bytes_of(work) * (size_t)blocks_out(work));
    work->state = WORK_COMPARING;
    if (work->call.kind == WORK_SEND) {
        send_bytes(work, &work->call, sizeof work->call, work->peer, CALL_OF_SEND);
        receive_bytes(work, &work->answer, sizeof work->answer, work->peer, ANSWER);
    } else if (work->call.kind == WORK_RECV) {
        receive_bytes(work, &work->theirs[0], sizeof work->call, work->peer, CALL_OF_SEND);
    } else {
        for (int r = 0; r < comm->size; r++) {
            send_bytes(work, &work->call, sizeof work->call, r, CALL_OF_COLLECTIVE);
            receive_bytes(work, &work->theirs[r], sizeof work->call, r, CALL_OF_COLLECTIVE);
        }
    }
}

static bool differ(const struct work_call *a, const struct work_call *b) {
    return a->kind != b->kind || a->type != b->type || a->count != b->count || a->sum != b->sum ||
           a->root != b->root;
}

static void tell_difference(struct work *work, const struct work_call *theirs, int rank) {
    char mine[96], other[96];
    stand_in_describe(&work->call, mine);
    stand_in_describe(theirs, other);
    stand_in_fail(work->comm, NCCL_INVALID_USAGE, "rank %d called %s, rank %d %s", work->comm->rank,
                  mine, rank, other);
}

static void move_collective(struct work *work) {
    const struct ncclComm *comm = work->comm;
    size_t bytes = bytes_of(work);
    bool scatter = work->call.kind == WORK_REDUCE_SCATTER;
    bool gather = work->call.kind == WORK_ALL_GATHER, cast = work->call.kind == WORK_BROADCAST;
    for (int r = 0; r < comm->size; r++) {
        char *place =
            cast ? work->out : (gather ? (char *)work->out : work->rows) + (size_t)r * bytes;
        if (!cast || comm->rank == work->call.root)
            send_bytes(work, work->staged + (scatter ? (size_t)r * bytes : 0), bytes, r,
                       BYTES_OF_COLLECTIVE);
        if (!cast || r == work->call.root)
            receive_bytes(work, place, bytes, r, BYTES_OF_COLLECTIVE);
    }
}

/* What the peer called is there: bytes move, or the calls differ. */
static void compare(struct work *work) {
    work->state = WORK_MOVING;
    if (work->call.kind == WORK_SEND) {
        if (work->answer != 0)
            stand_in_fail(work->comm, NCCL_INVALID_USAGE,
                          "rank %d sends rank %d what it does not receive: another count or dtype",
                          work->comm->rank, work->peer);
        else
            send_bytes(work, work->staged, bytes_of(work), work->peer, BYTES_OF_SEND);
        return;
    }
    if (work->call.kind == WORK_RECV) {
        struct work_call want = work->call;
        want.kind = WORK_SEND;
        work->answer = differ(&want, &work->theirs[0]);
        if (work->answer)
            tell_difference(work, &work->theirs[0], work->peer);
        else
            receive_bytes(work, work->out, bytes_of(work), work->peer, BYTES_OF_SEND);
        MPI_Send(&work->answer, sizeof work->answer, MPI_BYTE, work->peer, tag(work, ANSWER),
                 work->comm->mpi);
        return;
    }
    for (int r = 0; r < work->comm->size; r++)
        if (differ(&work->call, &work->theirs[r])) tell_difference(work, &work->theirs[r], r);
    if (!work->comm->error) move_collective(work);
}

static void end(struct work *work) {
    work->state = WORK_ENDED;
    if (work->call.kind == WORK_ALL_REDUCE || work->call.kind == WORK_REDUCE_SCATTER)
        stand_in_sum(work->out, work->rows, work->comm->size, work->call.count, work->call.type,
                     work->call.sum);
}

void stand_in_move(struct work *work) {
    if (work->state == WORK_CALLED) begin(work);
    if (work->state == WORK_COMPARING && !work->comm->error && over(work)) compare(work);
    if (work->state == WORK_MOVING && !work->comm->error && over(work)) end(work);
}

void stand_in_drop(struct work *work) {
    for (int i = 0; i < work->request_count; i++) {
        if (work->requests[i] == MPI_REQUEST_NULL) continue;
        MPI_Cancel(&work->requests[i]);
        MPI_Request_free(&work->requests[i]);
    }
    free(work->theirs);
    free(work->requests);
    free(work->staged);
    free(work->rows);
}
