#include "train/plan_search.h"

#include "core/shard.h"
#include "kernels/base/units.h"
#include "kernels/moment8.h"
#include "train/trainer_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const plan_key_names[PLAN_KEYS] = {
    "parallel.tp",       "parallel.cp",     "parallel.dp",   "parallel.pp",
    "parallel.schedule", "parallel.chunks", "parallel.zero", "train.micro_batch",
    "train.recompute",   "train.optimizer", "train.offload"};

/* --- options --------------------------------------------------------------------------------- */

static struct plan_choice choice_of(const struct run_options *o) {
    return (struct plan_choice){.at = {[PLAN_TP] = o->parallel.tp,
                                       [PLAN_CP] = o->parallel.cp,
                                       [PLAN_DP] = o->parallel.dp,
                                       [PLAN_PP] = o->parallel.pp,
                                       [PLAN_SCHEDULE] = o->parallel.schedule,
                                       [PLAN_CHUNKS] = o->parallel.chunks,
                                       [PLAN_ZERO] = o->parallel.zero,
                                       [PLAN_MICRO_BATCH] = o->train.micro_batch,
                                       [PLAN_RECOMPUTE] = o->train.recompute,
                                       [PLAN_OPTIMIZER] = o->train.optimizer,
                                       [PLAN_OFFLOAD] = o->train.offload}};
}

/* Numbers of layers by hand are those of one pipeline. */
struct run_options plan_options(const struct run_options *options,
                                const struct plan_choice *choice) {
    struct run_options o = *options;
    if (choice->at[PLAN_PP] * choice->at[PLAN_CHUNKS] != o.parallel.layers.count)
        o.parallel.layers = (struct config_list){0};
    o.parallel.tp = choice->at[PLAN_TP];
    o.parallel.cp = choice->at[PLAN_CP];
    o.parallel.dp = choice->at[PLAN_DP];
    o.parallel.pp = choice->at[PLAN_PP];
    o.parallel.schedule = (int)choice->at[PLAN_SCHEDULE];
    o.parallel.chunks = choice->at[PLAN_CHUNKS];
    o.parallel.zero = (int)choice->at[PLAN_ZERO];
    o.train.micro_batch = choice->at[PLAN_MICRO_BATCH];
    o.train.recompute = (int)choice->at[PLAN_RECOMPUTE];
    o.train.optimizer = (int)choice->at[PLAN_OPTIMIZER];
    o.train.offload = (int)choice->at[PLAN_OFFLOAD];
    return o;
}

/* Both moments, in fp32 or a code and a part of its block's scale, and a master of weights in
 * bf16; an update reads and writes the moments. */
struct plan_habits plan_habits_of(const struct run_options *options) {
    bool bf16 = options->model.dtype == OPTION_BF16;
    struct plan_habits habits = plan_habits_of_strata(bf16);
    double moment = sizeof(float);
    if (options->train.optimizer == OPTIMIZER_ADAMW8)
        moment = (double)sizeof(struct moment8) / MOMENT8_BLOCK;
    habits.optimizer_bytes -= 4.0 * (sizeof(float) - moment);
    if (options->train.offload == OFFLOAD_OPTIMIZER)
        habits.offloaded_bytes = 2.0 * moment + (bf16 ? sizeof(float) : 0.0);
    return habits;
}

enum status plan_layout_of(struct plan_layout *layout, const struct run_options *o, int ranks,
                           int per_node) {
    const struct parallel_options *p = &o->parallel;
    *layout = (struct plan_layout){.schedule = p->schedule,
                                   .chunks = (int)p->chunks,
                                   .zero = run_options_zero(o, ranks),
                                   .sequence = p->sequence && p->tp > 1,
                                   .recompute = (enum train_recompute)o->train.recompute,
                                   .length = o->data.sequence_length,
                                   .global_batch = o->train.global_batch,
                                   .per_node = per_node};
    TRY(mesh_create(&layout->mesh, ranks,
                    &(struct mesh_options){p->tp, p->cp, p->dp, p->pp, p->order}));
    int64_t replicas = layout->mesh.size[MESH_DP];
    int64_t share = (o->train.global_batch + replicas - 1) / replicas;
    layout->micro_batch = o->train.micro_batch ? min_i64(o->train.micro_batch, share) : share;
    return STATUS_OK;
}

enum status plan_read_model(struct plan_model *model, const struct run_options *o) {
    struct model_config config;
    struct adapter_config adapter;
    bool lora = o->train.mode == TRAIN_LORA;
    TRY(trainer_read_config(o, &config));
    if (lora && *o->lora.init_from)
        TRY(adapter_read_config(&adapter, o->lora.init_from));
    else if (lora)
        TRY(run_options_adapter(&o->lora, &adapter));
    *model = plan_model_of(&config, lora ? &adapter : NULL);
    return STATUS_OK;
}

