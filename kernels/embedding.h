/* Token embedding. act = the table's dtype. */
#ifndef STRATA_KERNELS_EMBEDDING_H
#define STRATA_KERNELS_EMBEDDING_H

#include "kernels/pack.h"

/* y (T, C) out act: row tokens[t] of a table (V, C) of which w, any layout, is the rows from
 * `first` on; zeros where the row is not among them (another rank's). A token outside [0, V) fails
 * the stream. */
typedef void embedding_forward_fn(struct stream *s, void *y, const int32_t *tokens,
                                  const struct weight *w, int64_t first, int64_t vocab,
                                  int64_t count);

/* dw f32 += rows of dy (T, C) act at their tokens, summed in token order whatever the threads;
 * dw is the rows of the table from `first` on, other tokens are passed over. */
typedef void embedding_backward_fn(struct stream *s, const struct weight *dw, const int32_t *tokens,
                                   const void *dy, int64_t first, int64_t count);

#endif
