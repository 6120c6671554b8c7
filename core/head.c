#include "core/head.h"

#include "core/sequence.h"
#include "kernels/base/units.h"

#include <assert.h>
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

/* Where my columns of `count` rows go: among those of all ranks (size, count, room). */
struct columns {
    int64_t room; /* columns of the largest slice */
    float *all, *mine;
};

static struct columns push_columns(const struct exec *exec, const struct model *model,
                                   int64_t count) {
    const struct comm *tp = exec->tp;
    struct columns columns = {.room = (model->config.vocab + tp->size - 1) / tp->size};
    columns.all = scratch_f32(exec, tp->size * count * columns.room);
    columns.mine = columns.all + tp->rank * count * columns.room;
    return columns;
}

/* logits (count, V) from every rank's columns. */
static void gather_columns(const struct exec *exec, const struct model *model, float *logits,
                           const struct columns *columns, int64_t count) {
    int64_t part = count * columns->room;
    if (exec->scratch->counting) return;
    comm_all_gather(exec->tp, exec->stream, columns->all, columns->mine, part, DTYPE_F32);
    struct shard shard = model->shard;
    for (shard.tp_rank = 0; shard.tp_rank < exec->tp->size; shard.tp_rank++) {
        struct shard_range range = shard_range(&shard, &model->config, DIM_VOCAB);
        for (int64_t i = 0; i < count; i++)
            memcpy(logits + i * model->config.vocab + range.first,
                   columns->all + shard.tp_rank * part + i * range.count,
                   (size_t)range.count * sizeof *logits);
    }
}

/* The columns of a rank that has all of them are the logits. */
void head_logits(const struct exec *exec, const struct model *model, float *logits,
                 const void *hidden, const int32_t *rows, int64_t count) {
    int64_t width = model->config.hidden;
    size_t mark = arena_mark(exec->scratch), row_bytes = act_bytes(exec, width);
    char *gathered = scratch_act(exec, count * width);
    bool whole = model->local.vocab == model->config.vocab;
    struct columns columns = {.mine = logits};
    if (!whole) columns = push_columns(exec, model, count);
    assert(!exec->sequence || exec->scratch->counting);
    exec_begin_layer(exec, model->config.layers, false);
    if (!exec->scratch->counting)
        for (int64_t i = 0; i < count; i++)
            memcpy(gathered + (size_t)i * row_bytes,
                   (const char *)hidden + (size_t)rows[i] * row_bytes, row_bytes);
    final_norm(exec, model, gathered, NULL, gathered, count);
    project(exec, model, columns.mine, gathered, count);
    if (!whole) gather_columns(exec, model, logits, &columns, count);
    arena_release(exec->scratch, mark);
}

int64_t head_chunk(int64_t hidden, int64_t vocab) {
    int64_t mib = ((int64_t)1 << 20) / (int64_t)sizeof(float); /* floats */
    int64_t rows = 8 * mib / vocab;
    if (rows < hidden / 2) rows = hidden / 2;
    rows = min_i64(rows, 128 * mib / vocab);
    return rows < 64 ? 64 : rows;
}

/* A run of tokens whose logits are alive at once. */
struct chunk {
    int64_t first, rows;
    void *dlogits;
    float *logits;
    struct cross_entropy_row *stats;
    float *maxima, *sums; /* (rows), (rows, 2): of stats, between the ranks */
};

static struct chunk push_chunk(const struct exec *exec, const struct model *model, int64_t rows,
                               bool backward) {
    int64_t vocab = model->local.vocab;
    struct chunk chunk = {.logits = scratch_f32(exec, rows * vocab),
                          .stats = arena_push(exec->scratch, (size_t)rows * sizeof *chunk.stats),
                          .maxima = scratch_f32(exec, rows),
                          .sums = scratch_f32(exec, rows * 2)};
    if (backward)
        chunk.dlogits =
            exec->k->act == DTYPE_F32 ? (void *)chunk.logits : scratch_act(exec, rows * vocab);
    return chunk;
}

/* Makes stats of a part of the vocabulary those of the whole: the maximum over ranks, to which the
 * sums of exponentials are rescaled before they are added. */
static void join_stats(const struct exec *exec, const struct chunk *chunk) {
    if (exec->scratch->counting) return;
    for (int64_t i = 0; i < chunk->rows; i++) chunk->maxima[i] = chunk->stats[i].row_max;
    comm_all_reduce(exec->tp, exec->stream, chunk->maxima, chunk->rows, DTYPE_F32, COMM_MAX);
    for (int64_t i = 0; i < chunk->rows; i++) {
        struct cross_entropy_row *row = &chunk->stats[i];
        chunk->sums[2 * i] = row->sum_exp * expf(row->row_max - chunk->maxima[i]);
        chunk->sums[2 * i + 1] = row->target_logit;
    }
    comm_all_reduce_ordered(exec->tp, exec->stream, chunk->sums, chunk->rows * 2, DTYPE_F32);
    for (int64_t i = 0; i < chunk->rows; i++)
        chunk->stats[i] = (struct cross_entropy_row){chunk->maxima[i], chunk->sums[2 * i],
                                                     chunk->sums[2 * i + 1]};
}

