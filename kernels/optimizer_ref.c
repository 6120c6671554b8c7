/* AdamW and the sum of squares in plain loops. */
#include "kernels/ops.h"

#include <math.h>

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

void VARIANT(sum_squares_ref)(struct stream *s, double *sum, const float *x, int64_t n) {
    (void)s;
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) total += (double)x[i] * (double)x[i];
    *sum += total;
}
