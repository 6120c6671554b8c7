/* Cross entropy over a (shard of the) vocabulary, in two steps so that vocabulary-parallel ranks
 * can reduce between them: max over ranks of row_max, then sums of sum_exp (rescaled to the common
 * max by the caller) and of target_logit. Loss of a row = log(sum_exp) + row_max - target_logit.
 * Callers pass logits in chunks of rows: never a full (T, V) fp32 copy. */
#ifndef STRATA_KERNELS_CROSS_ENTROPY_H
#define STRATA_KERNELS_CROSS_ENTROPY_H

#include "kernels/base/stream.h"
#include <stdint.h>

/* What a row of logits says of its target; all f32 on the device of the stream. */
struct cross_entropy_row {
    float row_max, sum_exp, target_logit; /* sum_exp = sum exp(logit - row_max) */
};

/* rows (T) out; logits (T, V) f32 in; targets (T): global ids, outside [first, first + V) gives
 * target_logit 0 (another rank's, or ignored when negative). */
typedef void cross_entropy_forward_fn(struct stream *s, struct cross_entropy_row *rows,
                                      const float *logits, const int32_t *targets, int64_t first,
                                      int64_t tokens, int64_t vocab);

/* dlogits (T, V) out act = weight[t] * (softmax - onehot); may alias logits when act is f32; weight
 * (T) f32 is the token's loss weight times the global normalisation; rows after the reduction. */
typedef void cross_entropy_backward_fn(struct stream *s, void *dlogits, const float *logits,
                                       const struct cross_entropy_row *rows, const int32_t *targets,
                                       const float *weight, int64_t first, int64_t tokens,
                                       int64_t vocab);

#endif