/* --- one layout ------------------------------------------------------------------------------ */

struct search {
    const struct plan_request *request;
    struct plan_result *result;
    struct model_config config;
    struct plan_choice start; /* the options' own, but for an optimizer with less state */
    int ranks;
    struct trainer_memory *stages; /* (ranks) at most */
    double smallest; /* device_bytes of result->smallest; INFINITY before there is one */
};

/* What a rank of a stage takes of its device. A checkpoint's copy and state that is not on the
 * device are the host's. */
static double stage_bytes(const struct search *s, const struct run_options *options, int stage) {
    const struct trainer_memory *memory = &s->stages[stage];
    double bytes = (double)trainer_memory_total(memory);
    if (!s->request->device.shared_memory) return bytes - (double)memory->snapshot;
    return bytes + (*options->train.offload_path ? 0.0 : (double)memory->offloaded);
}

/* What ranks take on the node, or on the device, that holds most. */
static double most_bytes(const struct search *s, const struct run_options *options,
                         const struct mesh *mesh) {
    const struct plan_request *request = s->request;
    double most = 0.0, reserve = request->device.reserve;
    if (!request->device.shared_memory) {
        for (int stage = 0; stage < mesh->size[MESH_PP]; stage++)
            most = fmax(most, stage_bytes(s, options, stage) + reserve);
        return most;
    }
    for (int node = 0; node < request->nodes; node++) {
        double sum = 0.0;
        for (int i = 0; i < request->per_node; i++) {
            struct mesh_place place = mesh_place(mesh, node * request->per_node + i);
            sum += stage_bytes(s, options, place.at[MESH_PP]) + reserve;
        }
        most = fmax(most, sum);
    }
    return most;
}

/* Without a copy of what is saved where that does not fit beside the rest, as train/trainer.c has
 * it. */
static void leave_snapshots(const struct search *s, const struct run_options *options,
                            const struct mesh *mesh, struct plan_candidate *candidate) {
    if (!s->request->device.shared_memory) return;
    for (int stage = 0; stage < mesh->size[MESH_PP]; stage++) {
        candidate->waits |= s->stages[stage].snapshot > 0;
        s->stages[stage].snapshot = 0;
    }
    candidate->device_bytes = most_bytes(s, options, mesh);
}

static enum status count_bytes(const struct search *s, const struct run_options *options,
                               const struct mesh *mesh, struct plan_candidate *candidate) {
    TRY(trainer_plan_stages(options, s->ranks, s->stages));
    candidate->device_bytes = most_bytes(s, options, mesh);
    if (candidate->device_bytes > s->request->device.memory)
        leave_snapshots(s, options, mesh, candidate);
    int largest = 0;
    for (int stage = 1; stage < mesh->size[MESH_PP]; stage++)
        if (stage_bytes(s, options, stage) > stage_bytes(s, options, largest)) largest = stage;
    struct trainer_memory *memory = &candidate->memory;
    *memory = s->stages[largest];
    if (s->request->device.shared_memory) return STATUS_OK;
    candidate->host_bytes = (double)memory->snapshot + (double)memory->offloaded;
    memory->snapshot = memory->offloaded = 0;
    return STATUS_OK;
}

static enum status keep(struct plan_result *result, const struct plan_candidate *candidate) {
    if (result->count == result->capacity) {
        int capacity = result->capacity * 2 + 64;
        struct plan_candidate *grown =
            realloc(result->candidates, (size_t)capacity * sizeof *grown);
        if (!grown) return status_fail(STATUS_MEMORY, "no memory for %d layouts", capacity);
        result->candidates = grown;
        result->capacity = capacity;
    }
    result->candidates[result->count++] = *candidate;
    return STATUS_OK;
}

/* Layouts that the program refuses are none; *fits tells whether larger microbatches may. */
static enum status try_choice(struct search *s, const struct plan_choice *choice, bool *fits) {
    const struct plan_request *request = s->request;
    struct plan_candidate candidate = {.choice = *choice};
    const struct run_options options = plan_options(request->options, choice);
    struct plan_layout layout;
    *fits = false;
    if (run_options_check(&options) != STATUS_OK) return STATUS_OK;
    if (plan_layout_of(&layout, &options, s->ranks, request->per_node) != STATUS_OK)
        return STATUS_OK;
    enum status status = count_bytes(s, &options, &layout.mesh, &candidate);
    if (status == STATUS_CONFIG || status == STATUS_UNSUPPORTED) return STATUS_OK;
    TRY(status);
    s->result->tried++;
    *fits = candidate.device_bytes <= request->device.memory;
    if (!*fits && candidate.device_bytes < s->smallest) {
        s->smallest = candidate.device_bytes;
        s->result->smallest = candidate;
    }
    if (!*fits) return STATUS_OK;
    const struct plan_habits habits = plan_habits_of(&options);
    TRY(plan_time(&candidate.time, &request->device, &s->result->model, &habits, &layout));
    return keep(s->result, &candidate);
}

