/* Sums over ranks in the background that hold no more than COMM_SUMS_BYTES of MPI's memory.
 *
 * Open MPI takes a temporary as large as the message for each non-blocking reduction, until it is
 * done: the gradients of a whole model started at once would be in memory twice. So a sum is cut
 * into pieces, and only COMM_SUMS_PIECES pieces of a communicator are under way; the rest follows
 * in the order in which the sums were started, from test and wait:
 *
 *     queue   | sum 0: done done away away | sum 1: away away left left | sum 2: left ...
 *
 * The pieces have a communicator of their own, as the moment when one starts differs from rank to
 * rank while the order in which they do does not. */
#ifndef STRATA_PARALLEL_COMM_SUMS_H
#define STRATA_PARALLEL_COMM_SUMS_H

#include "core/comm.h"

#include <mpi.h>

enum { COMM_SUMS_PIECES = 4, COMM_SUMS_PIECE_BYTES = COMM_SUMS_BYTES / COMM_SUMS_PIECES };

/* One started sum, in place; the caller's, until comm_sums_wait. */
struct comm_sum_job {
    char *data;
    int64_t count, piece; /* elements in all, in a piece */
    size_t width;         /* bytes of an element */
    MPI_Datatype type;
    /* comm_sums.c's; zero at first */
    int64_t started;     /* elements */
    int64_t pieces_left; /* to end */
    struct comm_sum_job *next;
};

/* Zeroed = closed. */
struct comm_sums {
    MPI_Comm handle;
    struct comm_sum_job *first; /* of the jobs that have pieces left to start, in order */
    MPI_Request requests[COMM_SUMS_PIECES];
    struct comm_sum_job *owners[COMM_SUMS_PIECES]; /* NULL: a free place */
};

/* Codes are MPI's. open and close are collective over `comm`. */
int comm_sums_open(struct comm_sums *sums, MPI_Comm comm);
void comm_sums_close(struct comm_sums *sums);

/* Takes a job on (count above 0) and starts what there is room for; never waits. */
int comm_sums_start(struct comm_sums *sums, struct comm_sum_job *job);

/* Moves on whatever is under way; a job is done when it has no pieces left. */
int comm_sums_test(struct comm_sums *sums);
int comm_sums_wait(struct comm_sums *sums, const struct comm_sum_job *job);

/* After a failure: forgets every job; what is under way is left to the end of the program. */
void comm_sums_abandon(struct comm_sums *sums);

#endif
