#include "parallel/nccl_stand_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

enum { VERSION = 22809, RENDEZVOUS_TAG = 77 };

/* What an id says: which process of the job made it, as its how manieth. */
struct place {
    char magic[8];
    int32_t root, number;
};

static const char magic[8] = "stand-in";
static char last_error[256]; /* of calls without a communicator; the interface has no other place */

static int fail(const char *why) {
    snprintf(last_error, sizeof last_error, "%s", why);
    return NCCL_INVALID_USAGE;
}

nccl_get_version ncclGetVersion;
EXPORTED int ncclGetVersion(int *version) {
    *version = VERSION;
    return NCCL_OK;
}

nccl_get_id ncclGetUniqueId;
EXPORTED int ncclGetUniqueId(struct nccl_id *id) {
    static int32_t number;
    struct place place = {.number = number++};
    memcpy(place.magic, magic, sizeof magic);
    if (MPI_Comm_rank(MPI_COMM_WORLD, &place.root) != MPI_SUCCESS) return NCCL_SYSTEM_ERROR;
    *id = (struct nccl_id){{0}};
    memcpy(id->bytes, &place, sizeof place);
    return NCCL_OK;
}

nccl_result_text ncclGetErrorString;
EXPORTED const char *ncclGetErrorString(int result) {
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "in progress"};
    bool known = result >= 0 && result < (int)(sizeof texts / sizeof *texts);
    return known ? texts[result] : "unknown result code";
}

nccl_last_error ncclGetLastError;
EXPORTED const char *ncclGetLastError(struct ncclComm *comm) {
    return comm ? comm->text : last_error;
}

static int make(struct ncclComm **out, MPI_Comm mpi) {
    struct ncclComm *comm = calloc(1, sizeof *comm);
    if (!comm) return NCCL_SYSTEM_ERROR;
    *comm = (struct ncclComm){.mpi = mpi};
    MPI_Comm_rank(mpi, &comm->rank);
    MPI_Comm_size(mpi, &comm->size);
    MPI_Comm_set_errhandler(mpi, MPI_ERRORS_RETURN);
    comm->sent = calloc((size_t)comm->size, sizeof *comm->sent);
    comm->received = calloc((size_t)comm->size, sizeof *comm->received);
    *out = comm;
    return comm->sent && comm->received ? NCCL_OK : NCCL_SYSTEM_ERROR;
}

