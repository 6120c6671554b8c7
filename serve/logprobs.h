/* Log probabilities under the unmodified logits at temperature 1: log softmax, computed the same
 * way for the token that was chosen and for the alternatives beside it, so that equal tokens have
 * equal figures. */
#ifndef STRATA_SERVE_LOGPROBS_H
#define STRATA_SERVE_LOGPROBS_H

#include "serve/transcript.h"

enum { LOGPROBS_MAX_TOP = 20 };

/* log(sum(exp(logits))) over (vocab), in f64. NaN when a logit is. */
double logits_log_sum(const float *logits, int32_t vocab);

static inline float logits_logprob(const float *logits, double log_sum, int32_t token) {
    return (float)((double)logits[token] - log_sum);
}

/* The `count` (at most LOGPROBS_MAX_TOP) most likely tokens, best first; ties to the lower id.
 * Returns how many there are: less than `count` only for a smaller vocabulary. */
int32_t logits_top(struct token_chance *top, int32_t count, const float *logits, double log_sum,
                   int32_t vocab);

#endif
