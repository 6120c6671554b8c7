#include "parallel/comm_mpi_internal.h"
#include "parallel/comm_nccl_internal.h"

#include <stdio.h>
#include <stdlib.h>

void comm_nccl_abort(struct comm_nccl *state) {
    struct ncclComm **handles[] = {&state->messages[2].comm, &state->messages[1].comm,
                                   &state->messages[0].comm, &state->sums.comm, &state->handle};
    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++) {
        if (*handles[i]) state->library->abort(*handles[i]);
        *handles[i] = NULL;
    }
}

static void close_handle(const struct nccl_library *nccl, struct ncclComm *handle) {
    if (!handle) return;
    nccl->finalize(handle);
    nccl->destroy(handle);
}

static void close_lane(struct comm_nccl *state, struct nccl_lane *lane) {
    close_handle(state->library, lane->comm);
    if (lane->stream) state->device->close_stream(lane->stream);
}

void comm_nccl_close(struct comm *comm) {
    struct comm_nccl *state = comm_nccl_state(comm);
    if (state) {
        for (int i = 0; i < NCCL_MESSAGE_LANES; i++) close_lane(state, &state->messages[i]);
        close_lane(state, &state->sums);
        close_handle(state->library, state->handle);
        if (state->scratch) state->device->release(state->scratch);
        comm_close(&state->host);
        free(state);
    }
    *comm = (struct comm){.name = comm->name};
}

/* The same on all ranks: the worst of what they say. */
static int worst(struct comm_nccl *state, int result) {
    struct stream s;
    stream_open_cpu(&s, 1);
    int32_t all = result == NCCL_IN_PROGRESS ? NCCL_OK : result;
    comm_all_reduce(&state->host, &s, &all, 1, DTYPE_I32, COMM_MAX);
    return stream_check(&s) == STATUS_OK ? all : NCCL_REMOTE_ERROR;
}

/* The first rank's id, on all of them. */
static int share_id(struct comm_nccl *state, struct nccl_id *id) {
    struct stream s;
    stream_open_cpu(&s, 1);
    int result = worst(state, state->host.rank == 0 ? state->library->get_id(id) : NCCL_OK);
    if (result != NCCL_OK) return result;
    comm_broadcast(&state->host, &s, id, sizeof *id, DTYPE_U8, 0);
    return stream_check(&s) == STATUS_OK ? NCCL_OK : NCCL_REMOTE_ERROR;
}

/* A call of NCCL's that waits for all ranks begins. */
static struct ring_call enter(const struct comm_nccl *state) {
    const struct stream nowhere = {.threads = 1};
    return comm_enter(state->ring, &nowhere, RING_SPLIT, 0, DTYPE_U8, RING_NO_PEER);
}

static int open_handle(struct comm_nccl *state, struct nccl_id id) {
    struct ring_call call = enter(state);
    int result = state->library->init_rank(&state->handle, state->host.size, id, state->host.rank);
    ring_leave(&call);
    return worst(state, result);
}

static int open_lane(struct comm_nccl *state, struct nccl_lane *lane) {
    lane->stream = state->device->open_stream();
    int result = worst(state, lane->stream ? NCCL_OK : NCCL_SYSTEM_ERROR);
    if (result != NCCL_OK) return result;
    struct ring_call call = enter(state);
    result = state->library->split(state->handle, 0, state->host.rank, &lane->comm, NULL);
    ring_leave(&call);
    return worst(state, result);
}

static int open_all(struct comm_nccl *state, int uses) {
    struct nccl_id id = {{0}};
    state->scratch = state->device->allocate(COMM_SCRATCH_BYTES);
    int result = worst(state, state->scratch ? NCCL_OK : NCCL_SYSTEM_ERROR);
    if (result == NCCL_OK) result = share_id(state, &id);
    if (result == NCCL_OK) result = open_handle(state, id);
    if (result == NCCL_OK && (uses & COMM_NCCL_SUMS)) result = open_lane(state, &state->sums);
    int lanes = uses & COMM_NCCL_MESSAGES ? 2 + state->host.size % 2 : 0;
    for (int i = 0; i < lanes && result == NCCL_OK; i++)
        result = open_lane(state, &state->messages[i]);
    return result;
}

enum status comm_nccl_open_split(struct comm *comm, const struct comm *parent, const char *name,
                                 int colour, int key, const struct nccl *nccl, int uses) {
    struct comm host;
    bool on_nccl = parent->ops == &comm_nccl_ops;
    TRY(comm_mpi_open_split(&host, on_nccl ? &comm_nccl_state(parent)->host : parent, name, colour,
                            key));
    if (host.size == 1) {
        *comm = host;
        return STATUS_OK;
    }
    struct comm_nccl *state = calloc(1, sizeof *state);
    struct comm_nccl whole = {.nccl = nccl,
                              .library = &nccl->library,
                              .device = &nccl->device,
                              .host = host,
                              .ring = comm_mpi_state(&host)->ring};
    int result = worst(&whole, state ? NCCL_OK : NCCL_SYSTEM_ERROR);
    if (result != NCCL_OK) {
        free(state);
        comm_close(&host);
        return status_fail(STATUS_MEMORY, "no memory for communicator '%s'", name);
    }
    *state = whole;
    *comm = (struct comm){&comm_nccl_ops, name, host.rank, host.size, state};
    result = open_all(state, uses);
    if (result == NCCL_OK) return STATUS_OK;
    char detail[512];
    snprintf(detail, sizeof detail, "%s: %s", nccl->library.result_text(result),
             nccl->library.last_error(NULL));
    comm_nccl_abort(state);
    comm_nccl_close(comm);
    return status_fail(STATUS_PEER, "can't open communicator '%s' over NCCL: %s", name, detail);
}

enum status comm_open_split(struct comm *comm, const struct comm *parent, const char *name,
                            int colour, int key) {
    if (parent->ops != &comm_nccl_ops) return comm_mpi_open_split(comm, parent, name, colour, key);
    const struct comm_nccl *state = comm_nccl_state(parent);
    return comm_nccl_open_split(comm, parent, name, colour, key, state->nccl, 0);
}
