/* Opening and closing a run; train/step.c is what it does. */
#define _GNU_SOURCE
#include "train/trainer.h"

#include "core/log.h"
#include "core/memory.h"
#include "kernels/base/units.h"
#include "train/checkpoints.h"
#include "train/sharded_model.h"
#include "train/stages.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool in_bf16(const struct trainer *t) {
    return t->options->model.dtype == OPTION_BF16;
}

static enum dtype activations_dtype(const struct trainer *t) {
    return in_bf16(t) ? DTYPE_BF16 : DTYPE_F32;
}

static enum layout matrix_layout(const struct trainer *t) {
    static const enum layout layouts[] = {[WEIGHTS_FP32] = LAYOUT_PANEL_F32,
                                          [WEIGHTS_BF16] = LAYOUT_PANEL_BF16,
                                          [WEIGHTS_NF4] = LAYOUT_NF4,
                                          [WEIGHTS_STORED] = LAYOUT_STORED};
    int weights = t->options->model.weights;
    if (weights == WEIGHTS_AUTO) weights = in_bf16(t) ? WEIGHTS_BF16 : WEIGHTS_FP32;
    return layouts[weights];
}

/* Where rank `rank` of `ranks` stands. */
static enum status place_rank(struct trainer *t, int rank, int ranks) {
    const struct parallel_options *o = &t->options->parallel;
    const struct mesh_options degrees = {o->tp, o->cp, o->dp, o->pp, o->order};
    if (o->cp > 1)
        return status_fail(STATUS_UNSUPPORTED,
                           "this version has no context parallelism: parallel.cp is 1");
    TRY(mesh_create(&t->mesh, ranks, &degrees));
    t->place = mesh_place(&t->mesh, rank);
    return STATUS_OK;
}

static bool splits_sequence(const struct trainer *t) {
    return t->options->parallel.sequence && t->mesh.size[MESH_TP] > 1;
}

static enum status read_model_config(const struct trainer *t, struct model_config *config) {
    const struct run_options *o = t->options;
    if (*o->model.path) {
        struct model_file file;
        TRY(model_file_open(&file, o->model.path, false));
        enum status status = model_config_read(config, &file);
        model_file_close(&file);
        TRY(status);
    } else {
        TRY(model_config_read_json(config, o->model.config));
    }
    config->rope.context = o->data.sequence_length;
    return STATUS_OK;
}

/* Agreed on before communicators are split by it. */
static enum status open_tensor_parallel(struct trainer *t) {
    struct model_config config;
    TRY(parallel_agree(&t->parallel->world, read_model_config(t, &config)));
    TRY(shard_check(&config, t->mesh.size[MESH_TP])); /* the same on all ranks */
    return tensor_parallel_open(&t->tensor, &t->comms.comm[MESH_TP], &config);
}

static enum status open_model(struct trainer *t) {
    const struct run_options *o = t->options;
    struct model_config config;
    struct shard shard;
    TRY(read_model_config(t, &config));
    TRY(stages_shard(o, &t->mesh, &t->place, &config, &shard));
    if (o->parallel.zero == 3) return sharded_model_open(t, &config, &shard, matrix_layout(t));
    if (!*o->model.path) {
        TRY(model_create(&t->model, &config, &shard, matrix_layout(t)));
        model_init_random(&t->model, (uint64_t)o->train.seed, (float)o->model.init_std, t->threads);
        return STATUS_OK;
    }
    struct model_file file;
    TRY(model_file_open(&file, o->model.path, false));
    enum status status =
        model_load(&t->model, &file, &shard, matrix_layout(t), o->data.sequence_length, t->threads);
    model_file_close(&file);
    return status;
}

