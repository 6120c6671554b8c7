/* Adds what ranks sent, in rank order. */
#ifndef STRATA_PARALLEL_COMM_FOLD_H
#define STRATA_PARALLEL_COMM_FOLD_H

#include "core/comm.h"

/* out (count) = rows[0] + rows[1] + ... in that order, rows (ranks, count) of `type`: F32, F64, or
 * BF16 accumulated in fp32 and rounded once. MAX and MIN likewise. out must not alias rows. */
void comm_fold(void *out, const void *rows, int ranks, int64_t count, enum dtype type,
               enum comm_sum sum, int threads);

#endif
