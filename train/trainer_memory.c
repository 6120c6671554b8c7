/* The arenas of a run: counted and laid out by the same code. */
#define _GNU_SOURCE
#include "kernels/base/units.h"
#include "train/saves.h"
#include "train/stages.h"
#include "train/trainer_parts.h"

#include <stdlib.h>
#include <string.h>

enum status trainer_plan_microbatches(struct trainer *t) {
    const struct train_options *o = &t->options->train;
    int64_t share = loader_share(o->global_batch, 0, t->mesh.size[MESH_DP]).count;
    t->micro_sequences = o->micro_batch ? min_i64(o->micro_batch, share) : share;
    int64_t length = t->options->data.sequence_length;
    if (t->micro_sequences > INT32_MAX / length) /* segments begin at int32_t offsets */
        return status_fail(STATUS_CONFIG,
                           "train.micro_batch makes a rank run %lld sequences at once, which at "
                           "data.sequence_length %lld is more than %d tokens: lower one of them",
                           (long long)t->micro_sequences, (long long)length, INT32_MAX);
    t->micro_count = (int)((share + t->micro_sequences - 1) / t->micro_sequences);
    t->micro = calloc((size_t)t->micro_count, sizeof *t->micro);
    t->cuts = calloc((size_t)t->micro_count, sizeof *t->cuts);
    if (!t->micro || !t->cuts)
        return status_fail(STATUS_MEMORY, "no memory for %d batches", t->micro_count);
    return STATUS_OK;
}

int64_t trainer_micro_tokens(const struct trainer *t) {
    return context_room(t->micro_sequences * t->options->data.sequence_length,
                        t->mesh.size[MESH_CP]);
}

struct workspace_plan trainer_plan_workspace(const struct trainer *t,
                                             struct workspace_parts *parts) {
    const struct schedule *schedule = &t->pipeline.schedule;
    *parts = (struct workspace_parts){.count = schedule->shape.chunks,
                                      .models = t->parts,
                                      .sets = schedule->sets,
                                      .inputs = schedule->inputs};
    static const enum acts_keep keep[] = {[RECOMPUTE_NONE] = ACTS_ALL,
                                          [RECOMPUTE_SELECTIVE] = ACTS_DEAR,
                                          [RECOMPUTE_FULL] = ACTS_INPUT};
    return (struct workspace_plan){.tokens = trainer_micro_tokens(t),
                                   .logit_rows = 1,
                                   .keep = keep[t->options->train.recompute],
                                   .weights_later = stages_weights_later(t),
                                   .backward = true,
                                   .sequence = trainer_splits_sequence(t),
                                   .context = t->mesh.size[MESH_CP],
                                   .adapter = t->trained,
                                   .parts = parts};
}

/* The three arenas of training proper, each counting or real. */
static enum status push_batches(struct trainer *t, struct arena *arena) {
    int64_t length = t->options->data.sequence_length;
    for (int i = 0; i < t->micro_count; i++) {
        loader_batch_layout(&t->micro[i], arena, t->micro_sequences, length);
        context_cut_layout(&t->cuts[i], arena, t->mesh.size[MESH_CP], t->place.at[MESH_CP],
                           t->micro_sequences * length);
    }
    return stages_plan(t, arena);
}

static enum status push_gradients(struct trainer *t, struct arena *arena) {
    struct comm *together = trainer_steps_alone(t) ? &t->comms.comm[MESH_CP] : &t->comms.replicas;
    const struct dp_options options = {.comm = together,
                                       .stream = &t->ws.stream,
                                       .layers = t->model.config.layers,
                                       .bucket_bytes = DP_BUCKET_BYTES,
                                       .zero = trainer_zero(t),
                                       .tied = t->model.config.tied && !t->trained,
                                       .weights_sharded = t->sharded.unit_count && !t->trained};
    dp_free(&t->dp);
    TRY(dp_plan(&t->dp, &options, t->params, t->param_count, arena));
    return tensor_parallel_plan(&t->tensor, &t->ws.stream, t->params, t->param_count,
                                t->model.config.layers, trainer_splits_sequence(t), arena);
}

static enum status push_optimizer(struct trainer *t, struct arena *arena, struct arena *host) {
    const struct train_options *o = &t->options->train;
    const struct optimizer_options options = {.dp = &t->dp,
                                              .sharded = &t->sharded,
                                              .params = t->params,
                                              .count = t->param_count,
                                              .moments8 = o->optimizer == OPTIMIZER_ADAMW8,
                                              .host =
                                                  o->offload == OFFLOAD_OPTIMIZER ? host : NULL};
    optimizer_free(&t->optimizer);
    outer_free(&t->outer);
    TRY(optimizer_plan(&t->optimizer, &options, arena));
    return trainer_steps_alone(t) ? outer_plan(&t->outer, &t->optimizer, arena) : STATUS_OK;
}

