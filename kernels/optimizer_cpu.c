/* Fast AdamW and sum of squares: bound by memory. */
#include "kernels/ops.h"
#include "kernels/simd_math.h"
#include "kernels/threads.h"

#include <math.h>

enum { GRAIN = 1 << 15 };

void VARIANT(adamw_cpu)(struct stream *s, const struct adamw_args *a) {
    v16 keep = v16_splat((float)(1.0 - a->lr * a->decay));
    v16 beta1 = v16_splat((float)a->beta1), rest1 = v16_splat((float)(1.0 - a->beta1));
    v16 beta2 = v16_splat((float)a->beta2), rest2 = v16_splat((float)(1.0 - a->beta2));
    v16 rate = v16_splat((float)(a->lr / (1.0 - pow(a->beta1, (double)a->step))));
    v16 correction = v16_splat((float)(1.0 / sqrt(1.0 - pow(a->beta2, (double)a->step))));
    v16 eps = v16_splat((float)a->eps), grad_scale = v16_splat(a->grad_scale);
    int threads = threads_for(s, a->n, GRAIN);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < a->n; i += V16_LANES) {
        int64_t left = a->n - i;
        v16 g = v16_mul(v16_load_part(a->grad + i, left), grad_scale);
        v16 m = v16_fma(rest1, g, v16_mul(beta1, v16_load_part(a->m + i, left)));
        v16 v = v16_fma(v16_mul(rest2, g), g, v16_mul(beta2, v16_load_part(a->v + i, left)));
        v16 below = v16_fma(v16_sqrt(v), correction, eps);
        v16 w = v16_mul(v16_load_part(a->w + i, left), keep);
        v16_store_part(a->w + i, v16_fnma(rate, v16_div(m, below), w), left);
        v16_store_part(a->m + i, m, left);
        v16_store_part(a->v + i, v, left);
    }
}

enum { SHARES = 64 }; /* of the elements, whatever the threads; summed in order */

static double squares_of(const float *x, int64_t n) {
    v16_double sum = v16_double_zero();
    for (int64_t i = 0; i < n; i += V16_LANES)
        sum = v16_double_add_square(sum, v16_load_part(x + i, n - i));
    return v16_double_sum(sum);
}

void VARIANT(sum_squares_cpu)(struct stream *s, double *sum, const float *x, int64_t n) {
    int threads = threads_for(s, n, GRAIN);
    int64_t share = (n / SHARES + V16_LANES) / V16_LANES * V16_LANES;
    double parts[SHARES] = {0};
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int i = 0; i < SHARES; i++) {
        int64_t first = i * share, left = n - first;
        if (left > 0) parts[i] = squares_of(x + first, left < share ? left : share);
    }
    for (int i = 0; i < SHARES; i++) *sum += parts[i];
}
