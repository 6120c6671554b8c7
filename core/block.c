#include "core/block.h"

#include "core/context.h"
#include "core/linear.h"
#include "core/sequence.h"

#include <math.h>
#include <string.h>

void block_acts_push_dear(struct block_acts *acts, struct arena *arena, const struct exec *exec,
                          const struct model_config *config, int64_t tokens) {
    int64_t n = tokens, h = config->heads, hkv = config->kv_heads, d = config->head_dim;
    int64_t mine = sequence_part(exec, n).room;
    acts->rstd1 = arena_push(arena, (size_t)mine * sizeof(float));
    acts->rstd2 = arena_push(arena, (size_t)mine * sizeof(float));
    acts->q_raw = arena_push(arena, act_bytes(exec, n * h * d));
    acts->k_raw = arena_push(arena, act_bytes(exec, n * hkv * d));
    acts->v = arena_push(arena, act_bytes(exec, n * hkv * d));
    acts->o = arena_push(arena, act_bytes(exec, n * h * d));
    acts->lse = arena_push(arena, (size_t)(n * h) * sizeof(float));
    acts->mid = arena_push(arena, act_bytes(exec, mine * config->hidden));
    if (config->qk_norm) return;
    acts->q = acts->q_raw;
    acts->k = acts->k_raw;
}

void block_acts_push_cheap(struct block_acts *acts, struct arena *arena, const struct exec *exec,
                           const struct model_config *config, int64_t tokens) {
    int64_t n = tokens, h = config->heads, hkv = config->kv_heads, d = config->head_dim;
    if (config->qk_norm) {
        acts->q = arena_push(arena, act_bytes(exec, n * h * d));
        acts->k = arena_push(arena, act_bytes(exec, n * hkv * d));
        acts->q_rstd = arena_push(arena, (size_t)(n * h) * sizeof(float));
        acts->k_rstd = arena_push(arena, (size_t)(n * hkv) * sizeof(float));
    }
    acts->gate = arena_push(arena, act_bytes(exec, n * config->ffn));
    acts->up = arena_push(arena, act_bytes(exec, n * config->ffn));
}

void block_acts_push_late(struct block_acts *acts, struct arena *arena, const struct exec *exec,
                          const struct model_config *config, int64_t tokens, bool mlp) {
    int64_t n = tokens, d = config->head_dim, rows = sequence_rows(exec, n);
    size_t kv_bytes = act_bytes(exec, n * config->kv_heads * d);
    acts->d_mid = arena_push(arena, act_bytes(exec, rows * config->hidden));
    acts->d_q = arena_push(arena, act_bytes(exec, n * config->heads * d));
    acts->d_k = arena_push(arena, kv_bytes);
    acts->d_v = arena_push(arena, kv_bytes);
    if (!mlp) return;
    acts->d_out = arena_push(arena, act_bytes(exec, rows * config->hidden));
    acts->product = arena_push(arena, act_bytes(exec, n * config->ffn));
}

static const float *vector(const struct model *model, enum weight_id id, int layer) {
    return model_param(model, id, layer)->w.data;
}

static float *vector_gradient(const struct model *model, enum weight_id id, int layer) {
    return model_param(model, id, layer)->grad.data;
}

static struct attention_shape attention_shape_of(const struct model_config *config, int layer) {
    return (struct attention_shape){.heads = config->heads,
                                    .kv_heads = config->kv_heads,
                                    .head_dim = config->head_dim,
                                    .window = config->sliding[layer] ? config->window : 0,
                                    .scale = 1.0f / sqrtf((float)config->head_dim)};
}

/* The pages of one layer, or this batch's own keys and values. */
static struct kv_source kv_source_of(const struct exec *exec, const struct batch *batch, int layer,
                                     const struct block_acts *acts) {
    const struct kv_pages_view *pages = batch->kv;
    if (!pages) return (struct kv_source){.k = acts->k, .v = acts->v, .dtype = exec->k->act};
    size_t offset = pages->layer_bytes * (size_t)layer;
    return (struct kv_source){.k = pages->k + offset,
                              .v = pages->v + offset,
                              .dtype = pages->dtype,
                              .page_table = pages->page_table,
                              .page_size = pages->page_size,
                              .max_pages = pages->max_pages};
}

