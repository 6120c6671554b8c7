/* Elementwise ops in plain loops. */
#include "kernels/base/rng.h"
#include "kernels/ops.h"

#include <math.h>

void VARIANT(add_ref)(struct stream *s, void *y, const void *a, const void *b, int64_t n) {
    (void)s;
    act_t *out = y;
    const act_t *left = a, *right = b;
    for (int64_t i = 0; i < n; i++) out[i] = act_store(act_load(left[i]) + act_load(right[i]));
}

void VARIANT(scale_ref)(struct stream *s, void *y, float scale, int64_t n) {
    (void)s;
    act_t *out = y;
    for (int64_t i = 0; i < n; i++) out[i] = act_store(act_load(out[i]) * scale);
}

void VARIANT(accumulate_f32_ref)(struct stream *s, float *y, const float *x, int64_t n) {
    (void)s;
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

void VARIANT(round_f32_ref)(struct stream *s, void *y, const float *x, int64_t n) {
    (void)s;
    for (int64_t i = 0; i < n; i++) ((act_t *)y)[i] = act_store(x[i]);
}

void VARIANT(swiglu_forward_ref)(struct stream *s, void *y, const void *gate, const void *up,
                                 int64_t n) {
    (void)s;
    act_t *out = y;
    for (int64_t i = 0; i < n; i++) {
        float g = act_load(((const act_t *)gate)[i]), u = act_load(((const act_t *)up)[i]);
        out[i] = act_store(g / (1.0f + expf(-g)) * u);
    }
}

/* silu'(g) = sigmoid(g) * (1 + g * (1 - sigmoid(g))) */
void VARIANT(swiglu_backward_ref)(struct stream *s, void *dgate, void *dup, const void *dy,
                                  const void *gate, const void *up, int64_t n) {
    (void)s;
    for (int64_t i = 0; i < n; i++) {
        float d = act_load(((const act_t *)dy)[i]);
        float g = act_load(((const act_t *)gate)[i]), u = act_load(((const act_t *)up)[i]);
        float sigmoid = 1.0f / (1.0f + expf(-g));
        ((act_t *)dgate)[i] = act_store(d * u * sigmoid * (1.0f + g * (1.0f - sigmoid)));
        ((act_t *)dup)[i] = act_store(d * g * sigmoid);
    }
}

void VARIANT(dropout_ref)(struct stream *s, const struct dropout_args *a) {
    (void)s;
    float keep = 1.0f / (1.0f - a->p);
    for (int64_t row = 0; row < a->rows; row++) {
        const act_t *x = (const act_t *)a->x + row * a->width;
        act_t *y = (act_t *)a->y + row * a->width;
        for (int64_t i = 0; i < a->width; i++) {
            uint64_t element =
                (uint64_t)a->row_id[row] * (uint64_t)a->whole + (uint64_t)(a->first + i);
            struct rng_block block = rng_draw(a->seed, RNG_DROPOUT, a->domain, element / 4);
            bool kept = rng_unit(block.word[element % 4]) >= a->p;
            y[i] = act_store(kept ? act_load(x[i]) * keep : 0.0f);
        }
    }
}