enum status trainer_count_arenas(struct trainer *t, struct trainer_memory *memory) {
    struct arena counted, host;
    arena_count(&counted, "batches");
    TRY(push_batches(t, &counted));
    memory->batches = counted.peak;
    arena_count(&counted, "gradients");
    TRY(push_gradients(t, &counted));
    memory->gradients = counted.peak;
    arena_count(&counted, "optimizer");
    arena_count(&host, "offloaded");
    TRY(push_optimizer(t, &counted, &host));
    memory->optimizer = counted.peak;
    memory->snapshot = saves_snapshot_bytes(t);
    memory->offloaded = host.peak;
    return STATUS_OK;
}

size_t trainer_sums_bytes(const struct trainer *t, size_t gradients) {
    int replicas = t->mesh.size[MESH_DP] * t->mesh.size[MESH_CP];
    if (replicas == 1) return 0;
    return gradients < COMM_SUMS_BYTES ? gradients : COMM_SUMS_BYTES;
}

/* Elements of the whole model's trained parameters; a tied embedding is on two stages. */
static enum status count_trained(struct trainer *t) {
    t->trained_elements = 0;
    for (int i = 0; i < t->param_count; i++) {
        const struct param *param = t->params[i];
        bool second = param->id == WEIGHT_EMBED && !t->model.shard.embedding;
        if (!second) t->trained_elements += param->slice.rows * param->slice.cols;
    }
    comm_all_reduce(&t->comms.comm[MESH_PP], &t->ws.stream, &t->trained_elements, 1, DTYPE_I64,
                    COMM_SUM);
    return stream_check(&t->ws.stream);
}

static void layer_begins(void *context, int layer, bool backward) {
    struct trainer *t = context;
    sharded_begin(&t->sharded, layer, backward);
    if (backward) dp_layer_begins(&t->dp, layer);
}

/* Written to once, so that the first save finds its pages there. */
static enum status open_snapshot(struct trainer *t, size_t bytes) {
    TRY(arena_create(&t->saves.snapshot, "snapshot", bytes));
    if (bytes) memset(t->saves.snapshot.base, 0, bytes);
    return STATUS_OK;
}

static enum status open_offloaded(struct trainer *t, size_t bytes) {
    const char *path = t->options->train.offload_path;
    return *path ? arena_map(&t->offloaded, "train.offload_path", bytes, path)
                 : arena_create(&t->offloaded, "offloaded", bytes);
}

enum status trainer_open_memory(struct trainer *t) {
    struct trainer_memory bytes;
    struct workspace_parts parts;
    TRY(trainer_count_arenas(t, &bytes));
    const struct workspace_plan plan = trainer_plan_workspace(t, &parts);
    TRY(workspace_open(&t->ws, &t->model, t->kernels, t->threads, &t->comms.comm[MESH_TP], &plan));
    t->watch = (struct exec_watch){layer_begins, t};
    t->ws.exec.watch = &t->watch;
    t->ws.exec.cp = &t->comms.comm[MESH_CP];
    TRY(arena_create(&t->batches, "batches", bytes.batches));
    TRY(push_batches(t, &t->batches));
    stages_connect(t);
    TRY(arena_create(&t->gradients, "gradients", bytes.gradients));
    TRY(push_gradients(t, &t->gradients));
    TRY(arena_create(&t->optimizer_state, "optimizer", bytes.optimizer));
    TRY(open_offloaded(t, bytes.offloaded));
    TRY(push_optimizer(t, &t->optimizer_state, &t->offloaded));
    TRY(open_snapshot(t, bytes.snapshot));
    optimizer_start(&t->optimizer, t->ws.exec.stream);
    if (trainer_steps_alone(t)) outer_start(&t->outer);
    return count_trained(t);
}

void trainer_memory_parts(const struct trainer_memory *m,
                          struct trainer_memory_part parts[TRAINER_MEMORY_PARTS]) {
    const struct trainer_memory_part all[] = {
        {"weights", m->weights},     {"adapter", m->adapter},         {"gradients", m->gradients},
        {"optimizer", m->optimizer}, {"activations", m->activations}, {"scratch", m->scratch},
        {"batches", m->batches},     {"snapshot", m->snapshot}};
    _Static_assert(sizeof all / sizeof *all == TRAINER_MEMORY_PARTS, "every kind has a name");
    memcpy(parts, all, sizeof all);
}

size_t trainer_memory_total(const struct trainer_memory *memory) {
    struct trainer_memory_part parts[TRAINER_MEMORY_PARTS];
    size_t total = 0;
    trainer_memory_parts(memory, parts);
    for (int i = 0; i < TRAINER_MEMORY_PARTS; i++)
        if (__builtin_add_overflow(total, parts[i].bytes, &total)) return SIZE_MAX;
    return total;
}

struct trainer_memory trainer_memory(const struct trainer *t) {
    return (struct trainer_memory){.weights = t->model.arena.used,
                                   .adapter = t->adapter.arena.used,
                                   .gradients = t->gradients.used,
                                   .optimizer = t->optimizer_state.used,
                                   .activations = t->ws.held.used,
                                   .scratch = t->ws.scratch.capacity +
                                              trainer_sums_bytes(t, t->gradients.used),
                                   .batches = t->batches.used,
                                   .snapshot = t->saves.snapshot.capacity,
                                   .offloaded = t->offloaded.used};
}