static void rotate(const struct exec *exec, const struct model_config *config, int64_t tokens,
                   const float *rope_table, void *q, void *k, bool backward) {
    struct rope_args args = {.x = q,
                             .table = rope_table,
                             .tokens = tokens,
                             .heads = config->heads,
                             .head_dim = config->head_dim,
                             .rotary_dim = config->head_dim,
                             .style = ROPE_HALF_SPLIT,
                             .backward = backward};
    exec->k->rope(exec->stream, &args);
    args.x = k;
    args.heads = config->kv_heads;
    exec->k->rope(exec->stream, &args);
}

/* q_raw, k_raw -> q, k */
static void norm_heads(const struct exec *exec, const struct model *model, int layer,
                       int64_t tokens, const struct block_acts *acts) {
    const struct model_config *c = &model->local;
    exec->k->rmsnorm_forward(exec->stream, acts->q, acts->q_rstd, acts->q_raw,
                             vector(model, WEIGHT_Q_NORM, layer), tokens * c->heads, c->head_dim,
                             c->norm_eps);
    exec->k->rmsnorm_forward(exec->stream, acts->k, acts->k_rstd, acts->k_raw,
                             vector(model, WEIGHT_K_NORM, layer), tokens * c->kv_heads, c->head_dim,
                             c->norm_eps);
}

/* Scratch for norm(x) of all tokens, with mine in it; x and rstd (or NULL) are of mine. */
static void *norm_mine(const struct exec *exec, const struct model *model, enum weight_id id,
                       int layer, int64_t tokens, const void *x, float *rstd) {
    const struct model_config *c = &model->local;
    void *all = scratch_act(exec, sequence_rows(exec, tokens) * c->hidden);
    exec->k->rmsnorm_forward(exec->stream, sequence_mine(exec, all, tokens, c->hidden), rstd, x,
                             vector(model, id, layer), sequence_part(exec, tokens).count, c->hidden,
                             c->norm_eps);
    return all;
}

/* norm(x) of all tokens, in scratch. */
static void *normed_input(const struct exec *exec, const struct model *model, enum weight_id id,
                          int layer, int64_t tokens, const void *x, float *rstd) {
    void *all = norm_mine(exec, model, id, layer, tokens, x, rstd);
    sequence_gather(exec, all, tokens, model->local.hidden);
    return all;
}

/* The same in backward, started: what comes first does not read it. */
static struct sequence_gathering normed_again(const struct exec *exec, const struct model *model,
                                              enum weight_id id, int layer, int64_t tokens,
                                              const void *x) {
    void *all = norm_mine(exec, model, id, layer, tokens, x, NULL);
    return sequence_start_gather(exec, all, tokens, model->local.hidden);
}

/* And where linear_backward reads it. */
static struct sequence_gathering normed_for(const struct exec *exec, const struct model *model,
                                            enum weight_id id, int layer, const struct batch *batch,
                                            const void *x) {
    if (batch->weights_later && batch->span_count == 0) return (struct sequence_gathering){0};
    return normed_again(exec, model, id, layer, batch->tokens, x);
}

/* y = x + Wo input or x + Wd input: y and x are of my tokens, input is of all. */
static void add_output(const struct exec *exec, const struct model *model, enum weight_id id,
                       int layer, const struct batch *batch, void *y, const void *x,
                       const void *input) {
    int64_t n = batch->tokens, width = model->local.hidden;
    size_t mark = arena_mark(exec->scratch);
    void *partial = sequence_partial(exec, y, n, width);
    linear_forward(exec, model, id, layer, batch, partial, input);
    sequence_sum(exec, y, partial, n, width);
    arena_release(exec->scratch, mark);
    exec->k->add(exec->stream, y, x, y, sequence_part(exec, n).count * width);
}

/* mid = x + Wo attention(norm(x)) */
static void attention_half_forward(const struct exec *exec, const struct model *model, int layer,
                                   const struct batch *batch, const float *rope_table,
                                   struct block_acts *acts) {
    const struct model_config *c = &model->local;
    int64_t n = batch->tokens;
    size_t mark = arena_mark(exec->scratch);
    void *normed = normed_input(exec, model, WEIGHT_ATTN_NORM, layer, n, acts->x, acts->rstd1);
    linear_forward(exec, model, WEIGHT_Q, layer, batch, acts->q_raw, normed);
    linear_forward(exec, model, WEIGHT_K, layer, batch, acts->k_raw, normed);
    linear_forward(exec, model, WEIGHT_V, layer, batch, acts->v, normed);
    arena_release(exec->scratch, mark);
    if (c->qk_norm) norm_heads(exec, model, layer, n, acts);
    rotate(exec, c, n, rope_table, acts->q, acts->k, false);

    struct kv_source kv = kv_source_of(exec, batch, layer, acts);
    if (batch->kv)
        exec->k->kv_write(exec->stream, &kv, acts->k, acts->v, &batch->segments, c->kv_heads,
                          c->head_dim);
    const struct attention_forward_args attention = {.o = acts->o,
                                                     .lse = acts->lse,
                                                     .q = acts->q,
                                                     .kv = &kv,
                                                     .segments = &batch->segments,
                                                     .shape = attention_shape_of(c, layer)};
    context_attention_forward(exec, batch, &attention);
    add_output(exec, model, WEIGHT_O, layer, batch, acts->mid, acts->x, acts->o);
}

