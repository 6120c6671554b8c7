/* Fast AdamW and sum of squares: bound by memory, but for 8-bit moments. */
#include "kernels/ops.h"
#include "kernels/simd_math.h"
#include "kernels/threads.h"

#include <math.h>

enum { GRAIN = 1 << 15 };

struct factors {
    v16 keep, beta1, rest1, beta2, rest2, rate, correction, eps, grad_scale;
};

static struct factors factors_of(const struct adamw_args *a) {
    return (struct factors){
        .keep = v16_splat((float)(1.0 - a->lr * a->decay)),
        .beta1 = v16_splat((float)a->beta1),
        .rest1 = v16_splat((float)(1.0 - a->beta1)),
        .beta2 = v16_splat((float)a->beta2),
        .rest2 = v16_splat((float)(1.0 - a->beta2)),
        .rate = v16_splat((float)(a->lr / (1.0 - pow(a->beta1, (double)a->step)))),
        .correction = v16_splat((float)(1.0 / sqrt(1.0 - pow(a->beta2, (double)a->step)))),
        .eps = v16_splat((float)a->eps),
        .grad_scale = v16_splat(a->grad_scale)};
}

/* Up to 16 elements: `left` of them, at most. */
static inline void step_line(const struct factors *f, float *w_at, float *m_at, float *v_at,
                             const float *grad, int64_t left) {
    v16 g = v16_mul(v16_load_part(grad, left), f->grad_scale);
    v16 m = v16_fma(f->rest1, g, v16_mul(f->beta1, v16_load_part(m_at, left)));
    v16 v = v16_fma(v16_mul(f->rest2, g), g, v16_mul(f->beta2, v16_load_part(v_at, left)));
    v16 below = v16_fma(v16_sqrt(v), f->correction, f->eps);
    v16 w = v16_mul(v16_load_part(w_at, left), f->keep);
    v16_store_part(w_at, v16_fnma(f->rate, v16_div(m, below), w), left);
    v16_store_part(m_at, m, left);
    v16_store_part(v_at, v, left);
}

void VARIANT(adamw_cpu)(struct stream *s, const struct adamw_args *a) {
    const struct factors f = factors_of(a);
    int threads = threads_for(s, a->n, GRAIN);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < a->n; i += V16_LANES)
        step_line(&f, a->w + i, a->m + i, a->v + i, a->grad + i, a->n - i);
}

void VARIANT(adamw8_cpu)(struct stream *s, const struct adamw_args *a, struct moment8 *m,
                         struct moment8 *v) {
    const struct factors f = factors_of(a);
    struct moment8_map first, second;
    moment8_map_create(&first, 1);
    moment8_map_create(&second, 0);
    int threads = threads_for(s, a->n, GRAIN);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t block = 0; block < a->n / MOMENT8_BLOCK; block++) {
        float m_wide[MOMENT8_BLOCK], v_wide[MOMENT8_BLOCK];
        int64_t at = block * MOMENT8_BLOCK;
        moment8_unpack(m_wide, &m[block], &first);
        moment8_unpack(v_wide, &v[block], &second);
        for (int i = 0; i < MOMENT8_BLOCK; i += V16_LANES)
            step_line(&f, a->w + at + i, m_wide + i, v_wide + i, a->grad + at + i, V16_LANES);
        moment8_pack(&m[block], m_wide, &first);
        moment8_pack(&v[block], v_wide, &second);
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
