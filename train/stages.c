#include "train/stages.h"

#include "core/sequence.h"
#include "parallel/split_layers.h"
#include "train/trainer_parts.h"

#include <assert.h>
#include <stdlib.h>

static int stage_count(const struct mesh *mesh) {
    return mesh->size[MESH_PP];
}

/* One stage has nothing to interleave. */
static int chunk_count(const struct run_options *options, const struct mesh *mesh) {
    return stage_count(mesh) > 1 ? (int)options->parallel.chunks : 1;
}

static enum status cut_by_hand(const struct config_list *list, int *first, int layers, int parts) {
    if (list->count != parts)
        return status_fail(STATUS_CONFIG,
                           "parallel.layers has %lld numbers, but there are %d parts: one for each "
                           "stage and chunk",
                           (long long)list->count, parts);
    int *counts = calloc((size_t)parts, sizeof *counts);
    if (!counts) return status_fail(STATUS_MEMORY, "no memory to split %d layers", layers);
    enum status status = STATUS_OK;
    for (int i = 0; i < parts && status == STATUS_OK; i++) {
        char *end;
        long value = strtol(list->items[i], &end, 10);
        if (*end || end == list->items[i] || value < 1 || value > MODEL_MAX_LAYERS)
            status = status_fail(STATUS_CONFIG, "parallel.layers: '%s' is not a number of layers",
                                 list->items[i]);
        counts[i] = (int)value;
    }
    if (status == STATUS_OK) status = split_layers_by_hand(first, layers, parts, counts);
    free(counts);
    return status;
}

/* Multiply-adds a token. */
static enum status cut_by_cost(const struct run_options *options, const struct model_config *c,
                               int *first, int parts) {
    double *layer = calloc((size_t)c->layers, sizeof *layer);
    if (!layer) return status_fail(STATUS_MEMORY, "no memory to split %d layers", c->layers);
    double q = (double)c->heads * c->head_dim, kv = (double)c->kv_heads * c->head_dim;
    double hidden = (double)c->hidden, reach = (double)options->data.sequence_length / 2.0;
    for (int i = 0; i < c->layers; i++)
        layer[i] = hidden * (2.0 * q + 2.0 * kv + 3.0 * (double)c->ffn) + 2.0 * q * reach;
    const struct split_costs costs = {.head = hidden * (double)c->vocab, .layer = layer};
    enum status status = split_layers(first, c->layers, parts, &costs);
    free(layer);
    return status;
}

static void take_runs(const int *first, int stages, int chunks, int stage, struct shard *shard) {
    for (int chunk = 0; chunk < chunks; chunk++) {
        int part = chunk * stages + stage;
        shard->runs[chunk] = (struct layer_run){first[part], first[part + 1]};
    }
    shard->run_count = chunks;
    shard->first_layer = shard->runs[0].first;
    shard->end_layer = shard->runs[chunks - 1].end;
}

enum status stages_shard(const struct run_options *options, const struct mesh *mesh,
                         const struct mesh_place *place, const struct model_config *config,
                         struct shard *shard) {
    int stages = stage_count(mesh), chunks = chunk_count(options, mesh), parts = stages * chunks;
    int stage = place->at[MESH_PP];
    *shard = shard_whole(config);
    shard->tp_rank = place->at[MESH_TP];
    shard->tp_size = mesh->size[MESH_TP];
    if (options->train.optimizer == OPTIMIZER_ADAMW8) shard->ffn_unit = MOMENT8_TILE;
    if (stages == 1) return STATUS_OK;
    int *first = calloc((size_t)parts + 1, sizeof *first);
    if (!first) return status_fail(STATUS_MEMORY, "no memory to split %d layers", config->layers);
    enum status status = options->parallel.layers.count > 0
                             ? cut_by_hand(&options->parallel.layers, first, config->layers, parts)
                             : cut_by_cost(options, config, first, parts);
    if (status == STATUS_OK) take_runs(first, stages, chunks, stage, shard);
    shard->embedding = stage == 0;
    shard->head = stage == stages - 1;
    free(first);
    return status;
}

enum status stages_view(struct trainer *t) {
    const struct shard *all = &t->model.shard;
    int chunks = chunk_count(t->options, &t->mesh);
    t->parts = calloc((size_t)chunks, sizeof *t->parts);
    if (!t->parts) return status_fail(STATUS_MEMORY, "no memory for the parts of a model");
    for (int chunk = 0; chunk < chunks; chunk++) {
        struct shard part = *all;
        if (all->run_count > 0) {
            part.first_layer = all->runs[chunk].first;
            part.end_layer = all->runs[chunk].end;
        }
        part.run_count = 0;
        part.embedding = all->embedding && chunk == 0;
        part.head = all->head && chunk == chunks - 1;
        t->parts[chunk] = model_part(&t->model, &part);
    }
    return STATUS_OK;
}

