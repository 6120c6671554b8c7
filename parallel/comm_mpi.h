/* The collectives of core/comm.h over Open MPI, for buffers in host memory.
 *
 * Sums of BF16 are widened to fp32, made in rank order and rounded once, whatever the call.
 * all_reduce_ordered and reduce_scatter are sums in rank order: each rank receives its slice of
 * everybody's values, adds them 0, 1, 2, ... and hands the result round, which moves as many bytes
 * as a ring; messages of a few KiB are gathered whole instead, with the same bits. The other
 * all-reduces take MPI's order, which is fixed for a number of ranks and a count.
 *
 * Sums take F32, F64 and BF16; I32, I64 and U8 where the order can't matter (all_reduce).
 * Calls of one process must not overlap in time (MPI_THREAD_SERIALIZED). */
#ifndef STRATA_PARALLEL_COMM_MPI_H
#define STRATA_PARALLEL_COMM_MPI_H

#include "parallel/ring.h"

/* All ranks of the job; MPI is initialised. `name` must outlive the communicator. What is called on
 * it, and on those split from it, is recorded in `rings`, which must outlive them; NULL records
 * nothing. */
enum status comm_mpi_open_world(struct comm *comm, const char *name, struct rings *rings);

/* The ranks of `parent` that say the same colour, ordered by key. Collective over parent. A
 * parent of one rank without MPI gives one of its kind. */
enum status comm_mpi_open_split(struct comm *comm, const struct comm *parent, const char *name,
                                int colour, int key);

/* Messages beyond `bytes` go in pieces; 256 MiB when nothing is said (MPI counts are ints). Every
 * rank of the communicator sets the same. */
void comm_mpi_set_piece(struct comm *comm, int64_t bytes);

#endif
