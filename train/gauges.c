#define _GNU_SOURCE
#include "train/gauges.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum group { RUN, STEP, VALIDATION };

struct gauge {
    enum group group;
    const char *tag;  /* in TensorBoard; NULL: not there */
    const char *name; /* in Prometheus, after "strata_train_" */
    const char *type, *help;
    size_t offset;
};

#define VALUE(name) offsetof(struct gauge_values, name)
static const struct gauge table[] = {
    {RUN, NULL, "step", "gauge", "Steps done.", VALUE(step)},
    {RUN, NULL, "steps", "gauge", "Steps of the whole run.", VALUE(steps)},
    {RUN, NULL, "tokens_total", "counter", "Tokens trained on.", VALUE(tokens)},
    {STEP, "train/loss", "loss", "gauge", "Mean token loss of the last logged step.", VALUE(loss)},
    {STEP, "train/gradient_norm", "gradient_norm", "gauge", "Global norm before clipping.",
     VALUE(gradient_norm)},
    {STEP, "train/learning_rate", "learning_rate", "gauge", "Of the last logged step.", VALUE(lr)},
    {STEP, "speed/tokens_per_second", "tokens_per_second", "gauge", "Of all ranks together.",
     VALUE(rate)},
    {STEP, "speed/flops_per_second", "flops_per_second", "gauge", "Of all ranks together.",
     VALUE(flops)},
    {STEP, "speed/mfu", "mfu_ratio", "gauge", "FLOP/s over the peak of the ranks.", VALUE(mfu)},
    {STEP, "memory/resident_peak_bytes", "resident_peak_bytes", "gauge",
     "Largest resident memory of rank 0 so far.", VALUE(resident_bytes)},
    {STEP, "train/skipped_steps", "skipped_steps_total", "counter",
     "Optimizer steps that were skipped.", VALUE(skipped)},
    {VALIDATION, "validation/loss", "validation_loss", "gauge", "Of the last validation.",
     VALUE(validation_loss)},
    {VALIDATION, "validation/perplexity", "validation_perplexity", "gauge",
     "Of the last validation.", VALUE(perplexity)},
};
enum { GAUGES = sizeof table / sizeof *table };

static double value_of(const struct gauges *gauges, const struct gauge *gauge) {
    double value;
    memcpy(&value, (const char *)&gauges->values + gauge->offset, sizeof value);
    return value;
}

enum status gauges_open(struct gauges *gauges, const char *out, int ranks, int64_t step,
                        bool tensorboard) {
    char folder[4096];
    *gauges = (struct gauges){
        .out = out, .ranks = ranks, .values = {.validation_loss = NAN, .perplexity = NAN}};
    snprintf(folder, sizeof folder, "%s/tensorboard", out);
    return tensorboard ? event_file_open(&gauges->events, folder, step + 1) : STATUS_OK;
}

void gauges_close(struct gauges *gauges) {
    event_file_close(&gauges->events);
    *gauges = (struct gauges){0};
}

/* A label's value: backslash, quote and newline are escaped. */
static void print_label(FILE *out, const char *text) {
    for (; *text; text++) {
        if (*text == '\\' || *text == '"') fputc('\\', out);
        if (*text == '\n')
            fputs("\\n", out);
        else
            fputc(*text, out);
    }
}

/* The format knows NaN, +Inf and -Inf; a value that isn't known yet is left out instead. */
static void print_gauge(FILE *out, const struct gauges *gauges, const struct gauge *gauge) {
    double value = value_of(gauges, gauge);
    if (gauge->group == VALIDATION && isnan(value)) return;
    fprintf(out, "# HELP strata_train_%s %s\n# TYPE strata_train_%s %s\nstrata_train_%s{run=\"",
            gauge->name, gauge->help, gauge->name, gauge->type, gauge->name);
    print_label(out, gauges->out);
    if (isfinite(value))
        fprintf(out, "\",ranks=\"%d\"} %.17g\n", gauges->ranks, value);
    else
        fprintf(out, "\",ranks=\"%d\"} %s\n", gauges->ranks,
                isnan(value)     ? "NaN"
                : signbit(value) ? "-Inf"
                                 : "+Inf");
}

/* Not synced: after a crash of the machine the run writes it anew. */
static enum status replace_text(const struct gauges *gauges) {
    char path[4096], temporary[4096];
    snprintf(path, sizeof path, "%s/metrics.prom", gauges->out);
    snprintf(temporary, sizeof temporary, "%s/.metrics.prom.tmp", gauges->out);
    FILE *out = fopen(temporary, "w");
    if (!out) return status_fail(STATUS_IO, "%s: %s", temporary, strerror(errno));
    for (int i = 0; i < GAUGES; i++) print_gauge(out, gauges, &table[i]);
    bool written = !ferror(out);
    if (fclose(out) != 0 || !written || rename(temporary, path) != 0)
        return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    return STATUS_OK;
}

static enum status tell(struct gauges *gauges, enum group group) {
    struct event_scalar scalars[GAUGES];
    int count = 0;
    if (!gauges->out) return STATUS_OK;
    for (int i = 0; i < GAUGES; i++) {
        if (table[i].group != group) continue;
        double value = value_of(gauges, &table[i]);
        scalars[count++] = (struct event_scalar){table[i].tag, value};
    }
    TRY(event_file_write(&gauges->events, (int64_t)gauges->values.step, scalars, count));
    return replace_text(gauges);
}

enum status gauges_step(struct gauges *gauges) {
    return tell(gauges, STEP);
}

enum status gauges_validation(struct gauges *gauges) {
    return tell(gauges, VALIDATION);
}