/* Rows of the residual stream of the largest microbatch that a rank holds. */
static int64_t most_rows(const struct trainer *t) {
    int64_t tokens = trainer_micro_tokens(t);
    return t->options->parallel.sequence ? sequence_room(tokens, t->mesh.size[MESH_TP]) : tokens;
}

enum status stages_plan(struct trainer *t, struct arena *arena) {
    bool alone = stage_count(&t->mesh) == 1; /* no need to hold more than one microbatch */
    const struct schedule_shape shape = {
        .kind = alone ? PIPELINE_1F1B : (enum schedule_kind)t->options->parallel.schedule,
        .stages = stage_count(&t->mesh),
        .microbatches = t->micro_count,
        .chunks = chunk_count(t->options, &t->mesh)};
    pipeline_free(&t->pipeline);
    return pipeline_plan(&t->pipeline, &shape, t->place.at[MESH_PP],
                         t->options->model.dtype == OPTION_BF16 ? DTYPE_BF16 : DTYPE_F32,
                         most_rows(t) * t->model.config.hidden, arena);
}

bool stages_weights_later(const struct trainer *t) {
    bool kept = trainer_zero(t) < 2; /* where gradients stay until the end of the step */
    return t->pipeline.schedule.shape.kind == PIPELINE_ZB_H1 && !t->trained && kept;
}

static void poke(void *context) {
    pipeline_poke(context);
}

void stages_connect(struct trainer *t) {
    struct pipeline *pipeline = &t->pipeline;
    int chunks = pipeline->schedule.shape.chunks;
    pipeline->up = &t->comms.comm[MESH_PP];
    pipeline->down = &t->comms.down;
    pipeline->stream = &t->ws.stream;
    for (int i = 0; i < pipeline->schedule.inputs; i++)
        pipeline->inputs[i] =
            i < pipeline->schedule.sets ? workspace_acts(&t->ws, i, 0, chunks)->input : t->ws.input;
    if (stage_count(&t->mesh) == 1) return;
    t->ws.exec.between_layers = poke;
    t->ws.exec.context = pipeline;
}

/* What the layers see of a batch; `span` must live as long. */
static struct batch view_batch(const struct stages_walk *walk, int microbatch,
                               struct adapter_span *span) {
    const struct trainer *t = walk->trainer;
    struct batch batch = loader_batch_view(&walk->batches[microbatch]);
    *span = (struct adapter_span){0, batch.tokens, t->trained};
    batch.context = context_cut_view(&t->cuts[microbatch]);
    batch.spans = span;
    batch.span_count = t->trained ? 1 : 0;
    batch.training = walk->training;
    batch.dropout_seed = (uint64_t)t->options->train.seed;
    return batch;
}

/* Where replicas wait for each other in every pass (parallel.zero 2 and 3), one without samples
 * goes through it all the same, and computes nothing; and so does a rank without tokens of a
 * microbatch whose keys go through it. */
static bool passes_empty(const struct trainer *t, int microbatch) {
    return t->dp.zero >= 2 || t->cuts[microbatch].context.tokens > 0;
}

static struct exec exec_for(const struct trainer *t, const struct batch *batch) {
    struct exec exec = t->ws.exec;
    if (batch->tokens == 0) exec.k = kernels_nothing(exec.k->act);
    return exec;
}

static int64_t elements_of(void *context, int microbatch) {
    const struct stages_walk *walk = context;
    const struct trainer *t = walk->trainer;
    int64_t tokens = walk->batches[microbatch].tokens;
    if (tokens == 0) return passes_empty(t, microbatch) ? 0 : PIPELINE_EMPTY;
    return sequence_part(&t->ws.exec, tokens).count * t->model.config.hidden;
}

static struct trace_span begin_layers(const struct stages_walk *walk, enum trace_kind kind,
                                      const struct action *action) {
    const struct trainer *t = walk->trainer;
    const struct shard *shard = &t->parts[action->chunk].shard;
    return trace_begin(&t->trace, kind, action->microbatch, shard->first_layer, shard->end_layer);
}

static struct stage_acts *acts_of(const struct trainer *t, const struct action *action) {
    return workspace_acts(&t->ws, action->set, action->chunk, t->pipeline.schedule.shape.chunks);
}

static const void *run_forward(void *context, const struct action *action, void *input) {
    struct stages_walk *walk = context;
    struct trainer *t = walk->trainer;
    const struct model *part = &t->parts[action->chunk];
    struct stage_acts *acts = acts_of(t, action);
    struct adapter_span span;
    const struct batch batch = view_batch(walk, action->microbatch, &span);
    stage_acts_set_input(acts, part, input);
    t->ws.stream.where.microbatch = walk->training ? action->microbatch : WHERE_NO_MICROBATCH;
    struct trace_span trace = begin_layers(walk, TRACE_FORWARD, action);
    const struct exec exec = exec_for(t, &batch);
    stage_forward(&exec, part, &batch, acts);
    if (walk->training) trace_end(&t->trace, &trace); /* validation is one span already */
    t->ws.stream.where = (struct where){0};
    if (walk->visit) walk->visit(t, part, acts, batch.tokens, walk->context);
    return acts->hidden;
}