/* gate, up = Wg norm(mid), Wu norm(mid): what backward needs of the second half */
static void mlp_inputs_forward(const struct exec *exec, const struct model *model, int layer,
                               const struct batch *batch, struct block_acts *acts) {
    size_t mark = arena_mark(exec->scratch);
    void *normed =
        normed_input(exec, model, WEIGHT_MLP_NORM, layer, batch->tokens, acts->mid, acts->rstd2);
    linear_forward(exec, model, WEIGHT_GATE, layer, batch, acts->gate, normed);
    linear_forward(exec, model, WEIGHT_UP, layer, batch, acts->up, normed);
    arena_release(exec->scratch, mark);
}

/* out = mid + Wd swiglu(gate, up) */
static void mlp_output_forward(const struct exec *exec, const struct model *model, int layer,
                               const struct batch *batch, struct block_acts *acts) {
    const struct model_config *c = &model->local;
    int64_t n = batch->tokens;
    size_t mark = arena_mark(exec->scratch);
    void *product = scratch_act(exec, n * c->ffn);
    exec->k->swiglu_forward(exec->stream, product, acts->gate, acts->up, n * c->ffn);
    add_output(exec, model, WEIGHT_DOWN, layer, batch, acts->out, acts->mid, product);
    arena_release(exec->scratch, mark);
}

/* Everything that backward needs; the block's output is made of it. */
static void all_but_output(const struct exec *exec, const struct model *model, int layer,
                           const struct batch *batch, const float *rope_table,
                           struct block_acts *acts) {
    attention_half_forward(exec, model, layer, batch, rope_table, acts);
    mlp_inputs_forward(exec, model, layer, batch, acts);
}

void block_recompute(const struct exec *exec, const struct model *model, int layer,
                     const struct batch *batch, const float *rope_table, struct block_acts *acts) {
    all_but_output(exec, model, layer, batch, rope_table, acts);
}

void block_recompute_cheap(const struct exec *exec, const struct model *model, int layer,
                           const struct batch *batch, const float *rope_table,
                           struct block_acts *acts) {
    if (model->local.qk_norm) {
        norm_heads(exec, model, layer, batch->tokens, acts);
        rotate(exec, &model->local, batch->tokens, rope_table, acts->q, acts->k, false);
    }
    mlp_inputs_forward(exec, model, layer, batch, acts);
}

void block_forward(const struct exec *exec, const struct model *model, int layer,
                   const struct batch *batch, const float *rope_table, struct block_acts *acts) {
    all_but_output(exec, model, layer, batch, rope_table, acts);
    mlp_output_forward(exec, model, layer, batch, acts);
}

/* d += the gradient of x, of my tokens, from d_normed, of which each rank has a part of the sum for
 * all tokens. */
static void norm_backward(const struct exec *exec, const struct model *model, enum weight_id id,
                          int layer, int64_t tokens, void *d, void *d_normed, const void *x,
                          const float *rstd) {
    int64_t width = model->local.hidden;
    void *mine = sequence_mine(exec, d_normed, tokens, width);
    sequence_sum(exec, mine, d_normed, tokens, width);
    const struct rmsnorm_backward_args args = {.dx = d,
                                               .dw = vector_gradient(model, id, layer),
                                               .dy = mine,
                                               .x = x,
                                               .w = vector(model, id, layer),
                                               .rstd = rstd,
                                               .rows = sequence_part(exec, tokens).count,
                                               .width = width,
                                               .accumulate = true};
    exec->k->rmsnorm_backward(exec->stream, &args);
}

/* Where the gradients of weights come later: `d` of all tokens, as backward goes on in `d`. */
static void keep_gradient(const struct exec *exec, const struct batch *batch, void *kept,
                          const void *all, int64_t width) {
    if (batch->weights_later) memcpy(kept, all, act_bytes(exec, batch->tokens * width));
}

