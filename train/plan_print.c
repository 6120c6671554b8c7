#define _GNU_SOURCE
#include "train/plan_print.h"

#include "core/json_util.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *recompute_word(const struct plan_choice *choice) {
    return train_recompute_words[choice->at[PLAN_RECOMPUTE]];
}

const char *plan_print_schedule(char text[32], const struct plan_choice *choice) {
    const int64_t *at = choice->at;
    if (at[PLAN_PP] == 1) return "-";
    const char *kind = pipeline_schedule_words[at[PLAN_SCHEDULE]];
    if (at[PLAN_SCHEDULE] != PIPELINE_INTERLEAVED) return kind;
    snprintf(text, 32, "%s/%lld", kind, (long long)at[PLAN_CHUNKS]);
    return text;
}

/* "adamw", "8bit+host": the optimizer's state, and where it is. */
static const char *state_words(char text[32], const struct plan_choice *choice) {
    bool small = choice->at[PLAN_OPTIMIZER] == OPTIMIZER_ADAMW8;
    bool away = choice->at[PLAN_OFFLOAD] == OFFLOAD_OPTIMIZER;
    snprintf(text, 32, "%s%s", small ? "8bit" : "adamw", away ? "+host" : "");
    return text;
}

static double gib(size_t bytes) {
    return (double)bytes / (1 << 30);
}

const char *plan_print_seconds(char text[16], double seconds) {
    if (seconds < 1e-3)
        snprintf(text, 16, "%.4g us", 1e6 * seconds);
    else if (seconds < 1.0)
        snprintf(text, 16, "%.4g ms", 1e3 * seconds);
    else if (seconds < 1e3)
        snprintf(text, 16, "%.4g s", seconds);
    else
        snprintf(text, 16, "%.0f s", fmin(seconds, 1e9));
    return text;
}

/* Of a step, in parts of its time. */
static double bubble_of(const struct plan_time *time) {
    return time->bubble / time->seconds;
}

static double communication_of(const struct plan_time *time) {
    return (time->tensor + time->replicas) / time->seconds;
}

static void print_row(FILE *out, const struct plan_candidate *c) {
    char schedule[32], state[32], step[16];
    const int64_t *at = c->choice.at;
    const struct trainer_memory *m = &c->memory;
    fprintf(out, "%5lld %3lld %3lld %3lld  %-13s %4lld %5lld %-9s %-10s ", (long long)at[PLAN_DP],
            (long long)at[PLAN_PP], (long long)at[PLAN_TP], (long long)at[PLAN_CP],
            plan_print_schedule(schedule, &c->choice), (long long)at[PLAN_ZERO],
            (long long)at[PLAN_MICRO_BATCH], recompute_word(&c->choice),
            state_words(state, &c->choice));
    fprintf(out, "%8.2f %8.2f %8.2f %8.2f %8.2f %8.2f %7.2f  ", gib(m->weights + m->adapter),
            gib(m->gradients), gib(m->optimizer), gib(m->activations),
            gib(m->scratch + m->batches + m->snapshot), gib(trainer_memory_total(m)),
            gib((size_t)c->host_bytes));
    fprintf(out, "%9s %10.0f %5.1f%% %6.1f%% %5.1f%%\n", plan_print_seconds(step, c->time.seconds),
            c->time.tokens_per_second, 100.0 * c->time.mfu, 100.0 * bubble_of(&c->time),
            100.0 * communication_of(&c->time));
}

static int64_t shown(const struct plan_result *result, int64_t most) {
    return most > 0 && most < result->count ? most : result->count;
}

/* What the options ask for does not fit. */
static void print_less_state(FILE *out, const struct plan_request *request) {
    const struct train_options *asked = &request->options->train;
    fprintf(out,
            "none fits with train.optimizer %s and train.offload %s: these have less state on the "
            "device\n",
            train_optimizer_words[asked->optimizer], train_offload_words[asked->offload]);
}

