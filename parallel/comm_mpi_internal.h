/* What the files of the MPI communicator share: comm_mpi.c has the calls that wait and the opening,
 * comm_mpi_started.c those that are started and waited for later. */
#ifndef STRATA_PARALLEL_COMM_MPI_INTERNAL_H
#define STRATA_PARALLEL_COMM_MPI_INTERNAL_H

#include "kernels/base/units.h"
#include "parallel/comm_call.h"
#include "parallel/comm_mpi.h"
#include "parallel/comm_sums.h"

#include <mpi.h>

enum { COMM_MPI_TAG = 1 }; /* of every message */

struct comm_mpi {
    MPI_Comm handle;
    int64_t piece; /* bytes */
    char *scratch; /* COMM_SCRATCH_BYTES */
    struct rings *rings;
    struct ring *ring; /* what is called here; NULL: not recorded */
    struct comm_sums sums;
};

static inline struct comm_mpi *comm_mpi_state(const struct comm *comm) {
    return comm->state;
}

/* Elements in the largest message. */
static inline int64_t comm_mpi_piece(const struct comm *comm, enum dtype type) {
    int64_t elements = comm_mpi_state(comm)->piece / (int64_t)dtype_bytes(type, 1);
    return elements < 1 ? 1 : elements;
}

/* In the largest message of a sum, of which MPI keeps a temporary of up to `bytes`. */
static inline int64_t comm_mpi_sum_piece(const struct comm *comm, enum dtype type, int64_t bytes) {
    return min_i64(bytes / (int64_t)dtype_bytes(type, 1), comm_mpi_piece(comm, type));
}

MPI_Datatype comm_mpi_type(enum dtype type);

/* True when the call failed; the stream then knows rank, communicator, op and peer. */
bool comm_mpi_failed(struct comm *comm, struct stream *s, const char *op, int peer, int code);

/* The sum in rank order, in place, recorded as `op`. */
void comm_mpi_ordered(struct comm *comm, struct stream *s, enum ring_op op, void *buffer,
                      int64_t count, enum dtype type, enum comm_sum sum);

/* As core/comm.h has them. */
void comm_mpi_reduce_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                             int64_t count, enum dtype type);
void comm_mpi_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                         int64_t count, enum dtype type);
void comm_mpi_start_all_reduce(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                               enum dtype type, struct comm_request *request);
void comm_mpi_start_send(struct comm *comm, struct stream *s, const void *buffer, int64_t count,
                         enum dtype type, int to, struct comm_request *request);
void comm_mpi_start_recv(struct comm *comm, struct stream *s, void *buffer, int64_t count,
                         enum dtype type, int from, struct comm_request *request);
void comm_mpi_start_reduce_scatter(struct comm *comm, struct stream *s, void *out, const void *in,
                                   void *scratch, int64_t count, enum dtype type,
                                   struct comm_request *request);
void comm_mpi_start_all_gather(struct comm *comm, struct stream *s, void *out, const void *in,
                               int64_t count, enum dtype type, struct comm_request *request);
bool comm_mpi_test(struct comm *comm, struct stream *s, struct comm_request *request);
void comm_mpi_wait(struct comm *comm, struct stream *s, struct comm_request *request);

#endif
