/* Rotary position embedding (Su et al., arXiv:2104.09864) with the scalings in use.
 *
 * The angles of a batch's tokens are computed once a step (rope_table) in double precision and used
 * by every layer; the rotation itself is fp32. A pair is (x[i], x[i + D/2]) for half-split (Hugging
 * Face) or (x[2i], x[2i+1]) for interleaved. */
#ifndef STRATA_KERNELS_ROPE_H
#define STRATA_KERNELS_ROPE_H

#include "kernels/base/stream.h"
#include <stdbool.h>
#include <stdint.h>

enum rope_style { ROPE_HALF_SPLIT, ROPE_INTERLEAVED };

enum rope_scaling {
    ROPE_SCALING_NONE,
    ROPE_SCALING_LINEAR,  /* position / factor (Chen et al., arXiv:2306.15595) */
    ROPE_SCALING_DYNAMIC, /* NTK-aware: base grows with `context` beyond original_context */
    ROPE_SCALING_LLAMA3,  /* low frequencies / factor, smooth between */
    ROPE_SCALING_YARN     /* Peng et al., arXiv:2309.00071 */
};

struct rope_config {
    double theta; /* base: 10000, 500000, ... */
    enum rope_scaling scaling;
    double factor;
    double low_frequency_factor, high_frequency_factor; /* llama3 */
    double beta_fast, beta_slow;                        /* yarn: 32, 1 */
    double attention_factor;                            /* yarn: <= 0 means 0.1 ln(factor) + 1 */
    double mscale, mscale_all_dim;                      /* yarn: 0 when absent */
    int64_t original_context;                           /* original_max_position_embeddings */
    int64_t context; /* the run's maximum, for dynamic: fixed per run, so that no request
                        changes another's angles */
    bool truncate;   /* yarn: floor / ceil the correction range (the default) */
};

/* inverse_frequency (rotary_dim / 2) f64 out; returns the factor on cos and sin (1 except yarn). */
double rope_frequencies(double *inverse_frequency, const struct rope_config *config,
                        int rotary_dim);

/* table (tokens, rotary_dim / 2, 2) f32 out: {cos, sin} * factor of position * inverse_frequency */
typedef void rope_table_fn(struct stream *s, float *table, const int32_t *positions,
                           const double *inverse_frequency, double factor, int64_t tokens,
                           int rotary_dim);

/* Rotates x (tokens, heads, head_dim) act in place; the first rotary_dim of each head.
 * backward = true rotates by the negative angle: the gradient. */
struct rope_args {
    void *x;
    const float *table;
    int64_t tokens;
    int heads, head_dim, rotary_dim;
    enum rope_style style;
    bool backward;
};
typedef void rope_fn(struct stream *s, const struct rope_args *args);

#endif
