#include "train/plan_calibrate.h"

#include "train/plan_fit.h"
#include "train/plot.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define RATE(name, low, high)                                                                      \
    { #name, offsetof(struct plan_device, name), low, high }

/* The CPU's FLOP/s in the table are nominal: a fraction may be above 1. */
static const struct {
    const char *name;
    size_t offset;
    double low, high;
} rates[PLAN_RATES] = {
    RATE(product_fraction, 0.01, 8.0),   RATE(product_half, 0.5, 2000.0),
    RATE(attention_fraction, 0.01, 8.0), RATE(bandwidth_fraction, 0.02, 8.0),
    RATE(link_fraction, 0.02, 8.0),      RATE(crowding, 0.01, 1.0),
};

/* Of a rate's guess, where a measurement weighs 1. */
#define GUESS 0.1

struct plan_device plan_device_of_rank(const struct plan_device *device, int64_t threads) {
    struct plan_device rank = *device;
    if (!device->shared_memory) return rank;
    rank.flops_bf16 *= (double)threads;
    rank.flops_fp32 *= (double)threads;
    rank.bandwidth *= (double)threads;
    return rank;
}

struct run {
    struct plan_model model;
    struct plan_habits habits;
    struct plan_layout layout;
    int64_t threads;
};

struct comparison {
    const struct plan_device *device;
    struct plan_calibration *calibration;
    struct run *runs;
};

static double *rate_of(struct plan_device *device, int i) {
    return (double *)((char *)device + rates[i].offset);
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Tokens/s that a quarter of the steps reach: what others take from a machine now and then is not
 * the device's. The first two steps warm up. */
static enum status read_speed(const char *path, double *tokens_per_second) {
    struct plot_run run;
    TRY(plot_run_read(&run, path));
    struct plot_series *rate = &run.rate;
    int64_t first = rate->count > 4 ? 2 : 0, count = rate->count - first;
    if (count > 0) qsort(rate->value + first, (size_t)count, sizeof *rate->value, ascending);
    *tokens_per_second = count > 0 ? rate->value[first + count * 3 / 4] : 0.0;
    plot_run_free(&run);
    if (*tokens_per_second > 0.0) return STATUS_OK;
    return status_fail(STATUS_FORMAT, "%s: no step was timed", path);
}

static enum status describe_run(struct run *run, const struct run_options *o, const char *path,
                                int per_node, bool cpu) {
    const struct parallel_options *p = &o->parallel;
    if (p->dp == 0)
        return status_fail(STATUS_CONFIG,
                           "%s/config.yaml does not tell how many ranks there were: start runs to "
                           "calibrate by with parallel.dp",
                           path);
    if (cpu && o->train.threads == 0)
        return status_fail(STATUS_CONFIG,
                           "%s/config.yaml does not tell how many threads a rank had: start runs "
                           "to calibrate by with train.threads",
                           path);
    *run = (struct run){.habits = plan_habits_of(o), .threads = o->train.threads};
    TRY(plan_read_model(&run->model, o));
    return plan_layout_of(&run->layout, o, (int)(p->dp * p->cp * p->pp * p->tp), per_node);
}

static enum status read_run(struct run *run, struct plan_calibrated_run *measured, int per_node,
                            bool cpu) {
    struct run_options options = {0};
    struct config_table tables[RUN_TABLES];
    char config[4096];
    double speed;
    TRY(read_speed(measured->path, &speed));
    run_options_tables(&options, tables);
    snprintf(config, sizeof config, "%s/config.yaml", measured->path);
    TRY(config_load(tables, RUN_TABLES, config, NULL, 0));
    enum status status = describe_run(run, &options, measured->path, per_node, cpu);
    config_free(tables, RUN_TABLES);
    measured->measured = (double)(run->layout.global_batch * run->layout.length) / speed;
    return status;
}

static enum status compare(void *context, double *logs) {
    struct comparison *c = context;
    for (int i = 0; i < c->calibration->count; i++) {
        const struct run *run = &c->runs[i];
        struct plan_calibrated_run *known = &c->calibration->runs[i];
        const struct plan_device device = plan_device_of_rank(c->device, run->threads);
        struct plan_time time;
        TRY(plan_time(&time, &device, &run->model, &run->habits, &run->layout));
        known->predicted = time.seconds;
        logs[i] = log(time.seconds / known->measured);
    }
    return STATUS_OK;
}

static enum status fit(struct plan_device *device, struct comparison *comparison) {
    struct plan_calibration *calibration = comparison->calibration;
    struct plan_fit fit = {.rate_count = PLAN_RATES,
                           .measurement_count = calibration->count,
                           .compare = compare,
                           .context = comparison,
                           .weight = GUESS};
    for (int i = 0; i < PLAN_RATES; i++) {
        fit.rates[i] = (struct plan_rate){rate_of(device, i), rates[i].low, rates[i].high};
        calibration->names[i] = rates[i].name;
        calibration->before[i] = *rate_of(device, i);
    }
    TRY(plan_fit(&fit));
    for (int i = 0; i < PLAN_RATES; i++) calibration->after[i] = *rate_of(device, i);
    return STATUS_OK;
}

enum status plan_calibrate(struct plan_device *device, char *const *runs, int count, int per_node,
                           struct plan_calibration *calibration) {
    struct comparison comparison = {device, calibration,
                                    calloc((size_t)count, sizeof *comparison.runs)};
    *calibration = (struct plan_calibration){
        .runs = calloc((size_t)count, sizeof *calibration->runs), .count = count};
    enum status status = STATUS_OK;
    if (!calibration->runs || !comparison.runs)
        status = status_fail(STATUS_MEMORY, "no memory for %d runs", count);
    for (int i = 0; i < count && status == STATUS_OK; i++) {
        calibration->runs[i].path = runs[i];
        status =
            read_run(&comparison.runs[i], &calibration->runs[i], per_node, device->shared_memory);
    }
    if (status == STATUS_OK) status = fit(device, &comparison);
    free(comparison.runs);
    return status;
}

void plan_calibration_free(struct plan_calibration *calibration) {
    free(calibration->runs);
    *calibration = (struct plan_calibration){0};
}