/* d: gradient of out -> gradient of mid */
static void mlp_half_backward(const struct exec *exec, const struct model *model, int layer,
                              const struct batch *batch, struct block_acts *acts, void *d) {
    const struct model_config *c = &model->local;
    int64_t n = batch->tokens;
    size_t mark = arena_mark(exec->scratch);
    struct sequence_gathering d_all = sequence_start_all(exec, d, n, c->hidden);
    void *d_product = scratch_act(exec, n * c->ffn);
    void *product = batch->weights_later ? acts->product : scratch_act(exec, n * c->ffn);
    exec->k->swiglu_forward(exec->stream, product, acts->gate, acts->up, n * c->ffn);
    sequence_wait(exec, &d_all);
    keep_gradient(exec, batch, acts->d_out, d_all.all, c->hidden);
    const struct linear_backward_args down = {WEIGHT_DOWN, layer, d_product, d_all.all, false};
    linear_backward(exec, model, batch, &down, 1, &(struct sequence_gathering){.all = product});
    exec->k->swiglu_backward(exec->stream, acts->gate, acts->up, d_product, acts->gate, acts->up,
                             n * c->ffn);
    arena_release(exec->scratch, mark);

    struct sequence_gathering normed =
        normed_for(exec, model, WEIGHT_MLP_NORM, layer, batch, acts->mid);
    void *d_normed = scratch_act(exec, sequence_rows(exec, n) * c->hidden);
    const struct linear_backward_args in[] = {{WEIGHT_GATE, layer, d_normed, acts->gate, false},
                                              {WEIGHT_UP, layer, d_normed, acts->up, true}};
    linear_backward(exec, model, batch, in, 2, &normed);
    norm_backward(exec, model, WEIGHT_MLP_NORM, layer, n, d, d_normed, acts->mid, acts->rstd2);
    arena_release(exec->scratch, mark);
}

struct qkv_gradient {
    void *q, *k, *v;
};

static void norm_heads_backward(const struct exec *exec, const struct model *model, int layer,
                                int64_t tokens, const struct block_acts *acts,
                                const struct qkv_gradient *d) {
    const struct model_config *c = &model->local;
    struct rmsnorm_backward_args args = {.dx = d->q,
                                         .dw = vector_gradient(model, WEIGHT_Q_NORM, layer),
                                         .dy = d->q,
                                         .x = acts->q_raw,
                                         .w = vector(model, WEIGHT_Q_NORM, layer),
                                         .rstd = acts->q_rstd,
                                         .rows = tokens * c->heads,
                                         .width = c->head_dim};
    exec->k->rmsnorm_backward(exec->stream, &args);
    args.dx = d->k;
    args.dw = vector_gradient(model, WEIGHT_K_NORM, layer);
    args.dy = d->k;
    args.x = acts->k_raw;
    args.w = vector(model, WEIGHT_K_NORM, layer);
    args.rstd = acts->k_rstd;
    args.rows = tokens * c->kv_heads;
    exec->k->rmsnorm_backward(exec->stream, &args);
}

/* d: gradient of mid -> gradients of the projections' outputs q_raw, k_raw, v */
static void attention_core_backward(const struct exec *exec, const struct model *model, int layer,
                                    const struct batch *batch, const float *rope_table,
                                    const struct block_acts *acts, const void *d,
                                    const struct qkv_gradient *dqkv) {
    const struct model_config *c = &model->local;
    int64_t n = batch->tokens;
    size_t mark = arena_mark(exec->scratch);
    void *d_o = scratch_act(exec, n * c->heads * c->head_dim);
    float *rowsum = scratch_f32(exec, n * c->heads);
    const void *d_all = sequence_all(exec, d, n, c->hidden);
    keep_gradient(exec, batch, acts->d_mid, d_all, c->hidden);
    const struct linear_backward_args out = {WEIGHT_O, layer, d_o, d_all, false};
    linear_backward(exec, model, batch, &out, 1, &(struct sequence_gathering){.all = acts->o});
    const struct attention_backward_args args = {.dq = dqkv->q,
                                                 .dk = dqkv->k,
                                                 .dv = dqkv->v,
                                                 .scratch = rowsum,
                                                 .dout = d_o,
                                                 .q = acts->q,
                                                 .k = acts->k,
                                                 .v = acts->v,
                                                 .o = acts->o,
                                                 .lse = acts->lse,
                                                 .segments = &batch->segments,
                                                 .shape = attention_shape_of(c, layer)};
    context_attention_backward(exec, batch, &args);
    arena_release(exec->scratch, mark);
    rotate(exec, c, n, rope_table, dqkv->q, dqkv->k, true);
    if (c->qk_norm) norm_heads_backward(exec, model, layer, n, acts, dqkv);
}

