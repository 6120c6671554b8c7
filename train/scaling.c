#define _GNU_SOURCE
#include "train/scaling.h"

#include "core/json_util.h"
#include "kernels/base/median.h"
#include "parallel/schedule.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- one run ---------------------------------------------------------------------------------- */

/* Step lines of the newest number of ranks. */
struct lines {
    int64_t count, capacity, ranks, threads, step;
    double *rates;     /* (capacity) owned */
    double peak, cost; /* of the last one: FLOP/s of all ranks, and FLOP a token */
};

static enum status add_line(struct lines *lines, const json_t *line) {
    const char *kind = json_string_value(json_object_get(line, "kind"));
    int64_t ranks = json_integer_value(json_object_get(line, "ranks"));
    double rate = json_number_value(json_object_get(line, "tokens_per_second"));
    double flops = json_number_value(json_object_get(line, "gflops")) * 1e9;
    double mfu = json_number_value(json_object_get(line, "mfu"));
    if (!kind || strcmp(kind, "train") != 0 || ranks < 1 || !(rate > 0.0) || !(mfu > 0.0))
        return STATUS_OK;
    if (ranks != lines->ranks) lines->count = 0;
    if (lines->count == lines->capacity) {
        int64_t capacity = lines->capacity * 2 + 64;
        double *rates = realloc(lines->rates, (size_t)capacity * sizeof *rates);
        if (!rates) return status_fail(STATUS_MEMORY, "no memory for a run's steps");
        lines->rates = rates;
        lines->capacity = capacity;
    }
    lines->rates[lines->count++] = rate;
    lines->ranks = ranks;
    lines->threads = json_integer_value(json_object_get(line, "threads"));
    lines->step = json_integer_value(json_object_get(line, "step"));
    lines->peak = flops / mfu;
    lines->cost = flops / rate;
    return STATUS_OK;
}

static enum status read_lines(struct lines *lines, const char *path) {
    char *text = NULL;
    size_t capacity = 0;
    enum status status = STATUS_OK;
    FILE *file = fopen(path, "r");
    if (!file) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    while (status == STATUS_OK && getline(&text, &capacity, file) > 0) {
        json_t *line = json_loads(text, 0, NULL); /* one that is cut short is passed over */
        if (line) status = add_line(lines, line);
        json_decref(line);
    }
    free(text);
    fclose(file);
    if (status == STATUS_OK && lines->count == 0)
        return status_fail(STATUS_FORMAT, "%s: no step with its ranks and tokens/s in it", path);
    return status;
}

static enum status read_metrics(struct scaling_run *run) {
    char path[4096];
    struct lines lines = {0};
    snprintf(path, sizeof path, "%s/metrics.jsonl", run->path);
    enum status status = read_lines(&lines, path);
    if (status == STATUS_OK) {
        int64_t warm_up = lines.count > 1 ? (lines.count + 3) / 4 : 0;
        run->ranks = lines.ranks;
        run->threads = lines.threads;
        run->last_step = lines.step;
        run->steps = lines.count - warm_up;
        run->rate = median(lines.rates + warm_up, run->steps, MEDIAN_MEAN);
        run->flops_per_token = lines.cost;
        run->mfu = run->rate * lines.cost / lines.peak;
    }
    free(lines.rates);
    return status;
}

__attribute__((format(printf, 2, 3))) static void append(char words[SCALING_WORDS_BYTES],
                                                         const char *format, ...) {
    size_t used = strlen(words);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words + used, SCALING_WORDS_BYTES - used, format, arguments);
    va_end(arguments);
}

/* Both texts at once. */
static void add_axis(struct scaling_run *run, const char *name, int64_t size) {
    if (size < 2) return;
    append(run->layout, "%s%s%lld", *run->layout ? " " : "", name, (long long)size);
    append(run->way, "%s%s", *run->way ? " " : "", name);
}

static void add_word(struct scaling_run *run, const char *word) {
    append(run->layout, "%s%s", *run->layout ? " " : "", word);
    append(run->way, "%s%s", *run->way ? " " : "", word);
}

