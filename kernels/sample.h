/* Drawing a token from a row of logits.
 *
 * In this order: repetition, presence and frequency penalties and biases over the tokens of `seen`;
 * temperature; top-k; top-p (smallest set of highest probabilities whose sum reaches top_p); min-p
 * (probability at least min_p of the highest). Ties go to the lower id. The draw is one number of
 * the counter-based generator, so it depends on nothing else in the batch: with the words of
 * rng_draw(seed, RNG_SAMPLE, 0, position), u = (word0 * 2^21 + word1 / 2^11) * 2^-53, and the token
 * is the first id, counting up, where the sum of the kept probabilities exceeds u times their
 * total. */
#ifndef STRATA_KERNELS_SAMPLE_H
#define STRATA_KERNELS_SAMPLE_H

#include "kernels/base/stream.h"
#include <stdint.h>

struct sample_params {
    float temperature;                         /* 0 = greedy */
    float top_p;                               /* 1 = off */
    float min_p;                               /* 0 = off */
    int32_t top_k;                             /* 0 = off */
    float repetition_penalty;                  /* 1 = off (Keskar et al., arXiv:1909.05858) */
    float presence_penalty, frequency_penalty; /* 0 = off */
    uint64_t seed;
};

/* A token that adjusts its logit: how often it was generated, whether it stood in prompt or output,
 * and a bias. */
struct sample_seen {
    int32_t token;
    int32_t generated; /* times in the output: presence and frequency */
    int32_t anywhere;  /* 1 when in prompt or output: repetition */
    float bias;
};

struct sample_args {
    int32_t
        *token; /* out: the drawn id, or -1 when the row holds a NaN, +infinity or only -infinity */
    float *logprob; /* out: log probability under the unmodified logits at temperature 1, -infinity
                       for token -1; or NULL */
    float *scratch; /* (vocab) f32 */
    int32_t *scratch_ids;           /* (vocab) */
    const float *logits;            /* (vocab) */
    const struct sample_seen *seen; /* each of another token */
    int32_t seen_count;
    int32_t vocab;
    int64_t position; /* in the request: of the token being drawn */
    struct sample_params params;
};
typedef void sample_fn(struct stream *s, const struct sample_args *args);

#endif
