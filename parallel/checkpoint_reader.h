/* Logical tensors of a checkpoint, a few rows at a time, by one process alone: for results that no
 * rank holds whole. */
#ifndef STRATA_PARALLEL_CHECKPOINT_READER_H
#define STRATA_PARALLEL_CHECKPOINT_READER_H

#include "parallel/checkpoint.h"

struct checkpoint_reader; /* opaque; one thread at a time */

enum status checkpoint_reader_open(struct checkpoint_reader **reader, const char *directory,
                                   int64_t step);
void checkpoint_reader_close(struct checkpoint_reader *reader); /* NULL is fine */

/* out (count, cols) f32 = rows [first, first + count) of the tensor `name`, which is (rows, cols).
 * STATUS_FORMAT when it can't be read, STATUS_SHAPE when it is not of that shape. Quick where calls
 * for a tensor follow each other. */
enum status checkpoint_reader_rows(struct checkpoint_reader *reader, float *out, const char *name,
                                   int64_t rows, int64_t cols, int64_t first, int64_t count);

#endif