/* d: gradient of mid -> gradient of x */
static void attention_half_backward(const struct exec *exec, const struct model *model, int layer,
                                    const struct batch *batch, const float *rope_table,
                                    struct block_acts *acts, void *d, bool need_dx) {
    const struct model_config *c = &model->local;
    int64_t n = batch->tokens, q_width = (int64_t)c->heads * c->head_dim;
    int64_t kv_width = (int64_t)c->kv_heads * c->head_dim;
    size_t mark = arena_mark(exec->scratch);
    struct qkv_gradient dqkv = {acts->d_q, acts->d_k, acts->d_v};
    if (!batch->weights_later)
        dqkv =
            (struct qkv_gradient){scratch_act(exec, n * q_width), scratch_act(exec, n * kv_width),
                                  scratch_act(exec, n * kv_width)};
    attention_core_backward(exec, model, layer, batch, rope_table, acts, d, &dqkv);

    struct sequence_gathering normed =
        normed_for(exec, model, WEIGHT_ATTN_NORM, layer, batch, acts->x);
    bool need_d_normed = need_dx || vector_gradient(model, WEIGHT_ATTN_NORM, layer);
    void *d_normed = need_d_normed ? scratch_act(exec, sequence_rows(exec, n) * c->hidden) : NULL;
    const struct linear_backward_args args[] = {{WEIGHT_Q, layer, d_normed, dqkv.q, false},
                                                {WEIGHT_K, layer, d_normed, dqkv.k, true},
                                                {WEIGHT_V, layer, d_normed, dqkv.v, true}};
    linear_backward(exec, model, batch, args, 3, &normed);
    if (need_d_normed)
        norm_backward(exec, model, WEIGHT_ATTN_NORM, layer, n, d, d_normed, acts->x, acts->rstd1);
    arena_release(exec->scratch, mark);
}

void block_backward(const struct exec *exec, const struct model *model, int layer,
                    const struct batch *batch, const float *rope_table, struct block_acts *acts,
                    void *d, bool need_dx) {
    struct batch mlp = *batch;
    mlp.weights_later &= acts->product != NULL;
    mlp_half_backward(exec, model, layer, &mlp, acts, d);
    attention_half_backward(exec, model, layer, batch, rope_table, acts, d, need_dx);
}

static void mlp_weights_backward(const struct exec *exec, const struct model *model, int layer,
                                 const struct batch *batch, struct block_acts *acts) {
    int64_t n = batch->tokens;
    size_t mark = arena_mark(exec->scratch);
    struct sequence_gathering normed =
        normed_again(exec, model, WEIGHT_MLP_NORM, layer, n, acts->mid);
    linear_backward_weight(exec, model, WEIGHT_DOWN, layer, n, acts->d_out, acts->product);
    sequence_wait(exec, &normed);
    linear_backward_weight(exec, model, WEIGHT_GATE, layer, n, acts->gate, normed.all);
    linear_backward_weight(exec, model, WEIGHT_UP, layer, n, acts->up, normed.all);
    arena_release(exec->scratch, mark);
}

void block_backward_weights(const struct exec *exec, const struct model *model, int layer,
                            const struct batch *batch, struct block_acts *acts) {
    int64_t n = batch->tokens;
    size_t mark = arena_mark(exec->scratch);
    if (acts->product) mlp_weights_backward(exec, model, layer, batch, acts);
    struct sequence_gathering normed =
        normed_again(exec, model, WEIGHT_ATTN_NORM, layer, n, acts->x);
    linear_backward_weight(exec, model, WEIGHT_O, layer, n, acts->d_mid, acts->o);
    sequence_wait(exec, &normed);
    linear_backward_weight(exec, model, WEIGHT_Q, layer, n, acts->d_q, normed.all);
    linear_backward_weight(exec, model, WEIGHT_K, layer, n, acts->d_k, normed.all);
    linear_backward_weight(exec, model, WEIGHT_V, layer, n, acts->d_v, normed.all);
    arena_release(exec->scratch, mark);
}
