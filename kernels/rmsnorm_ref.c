/* RMSNorm in plain loops; sums run in double, so that the oracle adds no error of its own. */
#include "kernels/ops.h"

#include <math.h>

void VARIANT(rmsnorm_forward_ref)(struct stream *s, void *y, float *rstd, const void *x,
                                  const float *w, int64_t rows, int64_t width, float eps) {
    (void)s;
    for (int64_t row = 0; row < rows; row++) {
        const act_t *in = (const act_t *)x + row * width;
        act_t *out = (act_t *)y + row * width;
        double sum = 0.0;
        for (int64_t i = 0; i < width; i++)
            sum += (double)act_load(in[i]) * (double)act_load(in[i]);
        float inverse = (float)(1.0 / sqrt(sum / (double)width + (double)eps));
        for (int64_t i = 0; i < width; i++) out[i] = act_store(act_load(in[i]) * inverse * w[i]);
        if (rstd) rstd[row] = inverse;
    }
}

static void weight_gradient(const struct rmsnorm_backward_args *a) {
    const act_t *dy = a->dy, *x = a->x;
    for (int64_t i = 0; i < a->width; i++) {
        double sum = 0.0;
        for (int64_t row = 0; row < a->rows; row++) {
            int64_t at = row * a->width + i;
            sum += (double)(act_load(dy[at]) * (act_load(x[at]) * a->rstd[row]));
        }
        a->dw[i] += (float)sum;
    }
}

/* With n = x * rstd and g = dy * w:  dx = rstd * (g - n * mean(g * n)),  dw = sum over rows dy * n.
 */
void VARIANT(rmsnorm_backward_ref)(struct stream *s, const struct rmsnorm_backward_args *a) {
    (void)s;
    if (a->dw) weight_gradient(a); /* first: dx may take the place of dy */
    for (int64_t row = 0; row < a->rows; row++) {
        const act_t *dy = (const act_t *)a->dy + row * a->width;
        const act_t *x = (const act_t *)a->x + row * a->width;
        act_t *dx = (act_t *)a->dx + row * a->width;
        float rstd = a->rstd[row];
        double sum = 0.0;
        for (int64_t i = 0; i < a->width; i++) {
            float normed = act_load(x[i]) * rstd;
            sum += (double)(act_load(dy[i]) * a->w[i] * normed);
        }
        float mean = (float)(sum / (double)a->width);
        for (int64_t i = 0; i < a->width; i++) {
            float normed = act_load(x[i]) * rstd;
            float gradient = rstd * (act_load(dy[i]) * a->w[i] - normed * mean);
            dx[i] = act_store(a->accumulate ? act_load(dx[i]) + gradient : gradient);
        }
    }
}
