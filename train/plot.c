#define _GNU_SOURCE
#include "train/plot.h"

#include "train/svg.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- reading --------------------------------------------------------------------------------- */

static enum status series_add(struct plot_series *series, double step, double value) {
    if (series->count == series->capacity) {
        int64_t capacity = series->capacity * 2 + 256;
        double *steps = realloc(series->step, (size_t)capacity * sizeof *steps);
        if (steps) series->step = steps;
        double *values = realloc(series->value, (size_t)capacity * sizeof *values);
        if (values) series->value = values;
        if (!steps || !values) return status_fail(STATUS_MEMORY, "no memory for a plot's points");
        series->capacity = capacity;
    }
    series->step[series->count] = step;
    series->value[series->count++] = value;
    return STATUS_OK;
}

/* Points whose value isn't a finite number are left out. */
static enum status add_field(struct plot_series *series, const json_t *line, const char *field) {
    const json_t *step = json_object_get(line, "step"), *value = json_object_get(line, field);
    if (!json_is_integer(step) || !json_is_number(value)) return STATUS_OK;
    double number = json_number_value(value);
    return isfinite(number) ? series_add(series, (double)json_integer_value(step), number)
                            : STATUS_OK;
}

static enum status add_line(struct plot_run *run, const json_t *line) {
    const char *kind = json_string_value(json_object_get(line, "kind"));
    if (!kind) return STATUS_OK;
    if (strcmp(kind, "validation") == 0) return add_field(&run->validation, line, "loss");
    if (strcmp(kind, "train") != 0) return STATUS_OK;
    TRY(add_field(&run->loss, line, "loss"));
    return add_field(&run->rate, line, "tokens_per_second");
}

static enum status read_lines(struct plot_run *run, FILE *file, const char *path) {
    char *text = NULL;
    size_t capacity = 0;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && getline(&text, &capacity, file) > 0) {
        json_t *line = json_loads(text, 0, NULL);
        if (line) status = add_line(run, line);
        json_decref(line);
    }
    free(text);
    if (status == STATUS_OK && run->loss.count == 0)
        status = status_fail(STATUS_FORMAT, "%s: no line of a training step", path);
    return status;
}

enum status plot_run_read(struct plot_run *run, const char *path) {
    char file_path[4096];
    struct stat found;
    *run = (struct plot_run){.name = strdup(path)};
    if (!run->name) return status_fail(STATUS_MEMORY, "no memory for a plot's name");
    size_t length = strlen(run->name);
    while (length > 1 && run->name[length - 1] == '/') run->name[--length] = 0;
    bool directory = stat(path, &found) == 0 && S_ISDIR(found.st_mode);
    snprintf(file_path, sizeof file_path, "%s%s", run->name, directory ? "/metrics.jsonl" : "");
    FILE *file = fopen(file_path, "r");
    enum status status = STATUS_OK;
    if (file) {
        status = read_lines(run, file, file_path);
        fclose(file);
    } else {
        status = status_fail(STATUS_IO, "%s: %s", file_path, strerror(errno));
    }
    if (status != STATUS_OK) plot_run_free(run);
    return status;
}

static void series_free(struct plot_series *series) {
    free(series->step);
    free(series->value);
}

void plot_run_free(struct plot_run *run) {
    free(run->name);
    series_free(&run->loss);
    series_free(&run->validation);
    series_free(&run->rate);
    *run = (struct plot_run){0};
}

/* --- drawing ---------------------------------------------------------------------------------- */

enum {
    WIDTH = 900,
    LEFT = 84,
    RIGHT = 24,
    TOP = 30,
    LEGEND_LINE = 22,
    LOSS_HEIGHT = 340,
    RATE_HEIGHT = 160,
    GAP = 66,
    BOTTOM = 56,
    MAX_POINTS = 1000
};

static void widen(const struct plot_series *series, double *low, double *high) {
    for (int64_t i = 0; i < series->count; i++) {
        if (series->value[i] < *low) *low = series->value[i];
        if (series->value[i] > *high) *high = series->value[i];
    }
}

