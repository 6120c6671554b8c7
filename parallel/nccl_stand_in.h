/* A stand-in for libnccl.so.2 over MPI, for tests on CPUs: the binary interface of
 * parallel/nccl_abi.h on memory of the host. What it keeps of the real library's behaviour:
 *
 *   - a call puts work on a stream and returns; work of one stream, and of one communicator, runs
 *     one after the other in the order of the calls
 *   - what is called in a group (of one communicator and stream) runs together
 *   - a collective ends on no rank before all have come to it, a send not before it is received
 *   - buffers belong to the library from the call to the end: what is received is poisoned (all
 *     bits one, NaN) until then
 *   - sums are in no order that a caller could rely on: it changes along the buffer, as a ring's
 *     does, and BF16 is rounded at each rank
 * Where the real one hangs or hands out garbage it tells: ranks whose calls differ in op, count,
 * dtype or root get an asynchronous error on their communicator, with the two calls in its text.
 *
 * Nothing runs by itself: strata_stand_in_done moves everything on. Calls of one process must not
 * overlap in time. The interface has no handle of the library, so what is queued is global.
 *
 * nccl_stand_in.c is the interface, nccl_stand_in_queue.c streams and groups, nccl_stand_in_work.c
 * one op, nccl_stand_in_sums.c adds. */
#ifndef STRATA_PARALLEL_NCCL_STAND_IN_H
#define STRATA_PARALLEL_NCCL_STAND_IN_H

#include "parallel/nccl_abi.h"

#include <mpi.h>
#include <stdbool.h>

/* A communicator. */
struct ncclComm {
    MPI_Comm mpi;
    int rank, size;
    int64_t collectives;      /* called so far */
    int64_t *sent, *received; /* (size) messages, by peer */
    int error;                /* an NCCL_ result; sticks */
    char text[256];
};

enum work_kind {
    WORK_ALL_REDUCE,
    WORK_REDUCE_SCATTER,
    WORK_ALL_GATHER,
    WORK_BROADCAST,
    WORK_SEND,
    WORK_RECV
};

/* What a rank calls; what another one must call too. */
struct work_call {
    int32_t kind, type, sum, root;
    int64_t count;
};

enum work_state { WORK_CALLED, WORK_COMPARING, WORK_MOVING, WORK_ENDED };

/* One call. */
struct work {
    struct work_call call;
    struct ncclComm *comm;
    const void *in;
    void *out;
    int peer;         /* of a message */
    int64_t sequence; /* among the communicator's collectives, or the messages to (from) peer */
    enum work_state state;
    struct work_call *theirs; /* (size) */
    MPI_Request *requests;    /* (request_count) */
    int request_count;
    char *staged;   /* a copy of in */
    char *rows;     /* (size, slice) of what is summed */
    int32_t answer; /* to a send: 0, or the receive's is another call */
};

/* Bytes of an element; 0 for a type that there isn't. */
size_t stand_in_width(int type);

/* "all_gather of 7 F32" */
void stand_in_describe(const struct work_call *call, char text[96]);

/* Begins it, or moves it on without waiting. An error goes to work->comm. */
void stand_in_move(struct work *work);

/* Frees what it holds; what is under way is given up. */
void stand_in_drop(struct work *work);

/* out (count) = the sum of rows (ranks, count), in an order of its own. */
void stand_in_sum(void *out, const void *rows, int ranks, int64_t count, int type, int sum);

/* comm->error sticks, with a text. */
void stand_in_fail(struct ncclComm *comm, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts a call on a stream, or into the open group. */
int stand_in_queue(const struct work *work, const void *stream);

/* Moves everything on until nothing of comm is queued; or drops it. */
void stand_in_finish(struct ncclComm *comm);
void stand_in_forget(struct ncclComm *comm);

#endif
