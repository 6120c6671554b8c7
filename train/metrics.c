#define _GNU_SOURCE
#include "train/metrics.h"

#include "core/atomic_file.h"
#include "core/log.h"
#include "kernels/base/clock.h"

#include <errno.h>
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void metrics_path(const struct trainer *t, char path[4096]) {
    snprintf(path, 4096, "%s/metrics.jsonl", t->options->train.out);
}

/* Keeps the lines up to the step we go on from. */
static enum status drop_lost_lines(const char *path, int64_t step) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return errno == ENOENT ? STATUS_OK
                               : status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    char *kept = NULL, *line = NULL;
    size_t kept_bytes = 0, capacity = 0;
    FILE *out = open_memstream(&kept, &kept_bytes);
    while (out && getline(&line, &capacity, file) > 0) {
        json_t *object = json_loads(line, 0, NULL);
        if (json_integer_value(json_object_get(object, "step")) <= step && object) fputs(line, out);
        json_decref(object);
    }
    fclose(file);
    free(line);
    enum status status = out && fclose(out) == 0
                             ? atomic_file_replace(path, kept, kept_bytes)
                             : status_fail(STATUS_MEMORY, "no memory to read %s", path);
    free(kept);
    return status;
}

/* All ranks are taken to be as fast as this one. */
static void probe_peak(struct metrics *metrics) {
    const struct trainer *t = metrics->trainer;
    if (metrics->probe_seconds >= METRICS_PROBE_SECONDS) return;
    double start = clock_seconds();
    double peak = t->kernels->peak_fma(t->threads) * t->parallel->world.size;
    metrics->peak_flops = fmax(metrics->peak_flops, peak);
    metrics->probe_seconds += clock_seconds() - start;
    metrics->probes++;
}

static enum status open_files(struct metrics *metrics) {
    const struct trainer *t = metrics->trainer;
    char path[4096];
    metrics_path(t, path);
    TRY(drop_lost_lines(path, t->step));
    metrics->file = fopen(path, "ab");
    if (!metrics->file) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    return gauges_open(&metrics->gauges, t->options->train.out, t->parallel->world.size, t->step,
                       t->options->train.tensorboard);
}

enum status metrics_open(struct metrics *metrics, const struct trainer *t) {
    *metrics = (struct metrics){.trainer = t};
    progress_begin(&metrics->progress, "train", t->steps);
    metrics->flops_per_token = model_config_training_flops(
        &t->model.config, t->options->data.sequence_length, t->trained != NULL);
    for (int i = 0; i < METRICS_PROBES; i++) probe_peak(metrics);
    return t->parallel->world.rank == 0 ? open_files(metrics) : STATUS_OK;
}

void metrics_close(struct metrics *metrics) {
    gauges_close(&metrics->gauges);
    if (!metrics->file) return;
    progress_end(&metrics->progress);
    fclose(metrics->file);
    metrics->file = NULL;
}

__attribute__((format(printf, 2, 3))) static enum status write_line(struct metrics *metrics,
                                                                    const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    bool written = vfprintf(metrics->file, format, arguments) > 0 && fflush(metrics->file) == 0;
    va_end(arguments);
    if (written) return STATUS_OK;
    return status_fail(STATUS_IO, "%s/metrics.jsonl: %s", metrics->trainer->options->train.out,
                       strerror(errno));
}

/* VmHWM: what getrusage says may be the process's that started us. */
static double peak_resident_mib(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    double kib = 0.0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lf", &kib) == 1) break;
    if (file) fclose(file);
    return kib / 1024.0;
}

/* The speeds since the last line. */
struct pace {
    double rate, flops; /* tokens and FLOP/s */
};

static void print_step(struct metrics *metrics, const struct step_report *report,
                       const struct pace *pace) {
    char details[128];
    if (metrics->progress.terminal) {
        snprintf(details, sizeof details, "step %lld/%lld loss %.4f lr %.2e %.0f tok/s",
                 (long long)report->step, (long long)metrics->trainer->steps, report->loss,
                 report->lr, pace->rate);
        progress_update(&metrics->progress, report->step, details);
        return;
    }
    log_line(LOG_INFO,
             "event=step step=%lld loss=%.6f grad_norm=%.4f lr=%.3e tokens=%lld tok_per_s=%.0f "
             "gflops=%.1f mfu=%.3f peak_rss_mib=%.0f",
             (long long)report->step, report->loss, report->gradient_norm, report->lr,
             (long long)metrics->trainer->tokens, pace->rate, pace->flops * 1e-9,
             pace->flops / metrics->peak_flops, peak_resident_mib());
}