/* --- all of them ----------------------------------------------------------------------------- */

enum { MOST_MICROBATCH_TOKENS = 1 << 17, MOST_CHUNKS = 8, LEAST_CONTEXT = 1024 };

static bool fixed(const struct search *s, enum plan_key key) {
    return s->request->fixed & 1u << key;
}

/* A value of a key that the search may take: the options' own where that is fixed. */
static bool may(const struct search *s, enum plan_key key, int64_t value) {
    const struct plan_choice own = choice_of(s->request->options);
    bool open = key == PLAN_DP && own.at[key] == 0; /* what the others leave */
    return !fixed(s, key) || open || own.at[key] == value;
}

/* Microbatches of 1, 2, 4, ... sequences: where one is too large, so are those above. */
static enum status try_microbatches(struct search *s, struct plan_choice choice) {
    const struct run_options *o = s->request->options;
    int64_t replicas = choice.at[PLAN_DP];
    int64_t share = (o->train.global_batch + replicas - 1) / replicas;
    bool fits = true;
    if (fixed(s, PLAN_MICRO_BATCH)) {
        choice.at[PLAN_MICRO_BATCH] = o->train.micro_batch;
        return try_choice(s, &choice, &fits);
    }
    for (int64_t micro = 1; micro <= share && fits; micro *= 2) {
        if (micro > 1 && micro * o->data.sequence_length > MOST_MICROBATCH_TOKENS) break;
        choice.at[PLAN_MICRO_BATCH] = micro;
        TRY(try_choice(s, &choice, &fits));
    }
    return STATUS_OK;
}

/* ZeRO levels, for as many replicas as there are, and recomputation. */
static enum status try_sharing(struct search *s, struct plan_choice choice) {
    bool alone = choice.at[PLAN_DP] * choice.at[PLAN_CP] == 1;
    const struct run_options options = plan_options(s->request->options, &choice);
    int own = run_options_zero(&options, s->ranks);
    for (int zero = 0; zero <= 3; zero++) {
        if (fixed(s, PLAN_ZERO) ? zero != own : alone && zero > 0) continue;
        choice.at[PLAN_ZERO] = zero;
        for (int recompute = RECOMPUTE_NONE; recompute <= RECOMPUTE_FULL; recompute++) {
            if (!may(s, PLAN_RECOMPUTE, recompute)) continue;
            choice.at[PLAN_RECOMPUTE] = recompute;
            TRY(try_microbatches(s, choice));
        }
    }
    return STATUS_OK;
}

/* gpipe takes as long as 1f1b and more memory: only where it is asked for. */
static enum status try_schedules(struct search *s, struct plan_choice choice) {
    bool pipeline = choice.at[PLAN_PP] > 1;
    for (int kind = PIPELINE_GPIPE; kind <= PIPELINE_ZB_H1; kind++) {
        bool wanted = fixed(s, PLAN_SCHEDULE) || kind == PIPELINE_1F1B ||
                      (pipeline && kind != PIPELINE_GPIPE);
        bool cut = kind == PIPELINE_INTERLEAVED && pipeline;
        if (!wanted || !may(s, PLAN_SCHEDULE, kind)) continue;
        choice.at[PLAN_SCHEDULE] = kind;
        for (int chunks = cut ? 2 : 1; chunks <= (cut ? MOST_CHUNKS : 1); chunks *= 2) {
            if (cut && !may(s, PLAN_CHUNKS, chunks)) continue;
            choice.at[PLAN_CHUNKS] = chunks;
            TRY(try_sharing(s, choice));
        }
    }
    return STATUS_OK;
}

static bool suits(const struct search *s, int tp, int cp, int pp) {
    const struct plan_request *request = s->request;
    int64_t length = request->options->data.sequence_length;
    int share = tp * cp * pp;
    bool given = fixed(s, PLAN_TP), context = fixed(s, PLAN_CP) || length / cp >= LEAST_CONTEXT;
    return s->ranks % share == 0 && (request->per_node % tp == 0 || given) &&
           (cp == 1 || context) && pp <= s->config.layers &&
           s->ranks / share <= request->options->train.global_batch && may(s, PLAN_TP, tp) &&
           may(s, PLAN_CP, cp) && may(s, PLAN_PP, pp) && may(s, PLAN_DP, s->ranks / share) &&
           shard_check(&s->config, tp) == STATUS_OK;
}