/* Adds the chunk's losses in token order; a NaN is reported with its token. */
static void add_losses(const struct exec *exec, const struct batch *batch,
                       const struct chunk *chunk, double *loss, float *token_loss) {
    if (exec->scratch->counting) return;
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

static void *rows_at(const struct exec *exec, const void *base, int64_t row, int64_t width) {
    return (char *)(uintptr_t)base + act_bytes(exec, row * width);
}

/* From the chunk's logits to the gradient of the head, and my part of that of `normed`. */
static void chunk_backward(const struct exec *exec, const struct model *model,
                           const struct batch *batch, const struct chunk *chunk, const void *normed,
                           void *d_normed) {
    const struct model_config *c = &model->local;
    const struct param *head = model_head(model);
    exec->k->cross_entropy_backward(
        exec->stream, chunk->dlogits, chunk->logits, chunk->stats, batch->targets + chunk->first,
        batch->loss_weights + chunk->first, head->slice.first_row, chunk->rows, c->vocab);
    if (head->grad.data) {
        const struct matmul_backward_weight_args dw = {
            .dw = &head->grad,
            .dy = chunk->dlogits,
            .x = rows_at(exec, normed, chunk->first, c->hidden),
            .tokens = chunk->rows};
        exec->k->matmul_backward_weight(exec->stream, &dw);
    }
    const struct matmul_backward_input_args dx = {
        .dx = rows_at(exec, d_normed, chunk->first, c->hidden),
        .dy = chunk->dlogits,
        .w = &head->w,
        .tokens = chunk->rows};
    exec->k->matmul_backward_input(exec->stream, &dx);
}

/* The loss of all tokens from their normed states, a chunk at a time; d_normed NULL: that alone. */
static void loss_of_chunks(const struct exec *exec, const struct model *model,
                           const struct batch *batch, const void *normed, void *d_normed,
                           double *loss, float *token_loss) {
    const struct model_config *c = &model->local;
    /* by the widest part of the vocabulary: ranks whose parts differ meet in every chunk */
    int64_t ranks = model->shard.tp_size, widest = (model->config.vocab + ranks - 1) / ranks;
    int64_t rows = min_i64(batch->tokens, head_chunk(c->hidden, widest));
    struct chunk chunk = push_chunk(exec, model, rows, d_normed != NULL);
    for (int64_t first = 0; first < batch->tokens; first += rows) {
        chunk.first = first;
        chunk.rows = min_i64(batch->tokens - first, rows);
        project(exec, model, chunk.logits, rows_at(exec, normed, first, c->hidden), chunk.rows);
        exec->k->cross_entropy_forward(exec->stream, chunk.stats, chunk.logits,
                                       batch->targets + first, model_head(model)->slice.first_row,
                                       chunk.rows, c->vocab);
        join_stats(exec, &chunk);
        add_losses(exec, batch, &chunk, loss, token_loss);
        if (d_normed) chunk_backward(exec, model, batch, &chunk, normed, d_normed);
        if (exec->scratch->counting) break; /* no chunk takes more than the first */
    }
}

static void final_norm_backward(const struct exec *exec, const struct model *model, void *d_hidden,
                                const void *d_normed, const void *hidden, const float *rstd,
                                int64_t rows) {
    const struct param *norm = model_param(model, WEIGHT_FINAL_NORM, -1);
    const struct rmsnorm_backward_args args = {.dx = d_hidden,
                                               .dw = norm->grad.data,
                                               .dy = d_normed,
                                               .x = hidden,
                                               .w = norm->w.data,
                                               .rstd = rstd,
                                               .rows = rows,
                                               .width = model->config.hidden};
    exec->k->rmsnorm_backward(exec->stream, &args);
}

void head_loss(const struct exec *exec, const struct model *model, const struct batch *batch,
               const void *hidden, void *d_hidden, double *loss, float *token_loss) {
    int64_t n = batch->tokens, width = model->config.hidden;
    struct sequence_part mine = sequence_part(exec, n);
    size_t mark = arena_mark(exec->scratch);
    exec_begin_layer(exec, model->config.layers, d_hidden != NULL);
    void *normed = scratch_act(exec, sequence_rows(exec, n) * width);
    float *rstd = scratch_f32(exec, mine.room);
    final_norm(exec, model, sequence_mine(exec, normed, n, width), rstd, hidden, mine.count);
    sequence_gather(exec, normed, n, width);
    void *d_normed = d_hidden ? sequence_partial(exec, d_hidden, n, width) : NULL;
    loss_of_chunks(exec, model, batch, normed, d_normed, loss, token_loss);
    if (d_hidden) {
        sequence_sum(exec, d_hidden, d_normed, n, width);
        final_norm_backward(exec, model, d_hidden, d_hidden, hidden, rstd, mine.count);
    }
    arena_release(exec->scratch, mark);
}
