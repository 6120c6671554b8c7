#include "core/stage.h"

#include "core/context.h"
#include "core/sequence.h"

/* What the layers share. */
static void push_work(struct block_acts *work, struct arena *arena, const struct exec *exec,
                      const struct model_config *config, const struct acts_plan *plan) {
    if (plan->work) {
        *work = *plan->work;
        return;
    }
    if (plan->keep < ACTS_DEAR) block_acts_push_dear(work, arena, exec, config, plan->tokens);
    if (plan->keep < ACTS_ALL) block_acts_push_cheap(work, arena, exec, config, plan->tokens);
}

/* What a layer has for itself. */
static void push_block(struct block_acts *block, struct arena *arena, const struct exec *exec,
                       const struct model_config *config, const struct acts_plan *plan) {
    bool all = plan->keep == ACTS_ALL;
    if (plan->keep < ACTS_DEAR) return;
    block_acts_push_dear(block, arena, exec, config, plan->tokens);
    if (all) block_acts_push_cheap(block, arena, exec, config, plan->tokens);
    if (plan->weights_later) block_acts_push_late(block, arena, exec, config, plan->tokens, all);
}

void stage_acts_push(struct stage_acts *acts, struct arena *arena, const struct exec *exec,
                     const struct model *model, const struct acts_plan *plan) {
    const struct model_config *config = &model->local;
    int first = model->shard.first_layer, end = model->shard.end_layer;
    int64_t tokens = plan->tokens;
    size_t stream_bytes = act_bytes(exec, sequence_part(exec, tokens).room * config->hidden);
    acts->keep = plan->keep;
    acts->capacity = tokens;
    acts->work = (struct block_acts){0};
    acts->rope_table = arena_push(arena, (size_t)tokens * (size_t)config->head_dim * sizeof(float));
    push_work(&acts->work, arena, exec, config, plan);
    void *swap[2] = {NULL, NULL}; /* inference walks between two residual streams */
    if (plan->keep == ACTS_NONE)
        for (int i = 0; i < 2; i++) swap[i] = arena_push(arena, stream_bytes);
    for (int layer = first; layer < end; layer++) {
        struct block_acts *block = &acts->blocks[layer];
        *block = acts->work;
        push_block(block, arena, exec, config, plan);
        block->x = plan->keep == ACTS_NONE ? swap[layer % 2] : arena_push(arena, stream_bytes);
        if (layer > first) acts->blocks[layer - 1].out = block->x;
    }
    struct block_acts *last = &acts->blocks[end - 1];
    last->out = plan->keep == ACTS_NONE ? swap[end % 2] : arena_push(arena, stream_bytes);
    acts->input = acts->blocks[first].x;
    acts->hidden = last->out;
}

/* x (M, C) = the ids' rows: each rank has those of its part of the vocabulary, zeros for others. */
static void embed(const struct exec *exec, const struct model *model, const struct batch *batch,
                  void *x) {
    const struct param *embedding = model_param(model, WEIGHT_EMBED, -1);
    int64_t n = batch->tokens, width = model->config.hidden;
    size_t mark = arena_mark(exec->scratch);
    void *partial = sequence_partial(exec, x, n, width);
    exec->k->embedding_forward(exec->stream, partial, batch->ids, &embedding->w,
                               embedding->slice.first_row, model->config.vocab, n);
    sequence_sum(exec, x, partial, n, width);
    arena_release(exec->scratch, mark);
}

static void embed_backward(const struct exec *exec, const struct model *model,
                           const struct batch *batch, const void *d) {
    const struct param *embedding = model_param(model, WEIGHT_EMBED, -1);
    size_t mark = arena_mark(exec->scratch);
    const void *d_all = sequence_all(exec, d, batch->tokens, model->config.hidden);
    exec->k->embedding_backward(exec->stream, &embedding->grad, batch->ids, d_all,
                                embedding->slice.first_row, batch->tokens);
    arena_release(exec->scratch, mark);
}

void stage_acts_set_input(struct stage_acts *acts, const struct model *model, void *input) {
    acts->input = acts->blocks[model->shard.first_layer].x = input;
}

void stage_forward(const struct exec *exec, const struct model *model, const struct batch *batch,
                   struct stage_acts *acts) {
    exec->k->rope_table(exec->stream, acts->rope_table, batch->positions, model->inverse_frequency,
                        model->rope_factor, batch->tokens, model->config.head_dim);
    stream_at(exec->stream, WHERE_FORWARD, WHERE_EMBEDDING);
    if (model->shard.embedding) {
        exec_begin_layer(exec, -1, false);
        embed(exec, model, batch, acts->input);
    }
    for (int layer = model->shard.first_layer; layer < model->shard.end_layer; layer++) {
        stream_at(exec->stream, WHERE_FORWARD, layer);
        exec_begin_layer(exec, layer, false);
        block_forward(exec, model, layer, batch, acts->rope_table, &acts->blocks[layer]);
        exec_between_layers(exec);
    }
    stream_at(exec->stream, WHERE_FORWARD, WHERE_HEAD);
}