void plan_print_table(FILE *out, const struct plan_request *request,
                      const struct plan_result *result, int64_t most) {
    const struct plan_device *d = &request->device;
    int64_t rows = shown(result, most);
    fprintf(out,
            "%d ranks: %d nodes of %d, %s, %.1f GiB a %s less %.2f GiB a rank that is not its "
            "arenas'\n%d of %lld layouts fit, fastest first; GiB of the rank that takes most\n",
            request->nodes * request->per_node, request->nodes, request->per_node, d->name,
            d->memory / (1 << 30), d->shared_memory ? "node" : "device", d->reserve / (1 << 30),
            result->count, (long long)result->tried);
    if (result->less_state) print_less_state(out, request);
    fprintf(
        out,
        "\n%5s %3s %3s %3s  %-13s %4s %5s %-9s %-10s %8s %8s %8s %8s %8s %8s %7s  %9s %10s %6s %7s "
        "%6s\n",
        "dp", "pp", "tp", "cp", "schedule", "zero", "micro", "recompute", "state", "weights",
        "gradnt", "optimzr", "activtn", "rest", "total", "host", "step", "tokens/s", "MFU",
        "bubble", "comm");
    for (int64_t i = 0; i < rows; i++) print_row(out, &result->candidates[i]);
    if (result->candidates[0].waits)
        fprintf(out, "no room beside the first for a copy of what is saved: its steps wait for "
                     "checkpoints\n");
    if (rows < result->count)
        fprintf(out, "... and %lld more: --top 0 shows all\n", (long long)(result->count - rows));
}

static json_t *bytes_of(const struct trainer_memory *memory) {
    struct trainer_memory_part parts[TRAINER_MEMORY_PARTS];
    json_t *bytes = json_object();
    trainer_memory_parts(memory, parts);
    for (int i = 0; i < TRAINER_MEMORY_PARTS; i++)
        json_object_set_new(bytes, parts[i].name, json_integer((json_int_t)parts[i].bytes));
    json_object_set_new(bytes, "total", json_integer((json_int_t)trainer_memory_total(memory)));
    return bytes;
}

static json_t *json_of(const struct plan_candidate *c) {
    char schedule[32];
    const int64_t *at = c->choice.at;
    const struct plan_time *t = &c->time;
    return json_pack(
        "{sI sI sI sI ss sI sI ss ss ss so sf sb sf sf sf sf sf sf sf}", "dp",
        (json_int_t)at[PLAN_DP], "pp", (json_int_t)at[PLAN_PP], "tp", (json_int_t)at[PLAN_TP], "cp",
        (json_int_t)at[PLAN_CP], "schedule", plan_print_schedule(schedule, &c->choice), "zero",
        (json_int_t)at[PLAN_ZERO], "micro_batch", (json_int_t)at[PLAN_MICRO_BATCH], "recompute",
        recompute_word(&c->choice), "optimizer", train_optimizer_words[at[PLAN_OPTIMIZER]],
        "offload", train_offload_words[at[PLAN_OFFLOAD]], "bytes", bytes_of(&c->memory),
        "host_bytes", c->host_bytes, "checkpoints_block", c->waits, "device_bytes", c->device_bytes,
        "seconds", t->seconds, "tokens_per_second", t->tokens_per_second, "mfu", t->mfu, "bubble",
        bubble_of(t), "communication", communication_of(t), "optimizer_seconds", t->optimizer);
}

enum status plan_print_json(FILE *out, const struct plan_request *request,
                            const struct plan_result *result, int64_t most) {
    json_t *rows = json_array();
    for (int64_t i = 0; i < shown(result, most); i++)
        json_array_append_new(rows, json_of(&result->candidates[i]));
    json_t *root = json_pack("{si si ss sf sf sI si so}", "nodes", request->nodes, "ranks_per_node",
                             request->per_node, "device", request->device.name, "memory",
                             request->device.memory, "reserve", request->device.reserve, "tried",
                             (json_int_t)result->tried, "fit", result->count, "layouts", rows);
    char *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    if (!text) return status_fail(STATUS_MEMORY, "no memory for a plan as JSON");
    fprintf(out, "%s\n", text);
    free(text);
    return STATUS_OK;
}
