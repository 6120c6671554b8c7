/* Sequence parallelism (Korthikanti et al., arXiv:2205.05198): between the products of a layer each
 * tensor-parallel rank holds a run of the batch's tokens, so that residual stream, norms and their
 * activations are cut by tokens. Tokens are gathered before a product whose weight is sliced by
 * rows; the partial sums of one sliced by columns are scattered. Without it every rank holds all
 * tokens, the gather is nothing, and the sum is an all-reduce.
 *
 *     tokens      0 ............ room ......... 2 room ... N
 *     rank        |      0       |      1       |    2     |xxx|    the last parts may be short, or
 *                                                                   empty
 *
 * Buffers for all tokens have sequence_rows rows: those past N are never read. Sums are made in
 * rank order and have the same bits with and without the split. */
#ifndef STRATA_CORE_SEQUENCE_H
#define STRATA_CORE_SEQUENCE_H

#include "core/exec.h"

/* What I hold of the tokens of a batch. */
struct sequence_part {
    int64_t room;  /* rows of every rank's buffer */
    int64_t count; /* of them tokens */
};

/* Rows of a rank's buffer where `ranks` split `tokens`. */
static inline int64_t sequence_room(int64_t tokens, int ranks) {
    return (tokens + ranks - 1) / ranks;
}

struct sequence_part sequence_part(const struct exec *exec, int64_t tokens);

/* Rows of a buffer for all tokens. */
int64_t sequence_rows(const struct exec *exec, int64_t tokens);

/* My part of a buffer (sequence_rows, width) act. */
void *sequence_mine(const struct exec *exec, void *all, int64_t tokens, int64_t width);

/* Completes `all` (sequence_rows, width) act, in which every rank wrote its part. */
void sequence_gather(const struct exec *exec, void *all, int64_t tokens, int64_t width);

/* All tokens of what `part` is mine of: `part` itself, or gathered into scratch. */
const void *sequence_all(const struct exec *exec, const void *part, int64_t tokens, int64_t width);

/* A gather that goes on while the caller computes what does not read it. MPI moves messages only
 * inside its calls: sequence_test between two products, then sequence_wait. Both may be called
 * again, and where nothing is gathered. */
struct sequence_gathering {
    const void *all; /* complete after sequence_wait */
    struct comm_request request;
};

/* sequence_gather and sequence_all, started. Buffers and scratch stay until sequence_wait; no other
 * sum or gather of the sequence begins before that. */
struct sequence_gathering sequence_start_gather(const struct exec *exec, void *all, int64_t tokens,
                                                int64_t width);
struct sequence_gathering sequence_start_all(const struct exec *exec, const void *part,
                                             int64_t tokens, int64_t width);
void sequence_test(const struct exec *exec, struct sequence_gathering *gathering);
void sequence_wait(const struct exec *exec, struct sequence_gathering *gathering);

/* Where a product over all tokens belongs whose sum over ranks becomes `part`: `part` itself, or
 * scratch. */
void *sequence_partial(const struct exec *exec, void *part, int64_t tokens, int64_t width);

/* part = the sum over ranks of `partial`, what sequence_partial gave. */
void sequence_sum(const struct exec *exec, void *part, void *partial, int64_t tokens,
                  int64_t width);

#endif