/* What the ranks share, in words. */
static enum status describe(struct scaling_run *run) {
    const struct parallel_options *p = &run->options.parallel;
    int64_t others = p->tp * p->cp * p->pp, dp = run->ranks / others;
    int zero = run_options_zero(&run->options, (int)run->ranks);
    char word[64];
    if (run->ranks % others != 0)
        return status_fail(
            STATUS_FORMAT,
            "%s: its steps have %lld ranks, its config.yaml asks for a multiple of %lld", run->path,
            (long long)run->ranks, (long long)others);
    add_axis(run, "dp", dp);
    add_axis(run, "pp", p->pp);
    add_axis(run, "cp", p->cp);
    add_axis(run, "tp", p->tp);
    if (p->pp > 1) add_word(run, pipeline_schedule_words[p->schedule]);
    if (dp > 1 && zero > 0) {
        snprintf(word, sizeof word, "zero%d", zero);
        add_word(run, word);
    }
    if (dp > 1 && p->sync_every > 1) {
        snprintf(word, sizeof word, "sync%lld", (long long)p->sync_every);
        add_word(run, word);
    }
    if (!*run->layout) add_word(run, "-");
    return STATUS_OK;
}

/* A run whose traced step never came has no trace. */
static enum status read_trace(struct scaling_run *run) {
    char path[4096];
    struct stat found;
    struct timeline timeline;
    snprintf(path, sizeof path, "%s/trace-step-%lld.json", run->path,
             (long long)run->options.train.trace_step);
    if (stat(path, &found) != 0) return STATUS_OK;
    TRY(timeline_read(&timeline, path));
    run->traced = true;
    run->shares = timeline_mean(&timeline);
    timeline_free(&timeline);
    return STATUS_OK;
}

enum status scaling_run_read(struct scaling_run *run, const char *path) {
    char config[4096];
    struct stat found;
    *run = (struct scaling_run){.path = path};
    if (stat(path, &found) != 0) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(found.st_mode))
        return status_fail(STATUS_CONFIG, "%s is not the folder of a run", path);
    snprintf(config, sizeof config, "%s/config.yaml", path);
    run_options_tables(&run->options, run->tables);
    enum status status = config_load(run->tables, RUN_TABLES, config, NULL, 0);
    if (status != STATUS_OK) { /* nothing is owned then */
        memset(run->tables, 0, sizeof run->tables);
        return status;
    }
    TRY(read_metrics(run));
    TRY(describe(run));
    return read_trace(run);
}

void scaling_run_free(struct scaling_run *run) {
    if (run->tables[0].rows) config_free(run->tables, RUN_TABLES);
}

/* --- runs beside each other --------------------------------------------------------------------
 */

/* The keys that say what a step computes. */
static const char *const model_keys[] = {"model.path",    "model.config",         "model.dtype",
                                         "model.weights", "data.sequence_length", "train.mode",
                                         "lora.rank",     "lora.targets"};

struct comparison {
    const struct scaling_run *a, *b;
};

static enum status refuse_model(const struct config_change *change, void *context) {
    const struct comparison *compared = context;
    for (size_t i = 0; i < sizeof model_keys / sizeof *model_keys; i++)
        if (strcmp(change->key, model_keys[i]) == 0)
            return status_fail(
                STATUS_CONFIG,
                "%s and %s trained different models: %s is %s in one and %s in the other",
                compared->a->path, compared->b->path, change->key, change->was, change->is);
    return STATUS_OK;
}

static enum status check_models(const struct scaling *scaling) {
    const struct scaling_run *a = scaling->runs;
    for (int i = 1; i < scaling->run_count; i++) {
        const struct scaling_run *b = &scaling->runs[i];
        struct comparison compared = {a, b};
        TRY(config_compare(a->tables, b->tables, RUN_TABLES, refuse_model, &compared));
        if (fabs(a->flops_per_token / b->flops_per_token - 1.0) > 1e-4)
            return status_fail(STATUS_CONFIG,
                               "%s and %s trained different models: a token takes %.4g FLOP in one "
                               "and %.4g in the other",
                               a->path, b->path, a->flops_per_token, b->flops_per_token);
    }
    return STATUS_OK;
}

static double batch_of(const struct scaling_run *run, bool weak) {
    double batch = (double)run->options.train.global_batch;
    return weak ? batch / (double)run->ranks : batch;
}

