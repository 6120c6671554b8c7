#include "core/head.h"
#include "kernels/base/units.h"

#include <math.h>
#include <string.h>

static void final_norm(const struct exec *exec, const struct model *model, void *y, float *rstd,
                       const void *x, int64_t rows) {
    const struct model_config *c = &model->config;
    exec->k->rmsnorm_forward(exec->stream, y, rstd, x,
                             model_param(model, WEIGHT_FINAL_NORM, -1)->w.data, rows, c->hidden,
                             c->norm_eps);
}

static void project(const struct exec *exec, const struct model *model, float *logits,
                    const void *normed, int64_t rows) {
    const struct matmul_forward_args args = {
        .y = logits, .x = normed, .w = &model_head(model)->w, .tokens = rows, .y_is_f32 = true};
    exec->k->matmul_forward(exec->stream, &args);
}

void head_logits(const struct exec *exec, const struct model *model, float *logits,
                 const void *hidden, const int32_t *rows, int64_t count) {
    int64_t width = model->config.hidden;
    size_t mark = arena_mark(exec->scratch), row_bytes = act_bytes(exec, width);
    char *gathered = scratch_act(exec, count * width);
    if (!exec->scratch->counting)
        for (int64_t i = 0; i < count; i++)
            memcpy(gathered + (size_t)i * row_bytes,
                   (const char *)hidden + (size_t)rows[i] * row_bytes, row_bytes);
    final_norm(exec, model, gathered, NULL, gathered, count);
    project(exec, model, logits, gathered, count);
    arena_release(exec->scratch, mark);
}

int64_t head_chunk(int64_t hidden, int64_t vocab) {
    int64_t mib = ((int64_t)1 << 20) / (int64_t)sizeof(float); /* floats */
    int64_t rows = 8 * mib / vocab;
    if (rows < hidden / 2) rows = hidden / 2;
    rows = min_i64(rows, 128 * mib / vocab);
    return rows < 64 ? 64 : rows;
}

/* Scratch of one chunk of rows. */
struct chunk {
    int64_t first, rows;
    void *normed, *d_normed, *dlogits;
    float *rstd, *logits;
    struct cross_entropy_row *stats;
};

static struct chunk push_chunk(const struct exec *exec, const struct model *model, int64_t rows,
                               bool backward) {
    const struct model_config *c = &model->config;
    struct chunk chunk = {0};
    chunk.normed = scratch_act(exec, rows * c->hidden);
    chunk.rstd = scratch_f32(exec, rows);
    chunk.logits = scratch_f32(exec, rows * c->vocab);
    chunk.stats = arena_push(exec->scratch, (size_t)rows * sizeof *chunk.stats);
    if (backward) {
        chunk.d_normed = scratch_act(exec, rows * c->hidden);
        chunk.dlogits =
            exec->k->act == DTYPE_F32 ? (void *)chunk.logits : scratch_act(exec, rows * c->vocab);
    }
    return chunk;
}

/* Adds the chunk's losses in token order; a NaN is reported with its token. */
static void add_losses(const struct exec *exec, const struct batch *batch,
                       const struct chunk *chunk, double *loss, float *token_loss) {
    for (int64_t i = 0; i < chunk->rows; i++) {
        int64_t t = chunk->first + i;
        const struct cross_entropy_row *row = &chunk->stats[i];
        float value =
            batch->targets[t] < 0 ? 0.0f : logf(row->sum_exp) + row->row_max - row->target_logit;
        if (token_loss) token_loss[t] = value;
        if (batch->targets[t] >= 0) *loss += (double)batch->loss_weights[t] * (double)value;
        if (!isfinite(value))
            stream_fail(exec->stream, STATUS_NUMERIC, "head_loss", "loss of token %lld is %s",
                        (long long)t, isnan(value) ? "not a number" : "infinite");
    }
}

/* From the chunk's logits to gradients of head, final norm and hidden. */
static void chunk_backward(const struct exec *exec, const struct model *model,
                           const struct batch *batch, const struct chunk *chunk, const void *hidden,
                           void *d_hidden) {
    const struct model_config *c = &model->config;
    const struct param *head = model_head(model);
    const struct param *norm = model_param(model, WEIGHT_FINAL_NORM, -1);
    exec->k->cross_entropy_backward(exec->stream, chunk->dlogits, chunk->logits, chunk->stats,
                                    batch->targets + chunk->first,
                                    batch->loss_weights + chunk->first, 0, chunk->rows, c->vocab);
    if (head->grad.data) {
        const struct matmul_backward_weight_args dw = {
            .dw = &head->grad, .dy = chunk->dlogits, .x = chunk->normed, .tokens = chunk->rows};
        exec->k->matmul_backward_weight(exec->stream, &dw);
    }
    const struct matmul_backward_input_args dx = {
        .dx = chunk->d_normed, .dy = chunk->dlogits, .w = &head->w, .tokens = chunk->rows};
    exec->k->matmul_backward_input(exec->stream, &dx);
    const struct rmsnorm_backward_args args = {.dx = d_hidden,
                                               .dw = norm->grad.data,
                                               .dy = chunk->d_normed,
                                               .x = hidden,
                                               .w = norm->w.data,
                                               .rstd = chunk->rstd,
                                               .rows = chunk->rows,
                                               .width = c->hidden};
    exec->k->rmsnorm_backward(exec->stream, &args);
}

void head_loss(const struct exec *exec, const struct model *model, const struct batch *batch,
               const void *hidden, void *d_hidden, double *loss, float *token_loss) {
    const struct model_config *c = &model->config;
    size_t mark = arena_mark(exec->scratch), row_bytes = act_bytes(exec, c->hidden);
    int64_t rows = min_i64(batch->tokens, head_chunk(c->hidden, c->vocab));
    struct chunk chunk = push_chunk(exec, model, rows, d_hidden != NULL);
    for (int64_t first = 0; first < batch->tokens; first += rows) {
        chunk.first = first;
        chunk.rows = min_i64(batch->tokens - first, rows);
        const char *x = (const char *)hidden + (size_t)first * row_bytes;
        final_norm(exec, model, chunk.normed, chunk.rstd, x, chunk.rows);
        project(exec, model, chunk.logits, chunk.normed, chunk.rows);
        exec->k->cross_entropy_forward(exec->stream, chunk.stats, chunk.logits,
                                       batch->targets + first, 0, chunk.rows, c->vocab);
        if (!exec->scratch->counting) add_losses(exec, batch, &chunk, loss, token_loss);
        if (d_hidden)
            chunk_backward(exec, model, batch, &chunk, x,
                           (char *)d_hidden + (size_t)first * row_bytes);
        if (exec->scratch->counting) break; /* no chunk takes more than the first */
    }
    arena_release(exec->scratch, mark);
}