static const void *run_forward_and_loss(void *context, const struct action *action, void *input) {
    struct stages_walk *walk = context;
    struct trainer *t = walk->trainer;
    const struct model *part = &t->parts[action->chunk];
    const void *hidden = run_forward(context, action, input);
    struct adapter_span span;
    const struct batch batch = view_batch(walk, action->microbatch, &span);
    const struct exec exec = exec_for(t, &batch);
    if (part->shard.head) head_loss(&exec, part, &batch, hidden, NULL, &walk->loss, NULL);
    return hidden;
}

/* The gradients of a layer are complete here. */
static void reduce_layer(void *context, int layer) {
    struct trainer *t = context;
    tensor_parallel_layer_done(&t->tensor, layer);
    dp_layer_done(&t->dp, layer);
}

static void run_loss(struct stages_walk *walk, const struct action *action,
                     const struct batch *batch, const void *hidden, void *d) {
    struct trainer *t = walk->trainer;
    struct trace_span trace =
        trace_begin(&t->trace, TRACE_LOSS, action->microbatch, TRACE_NONE, TRACE_NONE);
    const struct exec exec = exec_for(t, batch);
    head_loss(&exec, &t->parts[action->chunk], batch, hidden, d, &walk->loss, NULL);
    trace_end(&t->trace, &trace);
}

static void run_loss_and_backward(struct stages_walk *walk, const struct action *action,
                                  const struct batch *batch, void *d, stage_layer_done *done) {
    struct trainer *t = walk->trainer;
    const struct model *part = &t->parts[action->chunk];
    struct stage_acts *acts = acts_of(t, action);
    if (part->shard.head) run_loss(walk, action, batch, acts->hidden, d);
    struct trace_span trace =
        begin_layers(walk, batch->weights_later ? TRACE_BACKWARD_INPUT : TRACE_BACKWARD, action);
    const struct exec exec = exec_for(t, batch);
    stage_backward(&exec, part, batch, acts, d, done, t);
    trace_end(&t->trace, &trace);
}

static void run_backward_weights(struct stages_walk *walk, const struct action *action,
                                 const struct batch *batch, stage_layer_done *done) {
    struct trainer *t = walk->trainer;
    struct trace_span trace = begin_layers(walk, TRACE_BACKWARD_WEIGHT, action);
    const struct exec exec = exec_for(t, batch);
    stage_backward_weights(&exec, &t->parts[action->chunk], batch, acts_of(t, action), done, t);
    trace_end(&t->trace, &trace);
}

/* Where only adapters are trained, whose gradients are small, nothing is left for later. */
static void run_backward(void *context, const struct action *action, void *d) {
    struct stages_walk *walk = context;
    struct trainer *t = walk->trainer;
    bool later = stages_weights_later(t), last = action->microbatch == t->micro_count - 1;
    bool reports = dp_reports(&t->dp, last), weights = action->kind == ACTION_BACKWARD_WEIGHT;
    stage_layer_done *done = reports ? reduce_layer : NULL;
    struct adapter_span span;
    struct batch batch = view_batch(walk, action->microbatch, &span);
    batch.weights_later = later;
    t->ws.stream.where.microbatch = action->microbatch;
    if (!weights)
        run_loss_and_backward(walk, action, &batch, d, later ? NULL : done);
    else if (later)
        run_backward_weights(walk, action, &batch, done);
    if (reports && weights == later) dp_pass_done(&t->dp);
    if (reports && !last && weights == later)
        tensor_parallel_reset(&t->tensor, &t->parts[action->chunk].shard);
    t->ws.stream.where = (struct where){0};
}

void stages_train(struct stages_walk *walk) {
    const struct pipeline_calls calls = {walk, elements_of, run_forward, run_backward};
    pipeline_run(&walk->trainer->pipeline, &calls, PIPELINE_TRAIN);
}

void stages_forward(struct stages_walk *walk) {
    const struct pipeline_calls calls = {walk, elements_of, run_forward_and_loss, run_backward};
    pipeline_run(&walk->trainer->pipeline, &calls, PIPELINE_FORWARD_ONLY);
}

static struct param *tied_embedding(const struct trainer *t) {
    struct param *embedding = model_param(&t->model, WEIGHT_EMBED, -1);
    bool two = t->model.config.tied && stage_count(&t->mesh) > 1;
    return two && embedding && embedding->grad.data ? embedding : NULL;
}

void stages_sum_tied(struct trainer *t) {
    const struct param *tied = tied_embedding(t);
    if (!tied) return;
    assert(t->comms.ends.size == 2);
    const struct dp_piece mine = dp_piece(&t->dp, tied); /* the same share on both */
    comm_all_reduce(&t->comms.ends, &t->ws.stream, mine.grad, mine.count, DTYPE_F32, COMM_SUM);
}
