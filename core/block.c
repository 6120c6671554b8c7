#include "core/block.h"

#include "core/linear.h"

#include <math.h>

void block_acts_push(struct block_acts *acts, struct arena *arena, const struct exec *exec,
                     const struct model_config *config, int64_t tokens) {
    int64_t n = tokens, h = config->heads, hkv = config->kv_heads, d = config->head_dim;
    size_t q_bytes = act_bytes(exec, n * h * d), kv_bytes = act_bytes(exec, n * hkv * d);
    acts->rstd1 = arena_push(arena, (size_t)n * sizeof(float));
    acts->rstd2 = arena_push(arena, (size_t)n * sizeof(float));
    acts->q = arena_push(arena, q_bytes);
    acts->k = arena_push(arena, kv_bytes);
    acts->v = arena_push(arena, kv_bytes);
    acts->q_raw = acts->q;
    acts->k_raw = acts->k;
    if (config->qk_norm) {
        acts->q_raw = arena_push(arena, q_bytes);
        acts->k_raw = arena_push(arena, kv_bytes);
        acts->q_rstd = arena_push(arena, (size_t)(n * h) * sizeof(float));
        acts->k_rstd = arena_push(arena, (size_t)(n * hkv) * sizeof(float));
    }
    acts->o = arena_push(arena, q_bytes);
    acts->lse = arena_push(arena, (size_t)(n * h) * sizeof(float));
    acts->mid = arena_push(arena, act_bytes(exec, n * config->hidden));
    acts->gate = arena_push(arena, act_bytes(exec, n * config->ffn));
    acts->up = arena_push(arena, act_bytes(exec, n * config->ffn));
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

static void norm_heads(const struct exec *exec, const struct model *model, int layer,
                       int64_t tokens, struct block_acts *acts) {
    const struct model_config *c = &model->local;
    exec->k->rmsnorm_forward(exec->stream, acts->q, acts->q_rstd, acts->q_raw,
                             vector(model, WEIGHT_Q_NORM, layer), tokens * c->heads, c->head_dim,
                             c->norm_eps);
    exec->k->rmsnorm_forward(exec->stream, acts->k, acts->k_rstd, acts->k_raw,
                             vector(model, WEIGHT_K_NORM, layer), tokens * c->kv_heads, c->head_dim,
                             c->norm_eps);
}

/* mid = x + Wo attention(norm(x)) */
static void attention_half_forward(const struct exec *exec, const struct model *model, int layer,
                                   const struct batch *batch, const float *rope_table,
                                   struct block_acts *acts) {
    const struct model_config *c = &model->local;
    int64_t n = batch->tokens;
    size_t mark = arena_mark(exec->scratch);
    void *normed = scratch_act(exec, n * c->hidden);
    exec->k->rmsnorm_forward(exec->stream, normed, acts->rstd1, acts->x,
                             vector(model, WEIGHT_ATTN_NORM, layer), n, c->hidden, c->norm_eps);
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
    exec->k->attention_forward(exec->stream, &attention);
    linear_forward(exec, model, WEIGHT_O, layer, batch, acts->mid, acts->o);
    comm_all_reduce_ordered(exec->tp, exec->stream, acts->mid, n * c->hidden, exec->k->act);
    exec->k->add(exec->stream, acts->mid, acts->x, acts->mid, n * c->hidden);
}

/* gate, up = Wg norm(mid), Wu norm(mid): what backward needs of the second half */
static void mlp_inputs_forward(const struct exec *exec, const struct model *model, int layer,
                               const struct batch *batch, struct block_acts *acts) {
    const struct model_config *c = &model->local;
    int64_t n = batch->tokens;
    size_t mark = arena_mark(exec->scratch);
    void *normed = scratch_act(exec, n * c->hidden);
    exec->k->rmsnorm_forward(exec->stream, normed, acts->rstd2, acts->mid,
                             vector(model, WEIGHT_MLP_NORM, layer), n, c->hidden, c->norm_eps);
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
    linear_forward(exec, model, WEIGHT_DOWN, layer, batch, acts->out, product);
    arena_release(exec->scratch, mark);
    comm_all_reduce_ordered(exec->tp, exec->stream, acts->out, n * c->hidden, exec->k->act);
    exec->k->add(exec->stream, acts->out, acts->mid, acts->out, n * c->hidden);
}

void block_recompute(const struct exec *exec, const struct model *model, int layer,
                     const struct batch *batch, const float *rope_table, struct block_acts *acts) {
    attention_half_forward(exec, model, layer, batch, rope_table, acts);
    mlp_inputs_forward(exec, model, layer, batch, acts);
}

void block_forward(const struct exec *exec, const struct model *model, int layer,
                   const struct batch *batch, const float *rope_table, struct block_acts *acts) {
    block_recompute(exec, model, layer, batch, rope_table, acts);
    mlp_output_forward(exec, model, layer, batch, acts);
}

/* d: gradient of out -> gradient of mid */
static void mlp_half_backward(const struct exec *exec, const struct model *model, int layer,
                              const struct batch *batch, struct block_acts *acts, void *d) {
    const struct model_config *c = &model->local;
    int64_t n = batch->tokens;
    size_t mark = arena_mark(exec->scratch);
    void *d_product = scratch_act(exec, n * c->ffn);
    void *product = scratch_act(exec, n * c->ffn);
    exec->k->swiglu_forward(exec->stream, product, acts->gate, acts->up, n * c->ffn);
    struct linear_backward_args args = {.id = WEIGHT_DOWN, .layer = layer};
    args.dx = d_product;
    args.dy = d;
    args.x = product;
    linear_backward(exec, model, batch, &args);
    exec->k->swiglu_backward(exec->stream, acts->gate, acts->up, d_product, acts->gate, acts->up,
                             n * c->ffn);
    arena_release(exec->scratch, mark);

    void *normed = scratch_act(exec, n * c->hidden);
    void *d_normed = scratch_act(exec, n * c->hidden);
    const float *norm = vector(model, WEIGHT_MLP_NORM, layer);
    exec->k->rmsnorm_forward(exec->stream, normed, NULL, acts->mid, norm, n, c->hidden,
                             c->norm_eps);
    args = (struct linear_backward_args){WEIGHT_GATE, layer, d_normed, acts->gate, normed, false};
    linear_backward(exec, model, batch, &args);
    args = (struct linear_backward_args){WEIGHT_UP, layer, d_normed, acts->up, normed, true};
    linear_backward(exec, model, batch, &args);
    comm_all_reduce(exec->tp, exec->stream, d_normed, n * c->hidden, exec->k->act, COMM_SUM);
    const struct rmsnorm_backward_args norm_args = {
        .dx = d,
        .dw = vector_gradient(model, WEIGHT_MLP_NORM, layer),
        .dy = d_normed,
        .x = acts->mid,
        .w = norm,
        .rstd = acts->rstd2,
        .rows = n,
        .width = c->hidden,
        .accumulate = true};
    exec->k->rmsnorm_backward(exec->stream, &norm_args);
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
    const struct linear_backward_args out = {WEIGHT_O, layer, d_o, d, acts->o, false};
    linear_backward(exec, model, batch, &out);
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
    exec->k->attention_backward(exec->stream, &args);
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
    struct qkv_gradient dqkv = {scratch_act(exec, n * q_width), scratch_act(exec, n * kv_width),
                                scratch_act(exec, n * kv_width)};
    attention_core_backward(exec, model, layer, batch, rope_table, acts, d, &dqkv);

    void *normed = scratch_act(exec, n * c->hidden);
    float *d_norm = vector_gradient(model, WEIGHT_ATTN_NORM, layer);
    bool need_d_normed = need_dx || d_norm;
    void *d_normed = need_d_normed ? scratch_act(exec, n * c->hidden) : NULL;
    const float *norm = vector(model, WEIGHT_ATTN_NORM, layer);
    exec->k->rmsnorm_forward(exec->stream, normed, NULL, acts->x, norm, n, c->hidden, c->norm_eps);
    const struct linear_backward_args args[] = {{WEIGHT_Q, layer, d_normed, dqkv.q, normed, false},
                                                {WEIGHT_K, layer, d_normed, dqkv.k, normed, true},
                                                {WEIGHT_V, layer, d_normed, dqkv.v, normed, true}};
    for (int i = 0; i < 3; i++) linear_backward(exec, model, batch, &args[i]);
    if (need_d_normed) {
        comm_all_reduce(exec->tp, exec->stream, d_normed, n * c->hidden, exec->k->act, COMM_SUM);
        const struct rmsnorm_backward_args norm_args = {.dx = d,
                                                        .dw = d_norm,
                                                        .dy = d_normed,
                                                        .x = acts->x,
                                                        .w = norm,
                                                        .rstd = acts->rstd1,
                                                        .rows = n,
                                                        .width = c->hidden,
                                                        .accumulate = true};
        exec->k->rmsnorm_backward(exec->stream, &norm_args);
    }
    arena_release(exec->scratch, mark);
}

void block_backward(const struct exec *exec, const struct model *model, int layer,
                    const struct batch *batch, const float *rope_table, struct block_acts *acts,
                    void *d, bool need_dx) {
    mlp_half_backward(exec, model, layer, batch, acts, d);
    attention_half_backward(exec, model, layer, batch, rope_table, acts, d, need_dx);
}
