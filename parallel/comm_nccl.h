/* The collectives of core/comm.h over NCCL, for buffers in a device's memory.
 *
 * What goes where:
 *     calls on a stream of the device   NCCL: everything below
 *     calls on a stream of the host     MPI, by a communicator of the same ranks: agreement, small
 *                                       numbers that the host needs. Where the host is the device
 *                                       (the stand-in), they go to NCCL too
 *     barrier                           MPI, after what is on the stream
 *     opening                           MPI carries the unique id
 * Both record in one ring, by the names and numbers that comm_mpi gives.
 *
 * NCCL chooses the order of a sum by its size. So sums whose order matters (all_reduce_ordered,
 * reduce_scatter, and BF16, which is widened to fp32 and rounded once) don't use its reductions:
 * each rank receives its slice of everybody's values, adds them in rank order and hands the result
 * round; a few KiB are gathered whole instead. Their bits are comm_mpi's. The other all-reduces are
 * NCCL's own, in an order that is fixed for a library, a number of ranks and a count.
 *
 * NCCL runs what is called on one communicator in the order of the calls, whatever the streams, and
 * a send lasts until it is received. What is started therefore has communicators of its own, each
 * with its stream: one for sums and gathers, and two (three where the number of ranks is odd) for
 * messages, told apart by the sender, such that between neighbours of a ring what a rank sends and
 * what it receives never wait for each other. Messages to other ranks than neighbours arrive too,
 * but may wait for each other. All these run at once on a GPU: NCCL_LAUNCH_ORDER_IMPLICIT, which
 * puts them in one order, must not be set.
 *
 * Errors: a failed call, or an error that NCCL reports later (ncclCommGetAsyncError, asked in every
 * call and while it waits), aborts the communicator and sticks to the stream as STATUS_PEER. */
#ifndef STRATA_PARALLEL_COMM_NCCL_H
#define STRATA_PARALLEL_COMM_NCCL_H

#include "parallel/nccl_device.h"

/* The library and the device that communicators are opened on; outlives them. */
struct nccl {
    struct nccl_library library;
    struct nccl_device device;
};

/* What is started on a communicator; it pays for nothing else. */
enum comm_nccl_use { COMM_NCCL_SUMS = 1, COMM_NCCL_MESSAGES = 2 };

/* comm_mpi_open_split over NCCL: the ranks of `parent`, which is MPI's or NCCL's, that say the same
 * colour, ordered by key; `uses` is a sum of enum comm_nccl_use, the same on all. A rank alone gets
 * MPI's. Collective over parent. */
enum status comm_nccl_open_split(struct comm *comm, const struct comm *parent, const char *name,
                                 int colour, int key, const struct nccl *nccl, int uses);

/* The same on what `parent` is on, MPI or NCCL; nothing is started on it. */
enum status comm_open_split(struct comm *comm, const struct comm *parent, const char *name,
                            int colour, int key);

#endif
