/* The matrix products as blocked ones: what is A, B and C in each. */
#include "kernels/base/units.h"
#include "kernels/gemm.h"
#include "kernels/matmul_variant.h"

#include <assert.h>

/* Activations (T, width) whose rows are A's or C's rows; the depth runs along a row. */
static struct operand act_by_rows(const void *data, int64_t width) {
    return (struct operand){
        .data = data, .order = OPERAND_ROWS, .bf16 = STRATA_ACT_BF16, .stride = width};
}

/* Activations (T, width) with T as the depth. */
static struct operand act_by_columns(const void *data, int64_t width) {
    return (struct operand){
        .data = data, .order = OPERAND_COLUMNS, .bf16 = STRATA_ACT_BF16, .stride = width};
}

/* A weight as B: in the forward its columns are the depth, in the input's gradient its rows. */
static struct operand weight_as_b(const struct weight *w, bool forward) {
    bool rows = layout_is_rows(w->layout);
    if (layout_is_quantized(w->layout))
        return (struct operand){.quantized = w,
                                .bf16 = STRATA_ACT_BF16,
                                .order = forward ? OPERAND_PANELS : OPERAND_PANELS_ACROSS};
    return (struct operand){.data = w->data,
                            .bf16 = layout_is_bf16(w->layout),
                            .order = forward ? rows ? OPERAND_ROWS : OPERAND_PANELS
                                     : rows  ? OPERAND_COLUMNS
                                             : OPERAND_PANELS_ACROSS,
                            .stride = rows ? w->cols : weight_panel(w->layout, w->cols)};
}

void VARIANT(matmul_forward_cpu)(struct stream *s, const struct matmul_forward_args *args) {
    const struct weight *w = args->w;
    VARIANT(gemm_run)
    (s, &(struct gemm){.rows = args->tokens,
                       .cols = w->rows,
                       .depth = w->cols,
                       .a = act_by_rows(args->x, w->cols),
                       .b = weight_as_b(w, true),
                       .c = args->y,
                       .c_bf16 = STRATA_ACT_BF16 && !args->y_is_f32,
                       .accumulate = args->accumulate,
                       .c_stride = w->rows,
                       .bias = args->bias});
}

void VARIANT(matmul_backward_input_cpu)(struct stream *s,
                                        const struct matmul_backward_input_args *args) {
    const struct weight *w = args->w;
    VARIANT(gemm_run)
    (s, &(struct gemm){.rows = args->tokens,
                       .cols = w->cols,
                       .depth = w->rows,
                       .a = act_by_rows(args->dy, w->rows),
                       .b = weight_as_b(w, false),
                       .c = args->dx,
                       .c_bf16 = STRATA_ACT_BF16,
                       .accumulate = args->accumulate,
                       .c_stride = w->cols});
}

void VARIANT(matmul_backward_weight_cpu)(struct stream *s,
                                         const struct matmul_backward_weight_args *args) {
    int64_t rows = args->dw->rows, cols = args->dw->cols;
    struct operand dy = act_by_columns(args->dy, rows), x = act_by_columns(args->x, cols);
    struct gemm gemm = {.depth = args->tokens, .c = args->dw->data, .accumulate = true};
    if (args->dw->layout == LAYOUT_PANEL_F32) { /* C is dW transposed: its panels are B's */
        gemm.rows = cols;
        gemm.cols = rows;
        gemm.a = x;
        gemm.b = dy;
        gemm.c_panels = true;
        gemm.c_stride = cols * PANEL_ROWS;
    } else {
        assert(args->dw->layout == LAYOUT_ROWS_F32);
        gemm.rows = rows;
        gemm.cols = cols;
        gemm.a = dy;
        gemm.b = x;
        gemm.c_stride = cols;
    }
    VARIANT(gemm_run)(s, &gemm);
}

void VARIANT(bias_backward_cpu)(struct stream *s, float *dbias, const void *dy, int64_t tokens,
                                int64_t width) {
    const act_t *rows = dy;
    enum { BLOCK = 256 };
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (int64_t first = 0; first < width; first += BLOCK) {
        int64_t count = min_i64(width - first, BLOCK);
        double sum[BLOCK] = {0.0};
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t n = 0; n < count; n++)
                sum[n] += (double)act_load(rows[t * width + first + n]);
        for (int64_t n = 0; n < count; n++) dbias[first + n] += (float)sum[n];
    }
}