/* PEFT allows it, and so do we. */
static void warn_of_rank(const struct adapter *adapter) {
    for (int id = 0; id < WEIGHT_COUNT; id++) {
        struct lora_pair pair = adapter_pair(adapter, (enum weight_id)id, 0);
        if (!pair.a || !pair.a->w.data) continue;
        int64_t rows = pair.b->slice.rows, cols = pair.a->slice.cols;
        if (adapter->config.rank <= min_i64(rows, cols)) continue;
        log_line(LOG_WARN,
                 "event=lora_rank rank=%d module=%s rows=%lld columns=%lld reason=\"a rank above "
                 "the smaller side of the matrix adds nothing but memory: lower lora.rank\"",
                 adapter->config.rank, weight_table[id].module, (long long)rows, (long long)cols);
        return;
    }
}

static enum status make_adapter(struct trainer *t) {
    const struct run_options *o = t->options;
    if (*o->lora.init_from)
        return adapter_load(&t->adapter, "adapter", &t->model, o->lora.init_from);
    struct adapter_config config;
    TRY(run_options_adapter(&o->lora, &config));
    return adapter_create(&t->adapter, "adapter", &t->model, &config, (uint64_t)o->train.seed);
}

static enum status open_adapter(struct trainer *t) {
    if (t->options->train.mode != TRAIN_LORA) return STATUS_OK;
    t->trained = &t->adapter;
    TRY(make_adapter(t));
    if (t->parallel->world.rank == 0) warn_of_rank(t->trained);
    return STATUS_OK;
}

/* The parameters that get gradients and optimizer state: all of the model's, or the adapter's. */
static enum status list_trained(struct trainer *t) {
    struct param *params = t->trained ? t->adapter.params : t->model.params;
    int count = t->trained ? t->adapter.param_count : t->model.param_count;
    t->params = calloc((size_t)count, sizeof *t->params);
    if (!t->params) return status_fail(STATUS_MEMORY, "no memory for the list of parameters");
    for (int i = 0; i < count; i++)
        if (params[i].w.data) t->params[t->param_count++] = &params[i];
    return STATUS_OK;
}

/* A tokenizer is needed only to notice a wrong one, so its absence is no failure unless it was
 * named. */
static enum status open_tokenizer(struct trainer *t) {
    const struct model_options *o = &t->options->model;
    if (*o->tokenizer) return tokenizer_open(&t->tokenizer, o->tokenizer);
    if (*o->path && tokenizer_open(&t->tokenizer, o->path) != STATUS_OK) {
        t->tokenizer = NULL;
        log_line(LOG_WARN, "event=no_tokenizer_check reason=%s",
                 log_value(&(struct log_text){0}, status_message()));
    }
    return STATUS_OK;
}

/* What a fine-tuned model would be served with. */
static enum status check_tokenizer(const struct trainer *t) {
    if (!t->tokenizer) return STATUS_OK;
    return tokenizer_check_vocabulary(t->tokenizer, t->model.config.vocab,
                                      *t->options->model.path ? t->options->model.path
                                                              : "the model");
}

static enum status open_data(struct trainer *t) {
    const struct loader_options *o = &t->options->data;
    TRY(open_tokenizer(t));
    TRY(check_tokenizer(t));
    const struct loader_expect expect = {.tokenizer_hash =
                                             t->tokenizer ? tokenizer_hash(t->tokenizer) : 0,
                                         .vocabulary = t->model.config.vocab};
    TRY(loader_open(&t->train, o, &o->train, o->shuffle, &expect));
    if (o->validation.count > 0)
        TRY(loader_open(&t->validation, o, &o->validation, false, &expect));
    if (t->model.config.rope.scaling != ROPE_SCALING_LINEAR &&
        t->model.config.rope.scaling != ROPE_SCALING_DYNAMIC && /* they stretch the context */
        o->sequence_length > t->model.config.max_context)
        return status_fail(STATUS_CONFIG,
                           "data.sequence_length %lld is above the model's context of %lld",
                           (long long)o->sequence_length, (long long)t->model.config.max_context);
    return STATUS_OK;
}

/* A rank's share of the global batch, cut into microbatches; sized for the largest share. */
static enum status plan_microbatches(struct trainer *t) {
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
    if (!t->micro) return status_fail(STATUS_MEMORY, "no memory for %d batches", t->micro_count);
    return STATUS_OK;
}

