#define _GNU_SOURCE
#include "train/metrics.h"

#include "core/atomic_file.h"
#include "core/log.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

double metrics_flops_per_token(const struct trainer *t) {
    const struct model_config *c = &t->model.config;
    double matrices = (double)model_config_parameters(c);
    if (!c->tied) matrices -= (double)(c->vocab * c->hidden);
    double reach = (double)t->options->data.sequence_length / 2.0;
    double attention = 12.0 * c->layers * c->heads * c->head_dim * reach;
    return (t->trained ? 4.0 : 6.0) * matrices + attention;
}

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

enum status metrics_open(struct metrics *metrics, const struct trainer *t) {
    *metrics = (struct metrics){.trainer = t, .started = now()};
    metrics->flops_per_token = metrics_flops_per_token(t);
    metrics->peak_flops = t->kernels->peak_fma(t->threads) * t->parallel->world.size;
    metrics->terminal = isatty(STDERR_FILENO);
    if (t->parallel->world.rank != 0) return STATUS_OK;
    char path[4096];
    metrics_path(t, path);
    TRY(drop_lost_lines(path, t->step));
    metrics->file = fopen(path, "ab");
    if (!metrics->file) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    return STATUS_OK;
}

void metrics_close(struct metrics *metrics) {
    if (metrics->terminal && metrics->file) fputc('\n', stderr);
    if (metrics->file) fclose(metrics->file);
    metrics->file = NULL;
}

static enum status write_line(struct metrics *metrics, json_t *object) {
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(object);
    bool written = text && fprintf(metrics->file, "%s\n", text) > 0 && fflush(metrics->file) == 0;
    free(text);
    return written ? STATUS_OK
                   : status_fail(STATUS_IO, "%s/metrics.jsonl: %s",
                                 metrics->trainer->options->train.out, strerror(errno));
}

static double resident_mib(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024.0;
}

static void print_bar(const struct metrics *metrics, const struct step_report *report,
                      double rate) {
    enum { WIDTH = 24 };
    const struct trainer *t = metrics->trainer;
    int done = (int)(WIDTH * report->step / t->steps);
    double left =
        (now() - metrics->started) / (double)report->step * (double)(t->steps - report->step);
    fprintf(stderr, "\r[%.*s%.*s] %lld/%lld loss %.4f lr %.2e %.0f tok/s %d:%02d left \033[K", done,
            "========================", WIDTH - done, "                        ",
            (long long)report->step, (long long)t->steps, report->loss, report->lr, rate,
            (int)(left / 60.0), (int)left % 60);
}

enum status metrics_step(struct metrics *metrics, const struct step_report *report) {
    const struct trainer *t = metrics->trainer;
    metrics->held_tokens += report->tokens;
    metrics->held_seconds += report->seconds;
    bool due = report->step % t->options->train.log_every == 0 || report->step == t->steps;
    if (!due || !metrics->file) return STATUS_OK;
    double rate = (double)metrics->held_tokens / metrics->held_seconds;
    double flops = rate * metrics->flops_per_token;
    metrics->held_tokens = 0;
    metrics->held_seconds = 0.0;
    if (metrics->terminal) {
        print_bar(metrics, report, rate);
    } else {
        log_line(LOG_INFO,
                 "event=step step=%lld loss=%.6f grad_norm=%.4f lr=%.3e tokens=%lld tok_per_s=%.0f "
                 "gflops=%.1f mfu=%.3f rss_mib=%.0f",
                 (long long)report->step, report->loss, report->gradient_norm, report->lr,
                 (long long)t->tokens, rate, flops * 1e-9, flops / metrics->peak_flops,
                 resident_mib());
    }
    return write_line(metrics,
                      json_pack("{s:s, s:I, s:f, s:f, s:f, s:I, s:f, s:f, s:f, s:f, s:f}", "kind",
                                "train", "step", (json_int_t)report->step, "loss", report->loss,
                                "grad_norm", report->gradient_norm, "lr", report->lr, "tokens",
                                (json_int_t)t->tokens, "tokens_per_second", rate, "gflops",
                                flops * 1e-9, "mfu", flops / metrics->peak_flops, "rss_mib",
                                resident_mib(), "seconds", now() - metrics->started));
}

enum status metrics_validation(struct metrics *metrics, double loss, bool best) {
    const struct trainer *t = metrics->trainer;
    if (!metrics->file) return STATUS_OK;
    log_line(LOG_INFO, "%sevent=validation step=%lld loss=%.6f perplexity=%.4f best=%s",
             metrics->terminal ? "\n" : "", (long long)t->step, loss, exp(loss),
             best ? "yes" : "no");
    return write_line(metrics,
                      json_pack("{s:s, s:I, s:f, s:f}", "kind", "validation", "step",
                                (json_int_t)t->step, "loss", loss, "perplexity", exp(loss)));
}
