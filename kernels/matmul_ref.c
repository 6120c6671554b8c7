/* The meaning of the matrix products: one chain of fused multiply-adds an output element. The
 * gradients' chains (over n, over t) may be ordered otherwise by another table. */
#include "kernels/matmul_variant.h"

#include <assert.h>
#include <math.h>

enum { PIECE = 256 }; /* columns of a row whose values are read together */

/* W[n][k] for k of a piece, as activations of this type meet them. */
static void read_piece(float values[PIECE], const struct weight *w, int64_t n, int64_t k) {
    int64_t width = w->cols - k < PIECE ? w->cols - k : PIECE;
    weight_read(values, w, n, k, width);
    for (int64_t i = 0; STRATA_ACT_BF16 && layout_is_quantized(w->layout) && i < width; i++)
        values[i] = bf16_to_f32(f32_to_bf16(values[i]));
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
            float sum = 0.0f, values[PIECE];
            if (args->accumulate) sum = args->y_is_f32 ? y_f32[at] : act_load(y_act[at]);
            for (int64_t k = 0; k < w->cols; k++) {
                if (k % PIECE == 0) read_piece(values, w, n, k);
                sum = fmaf(act_load(x[t * w->cols + k]), values[k % PIECE], sum);
            }
            if (args->bias) sum += args->bias[n];
            if (args->y_is_f32)
                y_f32[at] = sum;
            else
                y_act[at] = act_store(sum);
        }
    }
}

/* dx for one token and a piece of columns. */
static void input_piece(act_t *dx, const act_t *dy, const struct weight *w, int64_t k,
                        bool accumulate) {
    float sums[PIECE] = {0}, values[PIECE];
    int64_t width = w->cols - k < PIECE ? w->cols - k : PIECE;
    for (int64_t i = 0; accumulate && i < width; i++) sums[i] = act_load(dx[k + i]);
    for (int64_t n = 0; n < w->rows; n++) {
        read_piece(values, w, n, k);
        for (int64_t i = 0; i < width; i++) sums[i] = fmaf(act_load(dy[n]), values[i], sums[i]);
    }
    for (int64_t i = 0; i < width; i++) dx[k + i] = act_store(sums[i]);
}

void VARIANT(matmul_backward_input_ref)(struct stream *s,
                                        const struct matmul_backward_input_args *args) {
    (void)s;
    const struct weight *w = args->w;
    for (int64_t t = 0; t < args->tokens; t++)
        for (int64_t k = 0; k < w->cols; k += PIECE)
            input_piece((act_t *)args->dx + t * w->cols, (const act_t *)args->dy + t * w->rows, w,
                        k, args->accumulate);
}

void VARIANT(matmul_backward_weight_ref)(struct stream *s,
                                         const struct matmul_backward_weight_args *args) {
    (void)s;
    int64_t rows = args->dw->rows, cols = args->dw->cols;
    enum layout layout = args->dw->layout;
    assert(layout == LAYOUT_PANEL_F32 || layout == LAYOUT_ROWS_F32);
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
    for (int64_t n = 0; n < width; n++) {
        double sum = 0.0;
        for (int64_t t = 0; t < tokens; t++) sum += (double)act_load(rows[t * width + n]);
        dbias[n] += (float)sum;
    }
}