static enum status plan_steps(struct trainer *t) {
    const struct train_options *o = &t->options->train;
    double samples = o->epochs * (double)loader_sequences(t->train);
    t->steps = o->steps ? o->steps : (int64_t)ceil(samples / (double)o->global_batch);
    if (o->warmup < t->steps) return STATUS_OK;
    return status_fail(
        STATUS_CONFIG,
        "train.warmup %lld is not below the run's %lld steps: the rate would never reach "
        "train.lr",
        (long long)o->warmup, (long long)t->steps);
}

/* `parts` must live as long; the pipeline is planned. */
static struct workspace_plan plan_workspace(const struct trainer *t,
                                            struct workspace_parts *parts) {
    const struct schedule *schedule = &t->pipeline.schedule;
    *parts = (struct workspace_parts){.count = schedule->shape.chunks,
                                      .models = t->parts,
                                      .sets = schedule->sets,
                                      .inputs = schedule->inputs};
    bool full = t->options->train.recompute == RECOMPUTE_FULL;
    return (struct workspace_plan){.tokens = t->micro_sequences * t->options->data.sequence_length,
                                   .logit_rows = 1,
                                   .keep = full                      ? ACTS_INPUT
                                           : stages_weights_later(t) ? ACTS_LATE
                                                                     : ACTS_ALL,
                                   .backward = true,
                                   .sequence = splits_sequence(t),
                                   .adapter = t->trained,
                                   .parts = parts};
}

/* The three arenas of training proper, each counting or real. */
static enum status push_batches(struct trainer *t, struct arena *arena) {
    for (int i = 0; i < t->micro_count; i++)
        loader_batch_layout(&t->micro[i], arena, t->micro_sequences,
                            t->options->data.sequence_length);
    return stages_plan(t, arena);
}

/* Replicas do not sum gradients: a communicator of one stands in for them. */
static bool steps_alone(const struct trainer *t) {
    return t->options->parallel.sync_every > 1;
}

static enum status push_gradients(struct trainer *t, struct arena *arena) {
    struct comm *together = steps_alone(t) ? &t->ws.self : &t->comms.replicas;
    const struct dp_options options = {.comm = together,
                                       .stream = &t->ws.stream,
                                       .layers = t->model.config.layers,
                                       .bucket_bytes = DP_BUCKET_BYTES,
                                       .zero = (int)t->options->parallel.zero,
                                       .tied = t->model.config.tied && !t->trained,
                                       .weights_sharded = t->sharded.unit_count && !t->trained};
    dp_free(&t->dp);
    TRY(dp_plan(&t->dp, &options, t->params, t->param_count, arena));
    return tensor_parallel_plan(&t->tensor, &t->ws.stream, t->params, t->param_count,
                                t->model.config.layers, splits_sequence(t), arena);
}

static enum status push_optimizer(struct trainer *t, struct arena *arena) {
    optimizer_free(&t->optimizer);
    outer_free(&t->outer);
    TRY(optimizer_plan(&t->optimizer, &t->dp, &t->sharded, t->params, t->param_count, arena));
    return steps_alone(t) ? outer_plan(&t->outer, &t->optimizer, arena) : STATUS_OK;
}

static enum status count_arenas(struct trainer *t, struct trainer_memory *memory) {
    struct arena counted;
    arena_count(&counted, "batches");
    TRY(push_batches(t, &counted));
    memory->batches = counted.peak;
    arena_count(&counted, "gradients");
    TRY(push_gradients(t, &counted));
    memory->gradients = counted.peak;
    arena_count(&counted, "optimizer");
    TRY(push_optimizer(t, &counted));
    memory->optimizer = counted.peak;
    return STATUS_OK;
}

