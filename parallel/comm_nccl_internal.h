/* What the files of the NCCL communicator share: comm_nccl.c has the calls that wait,
 * comm_nccl_started.c those that are started and waited for later, comm_nccl_open.c opens and
 * closes. */
#ifndef STRATA_PARALLEL_COMM_NCCL_INTERNAL_H
#define STRATA_PARALLEL_COMM_NCCL_INTERNAL_H

#include "parallel/comm_call.h"
#include "parallel/comm_nccl.h"

enum { NCCL_MESSAGE_LANES = 3 };

/* A communicator of NCCL's with the stream of what was started on it. comm NULL: none. */
struct nccl_lane {
    struct ncclComm *comm;
    void *stream;
};

struct comm_nccl {
    const struct nccl *nccl;
    const struct nccl_library *library; /* of it */
    const struct nccl_device *device;
    struct comm host; /* over MPI, of the same ranks */
    struct ring *ring;
    struct ncclComm *handle;
    struct nccl_lane sums, messages[NCCL_MESSAGE_LANES];
    void *scratch; /* the device's, COMM_SCRATCH_BYTES */
};

static inline struct comm_nccl *comm_nccl_state(const struct comm *comm) {
    return comm->state;
}

/* Whether a call's buffers are the host's, and not the device's. */
static inline bool comm_nccl_on_host(const struct comm *comm, const struct stream *s) {
    return !s->device && !comm_nccl_state(comm)->library->mark;
}

enum nccl_type comm_nccl_type(enum dtype type);

/* True when `result` is a failure, or one of the communicator's has come to light: it is aborted
 * then, and the stream knows. */
bool comm_nccl_failed(struct comm *comm, struct stream *s, const char *op, struct ncclComm *handle,
                      int result);

/* Until what comes next on s runs after the mark; false when that failed. */
bool comm_nccl_join(struct comm *comm, struct stream *s, const char *op, struct ncclComm *handle,
                    uint64_t mark);

/* out (size, count) = everybody's `count` elements of my slice, slices `stride` apart; issued. */
int comm_nccl_exchange(const struct comm *comm, struct ncclComm *handle, void *stream, void *out,
                       const void *in, int64_t count, int64_t stride, enum dtype type);

/* The sum in rank order, in place, recorded as `op`. */
void comm_nccl_ordered(struct comm *comm, struct stream *s, enum ring_op op, void *buffer,
                       int64_t count, enum dtype type, enum comm_sum sum);

/* Frees what there is without waiting for anybody. */
void comm_nccl_abort(struct comm_nccl *state);

/* As core/comm.h has them. */
void comm_nccl_start_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                                enum dtype type, struct comm_request *request);
void comm_nccl_start_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                          enum dtype type, int to, struct comm_request *request);
void comm_nccl_start_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                          enum dtype type, int from, struct comm_request *request);
void comm_nccl_start_reduce_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                                    void *scratch, int64_t count, enum dtype type,
                                    struct comm_request *request);
void comm_nccl_start_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                                int64_t count, enum dtype type, struct comm_request *request);
bool comm_nccl_test(struct comm *comm, struct stream *s, struct comm_request *request);
void comm_nccl_wait(struct comm *comm, struct stream *s, struct comm_request *request);

/* comm_nccl.c's: the calls that wait, and those above. */
extern const struct comm_ops comm_nccl_ops;
void comm_nccl_close(struct comm *comm);

#endif
