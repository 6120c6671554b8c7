#define _GNU_SOURCE
#include "train/plan_print.h"

#include "core/json_util.h"

#include <stdlib.h>
#include <string.h>

static const char *recompute_word(const struct plan_choice *choice) {
    return train_recompute_words[choice->at[PLAN_RECOMPUTE]];
}

/* "interleaved/4": with its chunks */
static const char *schedule_words(char text[32], const struct plan_choice *choice) {
    const int64_t *at = choice->at;
    if (at[PLAN_PP] == 1) return "-";
    const char *kind = pipeline_schedule_words[at[PLAN_SCHEDULE]];
    if (at[PLAN_SCHEDULE] != PIPELINE_INTERLEAVED) return kind;
    snprintf(text, 32, "%s/%lld", kind, (long long)at[PLAN_CHUNKS]);
    return text;
}

static double gib(size_t bytes) {
    return (double)bytes / (1 << 30);
}

/* Of a step, in parts of its time. */
static double bubble_of(const struct plan_time *time) {
    return time->bubble / time->seconds;
}

static double communication_of(const struct plan_time *time) {
    return (time->tensor + time->replicas) / time->seconds;
}

static void print_row(FILE *out, const struct plan_candidate *c) {
    char schedule[32];
    const int64_t *at = c->choice.at;
    const struct trainer_memory *m = &c->memory;
    fprintf(out, "%5lld %3lld %3lld %3lld  %-13s %4lld %5lld %-9s ", (long long)at[PLAN_DP],
            (long long)at[PLAN_PP], (long long)at[PLAN_TP], (long long)at[PLAN_CP],
            schedule_words(schedule, &c->choice), (long long)at[PLAN_ZERO],
            (long long)at[PLAN_MICRO_BATCH], recompute_word(&c->choice));
    fprintf(out, "%8.2f %8.2f %8.2f %8.2f %8.2f %8.2f  ", gib(m->weights + m->adapter),
            gib(m->gradients), gib(m->optimizer), gib(m->activations), gib(m->scratch + m->batches),
            gib(trainer_memory_total(m)));
    fprintf(out, "%9.3f %10.0f %5.1f%% %6.1f%% %5.1f%%\n", c->time.seconds,
            c->time.tokens_per_second, 100.0 * c->time.mfu, 100.0 * bubble_of(&c->time),
            100.0 * communication_of(&c->time));
}

static int64_t shown(const struct plan_result *result, int64_t most) {
    return most > 0 && most < result->count ? most : result->count;
}

void plan_print_table(FILE *out, const struct plan_request *request,
                      const struct plan_result *result, int64_t most) {
    const struct plan_device *d = &request->device;
    int64_t rows = shown(result, most);
    fprintf(out,
            "%d ranks: %d nodes of %d, %s, %.1f GiB a %s less %.2f GiB a rank that is not its "
            "arenas'\n%d of %lld layouts fit, fastest first; GiB of the rank that takes most\n\n",
            request->nodes * request->per_node, request->nodes, request->per_node, d->name,
            d->memory / (1 << 30), d->shared_memory ? "node" : "device", d->reserve / (1 << 30),
            result->count, (long long)result->tried);
    fprintf(
        out, "%5s %3s %3s %3s  %-13s %4s %5s %-9s %8s %8s %8s %8s %8s %8s  %9s %10s %6s %7s %6s\n",
        "dp", "pp", "tp", "cp", "schedule", "zero", "micro", "recompute", "weights", "gradnt",
        "optimzr", "activtn", "scratch", "total", "step s", "tokens/s", "MFU", "bubble", "comm");
    for (int64_t i = 0; i < rows; i++) print_row(out, &result->candidates[i]);
    if (rows < result->count)
        fprintf(out, "... and %lld more: --top 0 shows all\n", (long long)(result->count - rows));
}

static json_t *json_of(const struct plan_candidate *c) {
    char schedule[32];
    const int64_t *at = c->choice.at;
    const struct trainer_memory *m = &c->memory;
    const struct plan_time *t = &c->time;
    json_t *bytes =
        json_pack("{sI sI sI sI sI sI sI sI}", "weights", (json_int_t)m->weights, "adapter",
                  (json_int_t)m->adapter, "gradients", (json_int_t)m->gradients, "optimizer",
                  (json_int_t)m->optimizer, "activations", (json_int_t)m->activations, "scratch",
                  (json_int_t)m->scratch, "batches", (json_int_t)m->batches, "total",
                  (json_int_t)trainer_memory_total(m));
    return json_pack(
        "{sI sI sI sI ss sI sI ss so sf sf sf sf sf sf sf}", "dp", (json_int_t)at[PLAN_DP], "pp",
        (json_int_t)at[PLAN_PP], "tp", (json_int_t)at[PLAN_TP], "cp", (json_int_t)at[PLAN_CP],
        "schedule", schedule_words(schedule, &c->choice), "zero", (json_int_t)at[PLAN_ZERO],
        "micro_batch", (json_int_t)at[PLAN_MICRO_BATCH], "recompute", recompute_word(&c->choice),
        "bytes", bytes, "device_bytes", c->device_bytes, "seconds", t->seconds, "tokens_per_second",
        t->tokens_per_second, "mfu", t->mfu, "bubble", bubble_of(t), "communication",
        communication_of(t), "optimizer_seconds", t->optimizer);
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