/* What the library takes while it sums `gradients` bytes over replicas. */
static size_t sums_bytes(const struct trainer *t, size_t gradients) {
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

static enum status open_memory(struct trainer *t) {
    struct trainer_memory bytes;
    struct workspace_parts parts;
    TRY(count_arenas(t, &bytes));
    const struct workspace_plan plan = plan_workspace(t, &parts);
    TRY(workspace_open(&t->ws, &t->model, t->kernels, t->threads, &t->comms.comm[MESH_TP], &plan));
    t->watch = (struct exec_watch){layer_begins, t};
    t->ws.exec.watch = &t->watch;
    TRY(arena_create(&t->batches, "batches", bytes.batches));
    TRY(push_batches(t, &t->batches));
    stages_connect(t);
    TRY(arena_create(&t->gradients, "gradients", bytes.gradients));
    TRY(push_gradients(t, &t->gradients));
    TRY(arena_create(&t->optimizer_state, "optimizer", bytes.optimizer));
    TRY(push_optimizer(t, &t->optimizer_state));
    optimizer_start(&t->optimizer, t->ws.exec.stream);
    if (steps_alone(t)) outer_start(&t->outer);
    return count_trained(t);
}

static enum status open_parts(struct trainer *t) {
    const struct comm *world = &t->parallel->world;
    TRY(place_rank(t, world->rank, world->size));
    TRY(mesh_open(&t->comms, &t->mesh, world));
    TRY(parallel_kernels(&t->parallel->world, &t->kernels, t->options->train.instructions,
                         activations_dtype(t)));
    TRY(open_tensor_parallel(t));
    TRY(open_model(t));
    TRY(stages_view(t));
    TRY(open_adapter(t));
    TRY(list_trained(t));
    TRY(open_data(t));
    TRY(plan_steps(t));
    TRY(plan_microbatches(t));
    if (t->options->train.trace_step) TRY(trace_open(&t->trace));
    return open_memory(t);
}

/* The model's and the adapter's shapes on the rank at t->place, on arenas that only count. */
static enum status describe_model(struct trainer *t, struct arena *weights) {
    struct model_config config;
    TRY(read_model_config(t, &config));
    struct shard shard;
    TRY(stages_shard(t->options, &t->mesh, &t->place, &config, &shard));
    if (!*t->options->model.path)
        return model_describe(&t->model, &config, &shard, matrix_layout(t), weights);
    struct model_file file; /* whose types say how large weights are that stay as stored */
    TRY(model_file_open(&file, t->options->model.path, false));
    enum status status =
        model_plan(&t->model, &file, &shard, matrix_layout(t), config.rope.context);
    model_file_close(&file);
    if (status == STATUS_OK) *weights = t->model.arena;
    return status;
}

static enum status describe_adapter(struct trainer *t, struct arena *factors) {
    const struct run_options *o = t->options;
    struct adapter_config config;
    if (o->train.mode != TRAIN_LORA) return STATUS_OK;
    if (*o->lora.init_from)
        TRY(adapter_read_config(&config, o->lora.init_from));
    else
        TRY(run_options_adapter(&o->lora, &config));
    t->trained = &t->adapter;
    return adapter_describe(&t->adapter, &t->model, &config, factors);
}

/* What layouts ask of a communicator that is not open. */
static void place_replica(struct trainer *t) {
    t->comms.replicas =
        (struct comm){.rank = t->place.at[MESH_DP] * t->mesh.size[MESH_CP] + t->place.at[MESH_CP],
                      .size = t->mesh.size[MESH_CP] * t->mesh.size[MESH_DP]};
}

static enum status plan_parts(struct trainer *t, int rank, int ranks,
                              struct trainer_memory *memory) {
    struct arena weights, factors;
    arena_count(&weights, "weights");
    arena_count(&factors, "adapter");
    TRY(place_rank(t, rank, ranks));
    place_replica(t);
    TRY(describe_model(t, &weights));
    if (t->options->parallel.zero == 3) {
        arena_count(&weights, "weights");
        TRY(sharded_plan(&t->sharded, &t->model, &t->comms.replicas, &t->ws.stream, &weights));
    }
    TRY(stages_view(t));
    TRY(describe_adapter(t, &factors));
    TRY(list_trained(t));
    TRY(plan_microbatches(t));
    TRY(count_arenas(t, memory));
    struct workspace_parts parts;
    const struct workspace_plan plan = plan_workspace(t, &parts);
    TRY(workspace_count(&t->model, activations_dtype(t), &plan, &memory->activations,
                        &memory->scratch));
    memory->scratch += sums_bytes(t, memory->gradients);
    memory->weights = weights.peak;
    memory->adapter = factors.peak;
    return STATUS_OK;
}

enum status trainer_plan_rank(const struct run_options *options, int rank, int ranks,
                              struct trainer_memory *memory) {
    struct trainer *t = calloc(1, sizeof *t);
    if (!t) return status_fail(STATUS_MEMORY, "no memory to plan a run");
    t->options = options;
    enum status status = plan_parts(t, rank, ranks, memory);
    trainer_close(t);
    free(t);
    return status;
}

enum status trainer_plan(const struct run_options *options, int ranks,
                         struct trainer_memory *memory) {
    const struct parallel_options *o = &options->parallel;
    struct mesh mesh;
    TRY(mesh_create(&mesh, ranks, &(struct mesh_options){o->tp, o->cp, o->dp, o->pp, o->order}));
    *memory = (struct trainer_memory){0};
    for (int stage = 0; stage < mesh.size[MESH_PP]; stage++) {
        struct trainer_memory bytes;
        const struct mesh_place place = {
            /* no slice is larger than the last */
            .at = {[MESH_TP] = mesh.size[MESH_TP] - 1, [MESH_PP] = stage}};
        TRY(trainer_plan_rank(options, mesh_rank(&mesh, &place), ranks, &bytes));
        if (trainer_memory_total(&bytes) > trainer_memory_total(memory)) *memory = bytes;
    }
    return STATUS_OK;
}

static enum status plan_data(struct trainer *t, struct trainer_data *data) {
    struct arena weights, factors;
    arena_count(&weights, "weights");
    arena_count(&factors, "adapter");
    t->mesh = (struct mesh){.size = {1, 1, 1, 1}}; /* the whole model: only its shapes count */
    TRY(describe_model(t, &weights));
    TRY(describe_adapter(t, &factors));
    if (t->trained) warn_of_rank(t->trained);
    if (t->trained && *t->options->lora.init_from)
        TRY(adapter_check_file(t->trained, t->options->lora.init_from));
    TRY(open_data(t));
    TRY(plan_steps(t));
    *data = (struct trainer_data){.steps = t->steps,
                                  .sequences = loader_sequences(t->train),
                                  .tokens = loader_inputs(t->train),
                                  .tokenizer_checked = t->tokenizer != NULL};
    if (!t->validation) return STATUS_OK;
    data->validation_sequences = loader_sequences(t->validation);
    data->validation_tokens = loader_inputs(t->validation);
    return STATUS_OK;
}

enum status trainer_plan_data(const struct run_options *options, struct trainer_data *data) {
    struct trainer *t = calloc(1, sizeof *t);
    if (!t) return status_fail(STATUS_MEMORY, "no memory to plan a run");
    t->options = options;
    enum status status = plan_data(t, data);
    trainer_close(t);
    free(t);
    return status;
}

/* libgomp reads these once, before main: a program can't choose for itself. */
static bool waits_passively(void) {
    const char *policy = getenv("OMP_WAIT_POLICY"), *spins = getenv("GOMP_SPINCOUNT");
    return spins ? strcmp(spins, "0") == 0 : policy && strcasecmp(policy, "passive") == 0;
}

/* Threads that wait for others of their team spin, on CPUs that those others need when there are
 * more threads on the host than CPUs: a step then takes hundreds of times as long. Nothing that is
 * computed depends on their number, so a run gets no more than its share unless waiting threads
 * sleep. */
static int choose_threads(const struct train_options *o, const struct parallel *p) {
    int asked = o->threads ? (int)o->threads : p->threads;
    if (p->node_size * asked <= p->node_cpus) return asked;
    int share = p->node_cpus > p->node_size ? p->node_cpus / p->node_size : 1;
    int threads = asked > share && !waits_passively() ? share : asked;
    if (p->node_rank == 0)
        log_line(LOG_WARN,
                 "event=oversubscribed ranks_of_host=%d asked=%d threads=%d cpus=%d hint=\"%s\"",
                 p->node_size, asked, threads, p->node_cpus,
                 threads < asked ? "OMP_WAIT_POLICY=passive in the environment allows more"
                 : asked > 1     ? "leave train.threads at 0"
                                 : "start fewer ranks on this host");
    return threads;
}

/* A run that is too large would be killed by the system somewhere, without a word. Collective. */
static enum status check_memory(const struct run_options *options, struct parallel *parallel) {
    struct trainer_memory memory;
    size_t available;
    TRY(parallel_agree(&parallel->world, trainer_plan_rank(options, parallel->world.rank,
                                                           parallel->world.size, &memory)));
    double bytes = (double)trainer_memory_total(&memory), together = bytes;
    TRY(parallel_sum_of_host(parallel, &together));
    enum status status = STATUS_OK;
    if (memory_available("", &available) && together > (double)available)
        status = status_fail(
            STATUS_MEMORY,
            "the run needs %.1f MiB on this host (ranks: %d, this one %.1f MiB), where %.1f "
            "MiB are available: lower train.micro_batch or data.sequence_length, set "
            "train.recompute to full, or train a smaller model",
            together / (1 << 20), parallel->node_size, bytes / (1 << 20), to_mib(available));
    return parallel_agree(&parallel->world, status);
}

enum status trainer_open(struct trainer *t, const struct run_options *options,
                         struct parallel *parallel) {
    memset(t, 0, sizeof *t);
    t->options = options;
    t->parallel = parallel;
    t->best_loss = INFINITY;
    t->threads = choose_threads(&options->train, parallel);
    /* agreed on before any rank takes what another one would then miss */
    enum status status = check_memory(options, parallel);
    if (status == STATUS_OK) status = parallel_agree(&parallel->world, open_parts(t));
    if (status == STATUS_OK)
        status =
            options->train.resume == RESUME_AUTO ? checkpoints_resume(t) : checkpoints_refuse(t);
    if (status != STATUS_OK) trainer_close(t);
    return status;
}

void trainer_close(struct trainer *t) {
    if (t->parallel && t->parallel->world.rank == 0) checkpoint_claim_release(&t->claim);
    trace_close(&t->trace);
    free(t->slow.times);
    optimizer_free(&t->optimizer);
    outer_free(&t->outer);
    dp_free(&t->dp);
    tensor_parallel_close(&t->tensor);
    sharded_free(&t->sharded);
    pipeline_free(&t->pipeline);
    free(t->parts);
    workspace_close(&t->ws);
    arena_free(&t->gradients);
    arena_free(&t->optimizer_state);
    arena_free(&t->batches);
    loader_close(t->train);
    loader_close(t->validation);
    tokenizer_close(t->tokenizer);
    if (t->trained) adapter_free(&t->adapter);
    model_free(&t->model);
    free(t->params);
    free(t->micro);
    mesh_close(&t->comms);
    memset(t, 0, sizeof *t);
}

size_t trainer_memory_total(const struct trainer_memory *memory) {
    const size_t parts[] = {memory->weights,   memory->adapter,     memory->gradients,
                            memory->optimizer, memory->activations, memory->scratch,
                            memory->batches};
    size_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (__builtin_add_overflow(total, parts[i], &total)) return SIZE_MAX;
    return total;
}

struct trainer_memory trainer_memory(const struct trainer *t) {
    return (struct trainer_memory){.weights = t->model.arena.used,
                                   .adapter = t->adapter.arena.used,
                                   .gradients = t->gradients.used,
                                   .optimizer = t->optimizer_state.used,
                                   .activations = t->ws.held.used,
                                   .scratch =
                                       t->ws.scratch.capacity + sums_bytes(t, t->gradients.used),
                                   .batches = t->batches.used};
}