/* worlds (ranks) = the rank in the job of each: all tell the root, which tells all. */
static int meet(int *worlds, int ranks, int rank, const struct place *place) {
    int me, tag = RENDEZVOUS_TAG + place->number % 1000;
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    int mine[3] = {rank, me, ranks};
    if (me != place->root) {
        MPI_Send(mine, 3, MPI_INT, place->root, tag, MPI_COMM_WORLD);
        int code =
            MPI_Recv(worlds, ranks, MPI_INT, place->root, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        return code == MPI_SUCCESS ? NCCL_OK : NCCL_SYSTEM_ERROR;
    }
    for (int r = 0; r < ranks; r++) worlds[r] = -1;
    worlds[rank] = me;
    for (int r = 1; r < ranks; r++) {
        int theirs[3];
        MPI_Recv(theirs, 3, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (theirs[2] != ranks || worlds[theirs[0]] >= 0)
            return fail("ranks of one communicator differ in its size, or are the same rank");
        worlds[theirs[0]] = theirs[1];
    }
    for (int r = 0; r < ranks; r++)
        if (worlds[r] != me) MPI_Send(worlds, ranks, MPI_INT, worlds[r], tag, MPI_COMM_WORLD);
    return NCCL_OK;
}

nccl_init_rank ncclCommInitRank;
EXPORTED int ncclCommInitRank(struct ncclComm **comm, int ranks, struct nccl_id id, int rank) {
    struct place place;
    memcpy(&place, id.bytes, sizeof place);
    *comm = NULL;
    if (memcmp(place.magic, magic, sizeof magic) != 0) return fail("this is no unique id");
    if (rank < 0 || rank >= ranks) return fail("there is no such rank");
    int *worlds = malloc((size_t)ranks * sizeof *worlds);
    if (!worlds) return NCCL_SYSTEM_ERROR;
    int result = meet(worlds, ranks, rank, &place);
    MPI_Group everybody, members;
    MPI_Comm mpi = MPI_COMM_NULL;
    if (result == NCCL_OK) {
        MPI_Comm_group(MPI_COMM_WORLD, &everybody);
        MPI_Group_incl(everybody, ranks, worlds, &members);
        if (MPI_Comm_create_group(MPI_COMM_WORLD, members, RENDEZVOUS_TAG, &mpi) != MPI_SUCCESS)
            result = NCCL_SYSTEM_ERROR;
        MPI_Group_free(&members);
        MPI_Group_free(&everybody);
    }
    free(worlds);
    return result == NCCL_OK ? make(comm, mpi) : result;
}

nccl_split ncclCommSplit;
EXPORTED int ncclCommSplit(struct ncclComm *comm, int colour, int key, struct ncclComm **part,
                           void *config) {
    (void)config;
    MPI_Comm mpi;
    *part = NULL;
    int as = colour == NCCL_NO_COLOUR ? MPI_UNDEFINED : colour;
    if (MPI_Comm_split(comm->mpi, as, key, &mpi) != MPI_SUCCESS) return NCCL_SYSTEM_ERROR;
    return mpi == MPI_COMM_NULL ? NCCL_OK : make(part, mpi);
}

nccl_end ncclCommFinalize, ncclCommDestroy, ncclCommAbort;
EXPORTED int ncclCommFinalize(struct ncclComm *comm) {
    stand_in_finish(comm);
    return comm->error;
}

static void free_comm(struct ncclComm *comm) {
    free(comm->sent);
    free(comm->received);
    free(comm);
}

EXPORTED int ncclCommDestroy(struct ncclComm *comm) {
    stand_in_finish(comm);
    MPI_Comm_free(&comm->mpi);
    free_comm(comm);
    return NCCL_OK;
}

/* MPI's part is left to the end of the program: freeing it takes the other ranks. */
EXPORTED int ncclCommAbort(struct ncclComm *comm) {
    stand_in_forget(comm);
    free_comm(comm);
    return NCCL_OK;
}

nccl_async_error ncclCommGetAsyncError;
EXPORTED int ncclCommGetAsyncError(struct ncclComm *comm, int *result) {
    *result = comm->error;
    return NCCL_OK;
}

/* Checks what can be checked alone, numbers the call and queues it. */
static int call(struct work work, bool buffers, void *stream) {
    struct ncclComm *comm = work.comm;
    int peer = work.call.kind >= WORK_SEND ? work.peer : work.call.root;
    if (!comm) return fail("there is no communicator");
    if (comm->error) return comm->error;
    bool valid = stand_in_width(work.call.type) > 0 && peer >= 0 && peer < comm->size &&
                 (buffers || work.call.count == 0);
    if (!valid) {
        snprintf(comm->text, sizeof comm->text, "rank %d: no such rank, dtype or buffer",
                 comm->rank);
        return NCCL_INVALID_ARGUMENT;
    }
    if (work.call.count == 0) return NCCL_OK;
    if (work.call.kind == WORK_SEND)
        work.sequence = comm->sent[peer]++;
    else if (work.call.kind == WORK_RECV)
        work.sequence = comm->received[peer]++;
    else
        work.sequence = comm->collectives++;
    return stand_in_queue(&work, stream);
}

static int collective(enum work_kind kind, const void *in, void *out, size_t count, int type,
                      int sum, int root, struct ncclComm *comm, void *stream) {
    const struct work work = {.call = {(int32_t)kind, type, sum, root, (int64_t)count},
                              .comm = comm,
                              .in = in,
                              .out = out};
    return call(work, in && out, stream);
}

nccl_reduce ncclAllReduce;
EXPORTED int ncclAllReduce(const void *in, void *out, size_t count, int type, int sum,
                           struct ncclComm *comm, void *stream) {
    return collective(WORK_ALL_REDUCE, in, out, count, type, sum, 0, comm, stream);
}

/* out has `count` elements. */
nccl_reduce ncclReduceScatter;
EXPORTED int ncclReduceScatter(const void *in, void *out, size_t count, int type, int sum,
                               struct ncclComm *comm, void *stream) {
    return collective(WORK_REDUCE_SCATTER, in, out, count, type, sum, 0, comm, stream);
}

nccl_gather ncclAllGather;
EXPORTED int ncclAllGather(const void *in, void *out, size_t count, int type, struct ncclComm *comm,
                           void *stream) {
    return collective(WORK_ALL_GATHER, in, out, count, type, NCCL_SUM, 0, comm, stream);
}

nccl_bcast ncclBroadcast;
EXPORTED int ncclBroadcast(const void *in, void *out, size_t count, int type, int root,
                           struct ncclComm *comm, void *stream) {
    return collective(WORK_BROADCAST, in, out, count, type, NCCL_SUM, root, comm, stream);
}

nccl_send ncclSend;
EXPORTED int ncclSend(const void *in, size_t count, int type, int peer, struct ncclComm *comm,
                      void *stream) {
    const struct work work = {.call = {WORK_SEND, type, NCCL_SUM, 0, (int64_t)count},
                              .comm = comm,
                              .in = in,
                              .peer = peer};
    return call(work, in, stream);
}

nccl_recv ncclRecv;
EXPORTED int ncclRecv(void *out, size_t count, int type, int peer, struct ncclComm *comm,
                      void *stream) {
    const struct work work = {.call = {WORK_RECV, type, NCCL_SUM, 0, (int64_t)count},
                              .comm = comm,
                              .out = out,
                              .peer = peer};
    return call(work, out, stream);
}