/* Means of neighbours where there are too many points to see. */
static void draw_line(FILE *out, const struct svg_axis *x, const struct svg_axis *y,
                      const struct plot_series *series, const char *colour, bool dashed) {
    int64_t bucket = (series->count + MAX_POINTS - 1) / MAX_POINTS;
    if (series->count == 0) return;
    fprintf(out, "<polyline stroke=\"%s\"%s points=\"", colour,
            dashed ? " stroke-dasharray=\"6 4\"" : "");
    for (int64_t first = 0; first < series->count; first += bucket) {
        int64_t end = first + bucket < series->count ? first + bucket : series->count;
        double step = 0.0, value = 0.0;
        for (int64_t i = first; i < end; i++) {
            step += series->step[i];
            value += series->value[i];
        }
        fprintf(out, "%s%.2f,%.2f", first ? " " : "", svg_place(x, step / (double)(end - first)),
                svg_place(y, value / (double)(end - first)));
    }
    fprintf(out, "\"/>\n");
}

static void draw_dots(FILE *out, const struct svg_axis *x, const struct svg_axis *y,
                      const struct plot_series *series, const char *colour) {
    if (series->count > MAX_POINTS / 4) return;
    for (int64_t i = 0; i < series->count; i++)
        fprintf(out, "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"3\" fill=\"%s\"/>\n",
                svg_place(x, series->step[i]), svg_place(y, series->value[i]), colour);
}

static const char *colour_of(int run, bool validation, int count) {
    /* one run: another colour tells validation; several: a colour a run */
    return svg_colours[count == 1 ? (validation ? 1 : 0) : run % SVG_COLOURS];
}

static int draw_legend_entry(FILE *out, int y, const char *name, const char *what,
                             const char *colour, bool validation) {
    fprintf(out,
            "<line stroke=\"%s\" stroke-width=\"2\"%s x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>",
            colour, validation ? " stroke-dasharray=\"6 4\"" : "", LEFT, y, LEFT + 28, y);
    fprintf(out, "<text x=\"%d\" y=\"%d\">", LEFT + 36, y + 4);
    svg_print_text(out, name);
    fprintf(out, " %s</text>\n", what);
    return y + LEGEND_LINE;
}

static int legend_lines(const struct plot_run *runs, int count) {
    int lines = count;
    for (int i = 0; i < count; i++) lines += runs[i].validation.count > 0;
    return lines;
}

static void draw_header(FILE *out, const struct plot_run *runs, int count, int height) {
    svg_print_header(out, WIDTH, height);
    int y = TOP;
    for (int i = 0; i < count; i++) {
        y = draw_legend_entry(out, y, runs[i].name, "train", colour_of(i, false, count), false);
        if (runs[i].validation.count > 0)
            y = draw_legend_entry(out, y, runs[i].name, "validation", colour_of(i, true, count),
                                  true);
    }
}

static void draw(FILE *out, const struct plot_run *runs, int count) {
    double last = 0.0, low = INFINITY, high = -INFINITY, none = 0.0, fastest = 0.0;
    for (int i = 0; i < count; i++) {
        const struct plot_series *loss = &runs[i].loss;
        last = fmax(last, loss->step[loss->count - 1]);
        widen(loss, &low, &high);
        widen(&runs[i].validation, &low, &high);
        widen(&runs[i].rate, &none, &fastest);
    }
    int top = TOP + legend_lines(runs, count) * LEGEND_LINE, middle = top + LOSS_HEIGHT;
    int floor_y = middle + GAP + RATE_HEIGHT;
    struct svg_axis x = svg_axis_over(0.0, last, LEFT, WIDTH - RIGHT);
    struct svg_axis losses = svg_axis_over(low, high, middle, top);
    struct svg_axis rates = svg_axis_over(0.0, fastest, floor_y, middle + GAP);
    draw_header(out, runs, count, floor_y + BOTTOM);
    svg_print_axes(out, &x, &losses, "loss");
    svg_print_axes(out, &x, &rates, "tokens / s");
    fprintf(out, "<text class=\"label\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">step</text>\n",
            (LEFT + WIDTH - RIGHT) / 2, floor_y + 42);
    for (int i = 0; i < count; i++) {
        const char *colour = colour_of(i, false, count), *held = colour_of(i, true, count);
        draw_line(out, &x, &losses, &runs[i].loss, colour, false);
        draw_line(out, &x, &losses, &runs[i].validation, held, true);
        draw_dots(out, &x, &losses, &runs[i].validation, held);
        draw_line(out, &x, &rates, &runs[i].rate, colour, false);
    }
    fprintf(out, "</svg>\n");
}

enum status plot_draw(const struct plot_run *runs, int count, char **svg) {
    size_t bytes;
    *svg = NULL;
    FILE *out = open_memstream(svg, &bytes);
    if (out) draw(out, runs, count);
    if (out && fclose(out) == 0) return STATUS_OK;
    free(*svg);
    *svg = NULL;
    return status_fail(STATUS_MEMORY, "no memory to draw a plot");
}