static void fill_gauges(struct metrics *metrics, const struct step_report *report,
                        const struct pace *pace) {
    struct gauge_values *values = &metrics->gauges.values;
    values->step = (double)report->step;
    values->steps = (double)metrics->trainer->steps;
    values->loss = report->loss;
    values->gradient_norm = report->gradient_norm;
    values->lr = report->lr;
    values->tokens = (double)metrics->trainer->tokens;
    values->rate = pace->rate;
    values->flops = pace->flops;
    values->mfu = pace->flops / metrics->peak_flops;
    values->skipped = (double)metrics->trainer->guard.total_skipped;
    values->resident_bytes = peak_resident_mib() * 0x1p20;
}

/* JSON has no NaN and no infinity. */
static const char *json_number(char text[32], double value) {
    if (!isfinite(value)) return "null";
    snprintf(text, 32, "%.17g", value);
    return text;
}

enum status metrics_step(struct metrics *metrics, const struct step_report *report) {
    const struct trainer *t = metrics->trainer;
    metrics->held_tokens += report->tokens;
    metrics->held_seconds += report->seconds;
    bool due = report->step % t->options->train.log_every == 0 || report->step == t->steps ||
               report->verdict != GUARD_TAKE || report->rewind;
    if (!due || !metrics->file) return STATUS_OK;
    struct pace pace = {.rate = (double)metrics->held_tokens / metrics->held_seconds};
    pace.flops = pace.rate * metrics->flops_per_token;
    metrics->held_tokens = 0;
    metrics->held_seconds = 0.0;
    probe_peak(metrics);
    print_step(metrics, report, &pace);
    fill_gauges(metrics, report, &pace);
    TRY(gauges_step(&metrics->gauges));
    char loss[32], norm[32], skipped[64] = "";
    if (report->verdict != GUARD_TAKE)
        snprintf(skipped, sizeof skipped, ",\"skipped\":\"%s\"",
                 guard_verdict_name(report->verdict));
    return write_line(metrics,
                      "{\"kind\":\"train\",\"step\":%lld,\"loss\":%s,\"grad_norm\":%s,"
                      "\"lr\":%.9g,\"tokens\":%lld,\"tokens_per_second\":%.6g,\"gflops\":%.6g,"
                      "\"mfu\":%.6g,\"ranks\":%d,\"threads\":%d,\"peak_rss_mib\":%.6g,"
                      "\"seconds\":%.3f%s}\n",
                      (long long)report->step, json_number(loss, report->loss),
                      json_number(norm, report->gradient_norm), report->lr, (long long)t->tokens,
                      pace.rate, pace.flops * 1e-9, pace.flops / metrics->peak_flops,
                      t->parallel->world.size, t->threads, peak_resident_mib(),
                      progress_seconds(&metrics->progress), skipped);
}

enum status metrics_validation(struct metrics *metrics, double loss, bool best) {
    const struct trainer *t = metrics->trainer;
    if (!metrics->file) return STATUS_OK;
    progress_end(&metrics->progress);
    log_line(LOG_INFO, "event=validation step=%lld loss=%.6f perplexity=%.4f best=%s",
             (long long)t->step, loss, exp(loss), best ? "yes" : "no");
    metrics->gauges.values.step = (double)t->step;
    metrics->gauges.values.validation_loss = loss;
    metrics->gauges.values.perplexity = exp(loss);
    TRY(gauges_validation(&metrics->gauges));
    return write_line(
        metrics, "{\"kind\":\"validation\",\"step\":%lld,\"loss\":%.17g,\"perplexity\":%.9g}\n",
        (long long)t->step, loss, fmin(exp(loss), DBL_MAX)); /* JSON has no infinity */
}

enum status metrics_rewind(struct metrics *metrics, const struct rewind *rewind) {
    if (!metrics->file) return STATUS_OK;
    metrics_close(metrics);
    TRY(open_files(metrics));
    return write_line(metrics,
                      "{\"kind\":\"rewind\",\"step\":%lld,\"from\":%lld,\"sample\":%lld,"
                      "\"samples\":%lld}\n",
                      (long long)rewind->to + 1, (long long)rewind->from,
                      (long long)rewind->first_sample, (long long)rewind->samples);
}
