/* The inverse frequencies of rotary embeddings under each scaling, as Hugging Face's
 * modeling_rope_utils.py defines them. */
#include "kernels/rope.h"

#include <assert.h>
#include <math.h>

static const double two_pi = 6.283185307179586;

/* theta^(-2i / dim) */
static void plain_frequencies(double *out, double theta, int dim) {
    for (int i = 0; i < dim / 2; i++) out[i] = pow(theta, -2.0 * i / dim);
}

/* Wavelengths beyond original / low are stretched by factor, those below original / high are kept,
 * those between are blended. */
static void llama3_frequencies(double *out, const struct rope_config *c, int dim) {
    double original = (double)c->original_context;
    double low = c->low_frequency_factor, high = c->high_frequency_factor;
    for (int i = 0; i < dim / 2; i++) {
        double turns = original * out[i] / two_pi; /* within the original context */
        if (turns > high) continue;
        double smooth = turns < low ? 0.0 : (turns - low) / (high - low);
        out[i] = (1.0 - smooth) * out[i] / c->factor + smooth * out[i];
    }
}

/* The (fractional) pair that turns `rotations` times within the original context. */
static double yarn_dimension(const struct rope_config *c, double rotations, int dim) {
    double ratio = (double)c->original_context / (rotations * two_pi);
    return dim * log(ratio) / (2.0 * log(c->theta));
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

/* Fast pairs keep their frequency, slow ones are interpolated, a linear ramp joins them. */
static double yarn_frequencies(double *out, const struct rope_config *c, int dim) {
    double low = yarn_dimension(c, c->beta_fast, dim);
    double high = yarn_dimension(c, c->beta_slow, dim);
    if (c->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, dim - 1);
    if (low == high) high += 0.001;
    for (int i = 0; i < dim / 2; i++) {
        double ramp = fmin(fmax((i - low) / (high - low), 0.0), 1.0);
        out[i] = out[i] / c->factor * ramp + out[i] * (1.0 - ramp);
    }
    if (c->attention_factor > 0.0) return c->attention_factor;
    if (c->mscale != 0.0 && c->mscale_all_dim != 0.0)
        return yarn_mscale(c->factor, c->mscale) / yarn_mscale(c->factor, c->mscale_all_dim);
    return yarn_mscale(c->factor, 1.0);
}

double rope_frequencies(double *inverse_frequency, const struct rope_config *c, int rotary_dim) {
    assert(rotary_dim > 0 && rotary_dim % 2 == 0);
    double theta = c->theta;
    if (c->scaling == ROPE_SCALING_DYNAMIC && c->context > c->original_context) {
        double grown = c->factor * (double)c->context / (double)c->original_context;
        double exponent = (double)rotary_dim / (rotary_dim - 2);
        theta *= pow(grown - (c->factor - 1.0), exponent);
    }
    plain_frequencies(inverse_frequency, theta, rotary_dim);
    switch (c->scaling) {
    case ROPE_SCALING_LINEAR:
        for (int i = 0; i < rotary_dim / 2; i++) inverse_frequency[i] /= c->factor;
        return 1.0;
    case ROPE_SCALING_LLAMA3:
        llama3_frequencies(inverse_frequency, c, rotary_dim);
        return 1.0;
    case ROPE_SCALING_YARN:
        return yarn_frequencies(inverse_frequency, c, rotary_dim);
    case ROPE_SCALING_NONE:
    case ROPE_SCALING_DYNAMIC:
        break;
    }
    return 1.0;
}
