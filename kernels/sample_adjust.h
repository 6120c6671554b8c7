/* What every sampler does alike; private to kernels/sample*. */
#ifndef STRATA_KERNELS_SAMPLE_ADJUST_H
#define STRATA_KERNELS_SAMPLE_ADJUST_H

#include "kernels/base/rng.h"
#include "kernels/sample.h"

/* The i-th of `seen` with its penalties and bias on scratch, a copy of the logits. */
GPU_PURE void sample_adjust_one(const struct sample_args *a, int32_t i) {
    const struct sample_params *p = &a->params;
    const struct sample_seen *seen = &a->seen[i];
    float logit = a->scratch[seen->token];
    if (seen->anywhere)
        logit = logit > 0.0f ? logit / p->repetition_penalty : logit * p->repetition_penalty;
    if (seen->generated > 0) logit -= p->presence_penalty;
    logit -= p->frequency_penalty * (float)seen->generated;
    a->scratch[seen->token] = logit + seen->bias;
}

/* All of them. */
GPU_PURE void sample_adjust(const struct sample_args *a) {
    for (int32_t i = 0; i < a->seen_count; i++) sample_adjust_one(a, i);
}

/* The number of this draw, in [0, 1). */
GPU_PURE double sample_unit(const struct sample_args *a) {
    struct rng_block block = rng_draw(a->params.seed, RNG_SAMPLE, 0, (uint64_t)a->position);
    return (double)(((uint64_t)block.word[0] << 21) | (block.word[1] >> 11)) * 0x1p-53;
}

#endif