static bool layer_trains(const struct model *model, const struct batch *batch, int layer) {
    for (int id = 0; id < WEIGHT_COUNT; id++) {
        const struct param *param = &model->by_layer[layer + 1][id];
        if (param->w.data && param->grad.data) return true;
        for (int i = 0; i < batch->span_count; i++)
            if (adapter_pair(batch->spans[i].adapter, (enum weight_id)id, layer).a) return true;
    }
    return false;
}

/* The lowest layer with anything to train; -1 when the embedding is, or may be on another stage. */
static int lowest_trained(const struct model *model, const struct batch *batch) {
    if (!model->shard.embedding || model_param(model, WEIGHT_EMBED, -1)->grad.data) return -1;
    for (int layer = model->shard.first_layer; layer < model->shard.end_layer; layer++)
        if (layer_trains(model, batch, layer)) return layer;
    return model->shard.end_layer;
}

static void backward_to(const struct exec *exec, const struct model *model,
                        const struct batch *batch, struct stage_acts *acts, void *d, int lowest,
                        stage_layer_done *done, void *context) {
    const struct shard *shard = &model->shard;
    stream_at(exec->stream, WHERE_BACKWARD, WHERE_HEAD);
    if (done && shard->head) done(context, model->config.layers);
    for (int layer = shard->end_layer - 1; layer >= shard->first_layer && layer >= lowest;
         layer--) {
        struct block_acts *block = &acts->blocks[layer];
        stream_at(exec->stream, WHERE_BACKWARD, layer);
        exec_begin_layer(exec, layer, true);
        if (acts->keep == ACTS_INPUT)
            block_recompute(exec, model, layer, batch, acts->rope_table, block);
        if (acts->keep == ACTS_DEAR)
            block_recompute_cheap(exec, model, layer, batch, acts->rope_table, block);
        block_backward(exec, model, layer, batch, acts->rope_table, block, d, layer > lowest);
        exec_between_layers(exec);
        if (done) done(context, layer);
    }
    bool counting = exec->scratch->counting; /* gradients are not laid out yet */
    stream_at(exec->stream, WHERE_BACKWARD, WHERE_EMBEDDING);
    if (shard->embedding && (counting || model_param(model, WEIGHT_EMBED, -1)->grad.data)) {
        exec_begin_layer(exec, -1, true);
        embed_backward(exec, model, batch, d);
    }
    if (done && shard->embedding) done(context, -1);
}

void stage_backward(const struct exec *exec, const struct model *model, const struct batch *batch,
                    struct stage_acts *acts, void *d, stage_layer_done *done, void *context) {
    backward_to(exec, model, batch, acts, d, lowest_trained(model, batch), done, context);
}

void stage_backward_weights(const struct exec *exec, const struct model *model,
                            const struct batch *batch, struct stage_acts *acts,
                            stage_layer_done *done, void *context) {
    const struct shard *shard = &model->shard;
    if (done && shard->head) done(context, model->config.layers);
    for (int layer = shard->end_layer - 1; layer >= shard->first_layer; layer--) {
        stream_at(exec->stream, WHERE_BACKWARD, layer);
        block_backward_weights(exec, model, layer, batch, &acts->blocks[layer]);
        exec_between_layers(exec);
        if (done) done(context, layer);
    }
    if (done && shard->embedding) done(context, -1);
}

size_t stage_scratch_bytes(const struct model *model, const struct adapter *adapter, enum dtype act,
                           int64_t tokens, int64_t logit_rows, bool backward, bool sequence,
                           int context) {
    struct stream stream;
    struct comm tp, cp;
    struct arena scratch, held;
    stream_open_cpu(&stream, 1);
    comm_open_nothing(&tp, "tp", model->shard.tp_rank, model->shard.tp_size);
    comm_open_nothing(&cp, "cp", 0, context);
    arena_count(&scratch, "scratch");
    arena_count(&held, "activations");
    const struct exec exec = {.stream = &stream,
                              .k = kernels_nothing(act),
                              .tp = &tp,
                              .cp = &cp,
                              .scratch = &scratch,
                              .sequence = sequence};
    const struct adapter_span span = {0, tokens, adapter};
    const int64_t row_id = 0; /* addresses that stand for arrays: nothing is read */
    const int32_t target = 0;
    const float weight = 0.0f;
    const struct context whole = {.tokens = tokens * context};
    const struct batch batch = {.tokens = tokens,
                                .context = context > 1 ? &whole : NULL,
                                .spans = &span,
                                .span_count = adapter ? 1 : 0,
                                .row_ids = &row_id,
                                .targets = &target,
                                .loss_weights = &weight,
                                .training = backward};
    struct stage_acts acts;
    const struct acts_plan plan = {.tokens = tokens, .keep = ACTS_INPUT};
    stage_acts_push(&acts, &held, &exec, model, &plan);
    stage_forward(&exec, model, &batch, &acts);
    void *d = backward ? acts.hidden : NULL; /* any address: nothing is written */
    double loss = 0.0;
    if (model->shard.head) {
        head_logits(&exec, model, NULL, NULL, NULL, logit_rows);
        head_loss(&exec, model, &batch, acts.hidden, d, &loss, NULL);
    }
    if (backward) backward_to(&exec, model, &batch, &acts, d, -1, NULL, NULL);
    return scratch.peak;
}