static enum status try_meshes(struct search *s) {
    for (int tp = 1; tp <= s->ranks; tp++)
        for (int cp = 1; tp * cp <= s->ranks; cp++)
            for (int pp = 1; tp * cp * pp <= s->ranks; pp++) {
                if (!suits(s, tp, cp, pp)) continue;
                struct plan_choice choice = s->start;
                choice.at[PLAN_TP] = tp;
                choice.at[PLAN_CP] = cp;
                choice.at[PLAN_PP] = pp;
                choice.at[PLAN_DP] = s->ranks / (tp * cp * pp);
                TRY(try_schedules(s, choice));
            }
    return STATUS_OK;
}

/* All again with another value of a key that the options have otherwise. */
static enum status try_with(struct search *s, enum plan_key key, int64_t value) {
    s->start = choice_of(s->request->options);
    if (s->start.at[key] == value || !may(s, key, value)) return STATUS_OK;
    s->start.at[key] = value;
    s->result->less_state = true;
    return try_meshes(s);
}

/* State in the host's memory takes none of the device's, in 8 bits or not: nobody needs both. */
static enum status try_all(struct search *s) {
    TRY(try_meshes(s));
    if (s->result->count > 0 || s->result->tried == 0) return STATUS_OK;
    TRY(try_with(s, PLAN_OPTIMIZER, OPTIMIZER_ADAMW8));
    if (s->request->device.shared_memory) return STATUS_OK;
    return try_with(s, PLAN_OFFLOAD, OFFLOAD_OPTIMIZER);
}

static int by_time(const void *a, const void *b) {
    const struct plan_candidate *x = a, *y = b;
    double d = x->time.seconds - y->time.seconds;
    if (d == 0.0) d = x->device_bytes - y->device_bytes;
    return (d > 0.0) - (d < 0.0);
}

static double gib(double bytes) {
    return bytes / (1 << 30);
}

/* "weights 1.2, gradients 0.3": what there is of each. */
static void list_kinds(char *text, size_t bytes, const struct trainer_memory *memory) {
    struct trainer_memory_part parts[TRAINER_MEMORY_PARTS];
    size_t used = 0;
    trainer_memory_parts(memory, parts);
    for (int i = 0; i < TRAINER_MEMORY_PARTS; i++) {
        if (parts[i].bytes == 0) continue;
        int more = snprintf(text + used, bytes - used, "%s%s %.1f", used ? ", " : "", parts[i].name,
                            gib((double)parts[i].bytes));
        used += (size_t)more;
    }
}

static enum status refuse(const struct search *s) {
    const struct plan_request *r = s->request;
    const struct plan_candidate *least = &s->result->smallest;
    const int64_t *at = least->choice.at;
    if (s->result->tried == 0)
        return status_fail(STATUS_CONFIG,
                           "no layout of %d ranks suits the model: %d layers, %d heads, "
                           "train.global_batch %lld",
                           s->ranks, s->config.layers, s->config.heads,
                           (long long)r->options->train.global_batch);
    char kinds[512];
    list_kinds(kinds, sizeof kinds, &least->memory);
    return status_fail(
        STATUS_MEMORY,
        "no layout of %d ranks fits: the smallest of %lld takes %.1f GiB of a %s's %.1f GiB, %.1f "
        "GiB too much (tp %lld, cp %lld, pp %lld, dp %lld, zero %lld, micro_batch %lld, recompute "
        "%s, optimizer %s, offload %s; of a rank %s GiB): take more ranks",
        s->ranks, (long long)s->result->tried, gib(least->device_bytes),
        r->device.shared_memory ? "node" : r->device.name, gib(r->device.memory),
        gib(least->device_bytes - r->device.memory), (long long)at[PLAN_TP], (long long)at[PLAN_CP],
        (long long)at[PLAN_PP], (long long)at[PLAN_DP], (long long)at[PLAN_ZERO],
        (long long)at[PLAN_MICRO_BATCH], train_recompute_words[at[PLAN_RECOMPUTE]],
        train_optimizer_words[at[PLAN_OPTIMIZER]], train_offload_words[at[PLAN_OFFLOAD]], kinds);
}

enum status plan_search(struct plan_result *result, const struct plan_request *request) {
    *result = (struct plan_result){0};
    struct search s = {.request = request,
                       .result = result,
                       .start = choice_of(request->options),
                       .ranks = request->nodes * request->per_node,
                       .smallest = INFINITY};
    TRY(trainer_read_config(request->options, &s.config));
    TRY(plan_read_model(&result->model, request->options));
    s.stages = calloc((size_t)s.ranks, sizeof *s.stages);
    if (!s.stages) return status_fail(STATUS_MEMORY, "no memory to plan %d ranks", s.ranks);
    enum status status = try_all(&s);
    free(s.stages);
    TRY(status);
    if (result->count == 0) return refuse(&s);
    qsort(result->candidates, (size_t)result->count, sizeof *result->candidates, by_time);
    return STATUS_OK;
}

void plan_result_free(struct plan_result *result) {
    free(result->candidates);
    *result = (struct plan_result){0};
}
