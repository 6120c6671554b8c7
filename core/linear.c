#include "core/linear.h"

#include <string.h>

static const char *row_at(const struct exec *exec, const void *base, int64_t row, int64_t width) {
    return (const char *)base + act_bytes(exec, row * width);
}

/* Where the outputs of ranks are summed, one of them adds the bias. */
static const float *bias_of(const struct exec *exec, const struct model *model, enum weight_id id,
                            int layer) {
    enum weight_id bias = weight_table[id].bias;
    if (weight_table[id].shard == SHARD_COLS && exec->tp->rank != 0) return NULL;
    const struct param *param = bias == WEIGHT_NONE ? NULL : model_param(model, bias, layer);
    return param ? param->w.data : NULL;
}

/* The input of factor `a`: x itself, or dropped out while training. */
static const void *adapter_input(const struct exec *exec, const struct batch *batch,
                                 const struct adapter_span *span, const struct param *a,
                                 const void *x) {
    float p = (float)span->adapter->config.dropout;
    if (!batch->training || p <= 0.0f) return x;
    void *dropped = scratch_act(exec, span->count * a->w.cols);
    const struct dropout_args args = {
        .y = dropped,
        .x = x,
        .row_id = batch->row_ids + span->first,
        .rows = span->count,
        .width = a->w.cols,
        .first = a->slice.first_col,
        .whole = a->slice.cols,
        .seed = batch->dropout_seed,
        .domain = (uint64_t)a->layer * WEIGHT_COUNT + (uint64_t)a->id,
        .p = p,
    };
    exec->k->dropout(exec->stream, &args);
    return dropped;
}

/* u (n, R) = scale * x A^T */
static void *adapter_down(const struct exec *exec, const struct adapter_span *span,
                          const struct lora_pair *pair, const void *x) {
    void *u = scratch_act(exec, span->count * pair->a->w.rows);
    const struct matmul_forward_args down = {
        .y = u, .x = x, .w = &pair->a->w, .tokens = span->count};
    exec->k->matmul_forward(exec->stream, &down);
    exec->k->scale(exec->stream, u, span->adapter->scale, span->count * pair->a->w.rows);
    return u;
}

void linear_forward(const struct exec *exec, const struct model *model, enum weight_id id,
                    int layer, const struct batch *batch, void *y, const void *x) {
    const struct param *param = model_param(model, id, layer);
    const struct matmul_forward_args base = {.y = y,
                                             .x = x,
                                             .w = &param->w,
                                             .bias = bias_of(exec, model, id, layer),
                                             .tokens = batch->tokens};
    exec->k->matmul_forward(exec->stream, &base);
    for (int i = 0; i < batch->span_count; i++) {
        const struct adapter_span *span = &batch->spans[i];
        struct lora_pair pair = adapter_pair(span->adapter, id, layer);
        if (!pair.a) continue;
        size_t mark = arena_mark(exec->scratch);
        const void *input =
            adapter_input(exec, batch, span, pair.a, row_at(exec, x, span->first, param->w.cols));
        const struct matmul_forward_args up = {
            .y = (void *)row_at(exec, y, span->first, param->w.rows),
            .x = adapter_down(exec, span, &pair, input),
            .w = &pair.b->w,
            .tokens = span->count,
            .accumulate = true};
        exec->k->matmul_forward(exec->stream, &up);
        arena_release(exec->scratch, mark);
    }
}

static void train_matrix(const struct exec *exec, const struct param *param, const void *dy,
                         const void *x, int64_t tokens) {
    if (!param->grad.data) return;
    const struct matmul_backward_weight_args args = {
        .dw = &param->grad, .dy = dy, .x = x, .tokens = tokens};
    exec->k->matmul_backward_weight(exec->stream, &args);
}

static void input_gradient(const struct exec *exec, const struct param *param, void *dx,
                           const void *dy, int64_t tokens, bool accumulate) {
    const struct matmul_backward_input_args args = {
        .dx = dx, .dy = dy, .w = &param->w, .tokens = tokens, .accumulate = accumulate};
    exec->k->matmul_backward_input(exec->stream, &args);
}

/* With u = scale * drop(x) A^T and y += u B^T:
 *   dB += dy^T u      du = scale * dy B      dA += du^T drop(x)      dx += drop(du A) */
static void adapter_backward(const struct exec *exec, const struct batch *batch,
                             const struct adapter_span *span, const struct lora_pair *pair,
                             const struct linear_backward_args *args, const void *all) {
    int64_t in = pair->a->w.cols, rank = pair->a->w.rows, n = span->count;
    size_t mark = arena_mark(exec->scratch);
    const void *dy = row_at(exec, args->dy, span->first, pair->b->w.rows);
    const void *x = row_at(exec, all, span->first, in);
    const void *input = adapter_input(exec, batch, span, pair->a, x);
    train_matrix(exec, pair->b, dy, adapter_down(exec, span, pair, input), n);
    void *du = scratch_act(exec, n * rank);
    input_gradient(exec, pair->b, du, dy, n, false);
    exec->k->scale(exec->stream, du, span->adapter->scale, n * rank);
    train_matrix(exec, pair->a, du, input, n);
    if (args->dx) {
        void *dx = (void *)row_at(exec, args->dx, span->first, in);
        if (input == x) {
            input_gradient(exec, pair->a, dx, du, n, true);
        } else {
            void *dropped = scratch_act(exec, n * in);
            input_gradient(exec, pair->a, dropped, du, n, false);
            const void *masked = adapter_input(exec, batch, span, pair->a, dropped);
            exec->k->add(exec->stream, dx, dx, masked, n * in);
        }
    }
    arena_release(exec->scratch, mark);
}

/* All but the matrix's part of dx. */
static void backward_of_input(const struct exec *exec, const struct model *model,
                              const struct batch *batch, const struct linear_backward_args *args,
                              const void *x) {
    const struct param *param = model_param(model, args->id, args->layer);
    if (!batch->weights_later) train_matrix(exec, param, args->dy, x, batch->tokens);
    enum weight_id bias_id = weight_table[args->id].bias;
    const struct param *bias =
        bias_id == WEIGHT_NONE ? NULL : model_param(model, bias_id, args->layer);
    if (bias && bias->grad.data)
        exec->k->bias_backward(exec->stream, bias->grad.data, args->dy, batch->tokens,
                               bias->w.cols);
    for (int i = 0; i < batch->span_count; i++) {
        struct lora_pair pair = adapter_pair(batch->spans[i].adapter, args->id, args->layer);
        if (pair.a) adapter_backward(exec, batch, &batch->spans[i], &pair, args, x);
    }
}

void linear_backward(const struct exec *exec, const struct model *model, const struct batch *batch,
                     const struct linear_backward_args *args, int count,
                     struct sequence_gathering *x) {
    for (int i = 0; i < count; i++) {
        const struct param *param = model_param(model, args[i].id, args[i].layer);
        if (!args[i].dx) continue;
        input_gradient(exec, param, args[i].dx, args[i].dy, batch->tokens, args[i].accumulate);
        sequence_test(exec, x);
    }
    sequence_wait(exec, x);
    for (int i = 0; i < count; i++) backward_of_input(exec, model, batch, &args[i], x->all);
}

void linear_backward_weight(const struct exec *exec, const struct model *model, enum weight_id id,
                            int layer, int64_t tokens, const void *dy, const void *x) {
    train_matrix(exec, model_param(model, id, layer), dy, x, tokens);
}