static bool same_batch(const struct scaling_run *a, const struct scaling_run *b, bool weak) {
    int64_t x = a->options.train.global_batch, y = b->options.train.global_batch;
    return weak ? x * b->ranks == y * a->ranks : x == y;
}

static int by_ranks(const void *a, const void *b) {
    const struct scaling_run *x = *(const struct scaling_run *const *)a;
    const struct scaling_run *y = *(const struct scaling_run *const *)b;
    if (x->ranks != y->ranks) return x->ranks < y->ranks ? -1 : 1;
    int order = strcmp(x->layout, y->layout);
    return order ? order : (x > y) - (x < y);
}

/* The runs of `first`'s batch as a series; none where they all have as many ranks, or where one
 * before `first` has made it. */
static enum status add_series(struct scaling *scaling, const struct scaling_run *first, bool weak) {
    struct scaling_series *series = &scaling->series[scaling->series_count];
    *series = (struct scaling_series){.weak = weak, .batch = batch_of(first, weak)};
    series->runs = calloc((size_t)scaling->run_count, sizeof *series->runs);
    if (!series->runs) return status_fail(STATUS_MEMORY, "no memory for a series of runs");
    for (int i = 0; i < scaling->run_count; i++)
        if (same_batch(&scaling->runs[i], first, weak))
            series->runs[series->count++] = &scaling->runs[i];
    bool made = series->runs[0] != first;
    qsort(series->runs, (size_t)series->count, sizeof *series->runs, by_ranks);
    const struct scaling_run *base = series->runs[0];
    if (made || base->ranks == series->runs[series->count - 1]->ranks) {
        free(series->runs);
        series->runs = NULL;
        return STATUS_OK;
    }
    for (int i = 1; i < series->count && series->runs[i]->ranks == base->ranks; i++)
        if (series->runs[i]->rate > base->rate) base = series->runs[i];
    series->base = base;
    scaling->series_count++;
    return STATUS_OK;
}

static enum status group(struct scaling *scaling) {
    int64_t ranks = scaling->runs[0].ranks;
    bool several = false;
    for (int i = 1; i < scaling->run_count; i++) several |= scaling->runs[i].ranks != ranks;
    if (!several)
        return status_fail(STATUS_CONFIG,
                           "all runs have %lld rank%s: scaling is seen with two numbers "
                           "of ranks or more",
                           (long long)ranks, ranks == 1 ? "" : "s");
    for (int weak = 0; weak < 2; weak++)
        for (int i = 0; i < scaling->run_count; i++)
            TRY(add_series(scaling, &scaling->runs[i], weak));
    if (scaling->series_count > 0) return STATUS_OK;
    return status_fail(STATUS_CONFIG, "no two runs of different numbers of ranks have the same "
                                      "train.global_batch, or the same batch a rank");
}

static enum status read_runs(struct scaling *scaling, char *const *paths, int count) {
    scaling->runs = calloc((size_t)count, sizeof *scaling->runs);
    scaling->series = calloc((size_t)count * 2, sizeof *scaling->series);
    if (!scaling->runs || !scaling->series)
        return status_fail(STATUS_MEMORY, "no memory for %d runs", count);
    for (int i = 0; i < count; i++) {
        scaling->run_count++;
        TRY(scaling_run_read(&scaling->runs[i], paths[i]));
    }
    TRY(check_models(scaling));
    return group(scaling);
}

enum status scaling_open(struct scaling *scaling, char *const *paths, int count) {
    *scaling = (struct scaling){0};
    enum status status = read_runs(scaling, paths, count);
    if (status != STATUS_OK) scaling_close(scaling);
    return status;
}

void scaling_close(struct scaling *scaling) {
    for (int i = 0; i < scaling->run_count; i++) scaling_run_free(&scaling->runs[i]);
    for (int i = 0; i < scaling->series_count; i++) free(scaling->series[i].runs);
    free(scaling->runs);
    free(scaling->series);
    *scaling = (struct scaling){0};
}

double scaling_speedup(const struct scaling_series *series, const struct scaling_run *run) {
    return run->rate / series->base->rate;
}

double scaling_efficiency(const struct scaling_series *series, const struct scaling_run *run) {
    return scaling_speedup(series, run) * (double)series->base->ranks / (double)run->ranks;
}
