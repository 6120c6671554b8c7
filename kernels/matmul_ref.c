/* The meaning of the matrix products: one chain of fused multiply-adds an output element. The
 * gradients' chains (over n, over t) may be ordered otherwise by another table. */
#include "kernels/matmul_variant.h"

#include <math.h>

/* W[n][k] whatever the layout. */
static float weight_at(const struct weight *w, int64_t n, int64_t k) {
    int64_t at = weight_index(w->layout, w->cols, n, k);
    return w->layout == LAYOUT_PANEL_BF16 ? bf16_to_f32(((const uint16_t *)w->data)[at])
                                          : ((const float *)w->data)[at];
}

void VARIANT(matmul_forward_ref)(struct stream *s, const struct matmul_forward_args *args) {
    (void)s;
    const struct weight *w = args->w;
    const act_t *x = args->x;
    float *y_f32 = args->y;
    act_t *y_act = args->y;
    for (int64_t t = 0; t < args->tokens; t++) {
        for (int64_t n = 0; n < w->rows; n++) {
            int64_t at = t * w->rows + n;
            float sum = 0.0f;
            if (args->accumulate) sum = args->y_is_f32 ? y_f32[at] : act_load(y_act[at]);
            for (int64_t k = 0; k < w->cols; k++)
                sum = fmaf(act_load(x[t * w->cols + k]), weight_at(w, n, k), sum);
            if (args->bias) sum += args->bias[n];
            if (args->y_is_f32)
                y_f32[at] = sum;
            else
                y_act[at] = act_store(sum);
        }
    }
}

void VARIANT(matmul_backward_input_ref)(struct stream *s,
                                        const struct matmul_backward_input_args *args) {
    (void)s;
    const struct weight *w = args->w;
    const act_t *dy = args->dy;
    act_t *dx = args->dx;
    for (int64_t t = 0; t < args->tokens; t++) {
        for (int64_t k = 0; k < w->cols; k++) {
            act_t *out = &dx[t * w->cols + k];
            float sum = args->accumulate ? act_load(*out) : 0.0f;
            for (int64_t n = 0; n < w->rows; n++)
                sum = fmaf(act_load(dy[t * w->rows + n]), weight_at(w, n, k), sum);
            *out = act_store(sum);
        }
    }
}

void VARIANT(matmul_backward_weight_ref)(struct stream *s,
                                         const struct matmul_backward_weight_args *args) {
    (void)s;
    int64_t rows = args->dw->rows, cols = args->dw->cols;
    enum layout layout = args->dw->layout;
    const act_t *dy = args->dy, *x = args->x;
    float *dw = args->dw->data;
    for (int64_t n = 0; n < rows; n++) {
        for (int64_t k = 0; k < cols; k++) {
            float *out = &dw[weight_index(layout, cols, n, k)];
            for (int64_t t = 0; t < args->tokens; t++)
                *out = fmaf(act_load(dy[t * rows + n]), act_load(x[t * cols + k]), *out);
        }
    }
}

void VARIANT(bias_backward_ref)(struct stream *s, float *dbias, const void *dy, int64_t tokens,
                                int64_t width) {
    (void)s;
    const act_t *rows = dy;
    for (int64_t n = 0; n < width; n++)
        for (int64_t t = 0; t < tokens; t++) dbias[n] += act_load(rows[t * width + n]);
}
