/* AdamW, with fp32 and 8-bit moments, and the sum of squares in plain loops. */
#include "kernels/ops.h"

#include <math.h>
#include <stdbool.h>

void VARIANT(adamw_ref)(struct stream *s, const struct adamw_args *a) {
    (void)s;
    float keep = (float)(1.0 - a->lr * a->decay);
    float beta1 = (float)a->beta1, rest1 = (float)(1.0 - a->beta1);
    float beta2 = (float)a->beta2, rest2 = (float)(1.0 - a->beta2);
    float rate = (float)(a->lr / (1.0 - pow(a->beta1, (double)a->step)));
    float correction = (float)(1.0 / sqrt(1.0 - pow(a->beta2, (double)a->step)));
    float eps = (float)a->eps;
    for (int64_t i = 0; i < a->n; i++) {
        float g = a->grad[i] * a->grad_scale;
        float m = beta1 * a->m[i] + rest1 * g;
        float v = beta2 * a->v[i] + rest2 * g * g;
        a->w[i] = a->w[i] * keep - rate * m / (sqrtf(v) * correction + eps);
        a->m[i] = m;
        a->v[i] = v;
    }
}

/* The nearest level by going through them. */
static void quantize(struct moment8 *block, const float *in, const struct moment8_map *map) {
    block->scale = moment8_scale(in);
    bool is_signed = map->count < MOMENT8_BLOCK, empty = !(block->scale > 0.0f);
    for (int i = 0; i < MOMENT8_BLOCK; i++) {
        float size = empty ? 0.0f : fabsf(in[i] / block->scale);
        int code = 0;
        while (size > map->middles[code]) code++;
        if (is_signed && signbit(in[i]) && !empty) code += map->count;
        if (!is_signed && code == 0 && size > 0.0f) code = 1;
        block->codes[i] = (uint8_t)code;
    }
}

void VARIANT(adamw8_ref)(struct stream *s, const struct adamw_args *a, struct moment8 *m,
                         struct moment8 *v) {
    struct moment8_map first, second;
    moment8_map_create(&first, 1);
    moment8_map_create(&second, 0);
    for (int64_t i = 0; i < a->n / MOMENT8_BLOCK; i++) {
        float m_wide[MOMENT8_BLOCK], v_wide[MOMENT8_BLOCK];
        struct adamw_args block = *a;
        moment8_unpack(m_wide, &m[i], &first);
        moment8_unpack(v_wide, &v[i], &second);
        block.w += i * MOMENT8_BLOCK;
        block.grad += i * MOMENT8_BLOCK;
        block.m = m_wide;
        block.v = v_wide;
        block.n = MOMENT8_BLOCK;
        VARIANT(adamw_ref)(s, &block);
        quantize(&m[i], m_wide, &first);
        quantize(&v[i], v_wide, &second);
    }
}

void VARIANT(sum_squares_ref)(struct stream *s, double *sum, const float *x, int64_t n) {
    (void)s;
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) total += (double)x[i] * (double)x[i];
    *sum += total;
}
