#define _GNU_SOURCE
#include "train/scaling.h"

#include "train/svg.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- tables ----------------------------------------------------------------------------------- */

static bool any_traced(const struct scaling_series *series) {
    for (int i = 0; i < series->count; i++)
        if (series->runs[i]->traced) return true;
    return false;
}

static int widest_layout(const struct scaling_series *series) {
    size_t widest = strlen("layout");
    for (int i = 0; i < series->count; i++)
        if (strlen(series->runs[i]->layout) > widest) widest = strlen(series->runs[i]->layout);
    return (int)widest;
}

static void print_row(const struct scaling_series *series, const struct scaling_run *run, int width,
                      bool traced, FILE *out) {
    fprintf(out, "%5lld  %7lld  %-*s  %10.1f  %7.2f  %9.1f%%  %5.1f%%", (long long)run->ranks,
            (long long)run->threads, width, run->layout, run->rate, scaling_speedup(series, run),
            100.0 * scaling_efficiency(series, run), 100.0 * run->mfu);
    if (run->traced)
        fprintf(out, "  %6.1f%%  %9.1f%%  %5.1f%%", 100.0 * run->shares.busy,
                100.0 * run->shares.collective, 100.0 * run->shares.bubble);
    else if (traced)
        fprintf(out, "  %7s  %10s  %6s", "-", "-", "-");
    fprintf(out, "  %s\n", run->path);
}

static void print_title(const struct scaling_series *series, FILE *out) {
    if (series->weak)
        fprintf(out, "weak scaling: batch %g a rank", series->batch);
    else
        fprintf(out, "strong scaling: global batch %g", series->batch);
}

static void print_series(const struct scaling_series *series, FILE *out) {
    int width = widest_layout(series);
    bool traced = any_traced(series);
    print_title(series, out);
    fprintf(out, ", sequences of %lld\n", (long long)series->base->options.data.sequence_length);
    fprintf(out, "ranks  threads  %-*s  %10s  speedup  efficiency     MFU%s  run\n", width,
            "layout", "tokens/s", traced ? "  compute  collective  bubble" : "");
    for (int i = 0; i < series->count; i++) print_row(series, series->runs[i], width, traced, out);
}

void scaling_print(const struct scaling *scaling, FILE *out) {
    for (int i = 0; i < scaling->series_count; i++) {
        if (i > 0) fputc('\n', out);
        print_series(&scaling->series[i], out);
    }
}

/* --- JSON ------------------------------------------------------------------------------------- */

static json_t *run_object(const struct scaling_run *run) {
    json_t *object = json_pack(
        "{s:s, s:I, s:I, s:s, s:I, s:I, s:I, s:f, s:f, s:f}", "run", run->path, "ranks",
        (json_int_t)run->ranks, "threads", (json_int_t)run->threads, "layout", run->layout,
        "global_batch", (json_int_t)run->options.train.global_batch, "sequence_length",
        (json_int_t)run->options.data.sequence_length, "steps", (json_int_t)run->steps,
        "tokens_per_second", run->rate, "mfu", run->mfu, "flops_per_token", run->flops_per_token);
    if (object && run->traced)
        json_object_set_new(object, "trace",
                            json_pack("{s:f, s:f, s:f}", "compute", run->shares.busy, "collective",
                                      run->shares.collective, "bubble", run->shares.bubble));
    return object;
}

static json_t *series_object(const struct scaling_series *series) {
    json_t *rows = json_array();
    for (int i = 0; i < series->count; i++) {
        const struct scaling_run *run = series->runs[i];
        json_array_append_new(rows, json_pack("{s:s, s:I, s:s, s:f, s:f, s:f, s:f}", "run",
                                              run->path, "ranks", (json_int_t)run->ranks, "layout",
                                              run->layout, "tokens_per_second", run->rate,
                                              "speedup", scaling_speedup(series, run), "efficiency",
                                              scaling_efficiency(series, run), "mfu", run->mfu));
    }
    return json_pack("{s:s, s:f, s:s, s:o}", "kind", series->weak ? "weak" : "strong",
                     series->weak ? "batch_per_rank" : "global_batch", series->batch, "base",
                     series->base->path, "rows", rows);
}

enum status scaling_json(const struct scaling *scaling, char **json) {
    json_t *runs = json_array(), *series = json_array();
    for (int i = 0; i < scaling->run_count; i++)
        json_array_append_new(runs, run_object(&scaling->runs[i]));
    for (int i = 0; i < scaling->series_count; i++)
        json_array_append_new(series, series_object(&scaling->series[i]));
    json_t *root = json_pack("{s:o, s:o}", "runs", runs, "series", series);
    *json = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(root);
    return *json ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory to write a scaling report");
}

/* --- the picture -------------------------------------------------------------------------------
 */

enum {
    WIDTH = 640,
    LEFT = 84,
    RIGHT = 24,
    TOP = 30,
    LEGEND_LINE = 22,
    PANEL_HEIGHT = 320,
    GAP = 66
};

/* One of the two panels: all series of a kind. `out` is NULL while its curves are counted. */
struct panel {
    FILE *out;
    const struct scaling *scaling;
    bool weak;
    int curves, legend_y;
    struct svg_axis x, y;
};

static void print_point(const struct panel *panel, double ranks, double speedup) {
    fprintf(panel->out, " %.2f,%.2f", svg_place(&panel->x, ranks), svg_place(&panel->y, speedup));
}

static void print_legend(struct panel *panel, const char *attributes, const char *what,
                         const char *way) {
    fprintf(panel->out,
            "<line %s stroke-width=\"2\" x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>"
            "<text x=\"%d\" y=\"%d\">",
            attributes, LEFT, panel->legend_y, LEFT + 28, panel->legend_y, LEFT + 36,
            panel->legend_y + 4);
    svg_print_text(panel->out, what);
    svg_print_text(panel->out, way);
    fputs("</text>\n", panel->out);
    panel->legend_y += LEGEND_LINE;
}

/* From the base through the runs that share their work in the same way. */
static void draw_curve(struct panel *panel, const struct scaling_series *series, const char *way) {
    const char *colour = svg_colours[panel->curves++ % SVG_COLOURS];
    char attributes[64], what[64];
    if (!panel->out) return;
    snprintf(attributes, sizeof attributes, "stroke=\"%s\"", colour);
    snprintf(what, sizeof what,
             series->weak ? "batch %g a rank: " : "global batch %g: ", series->batch);
    print_legend(panel, attributes, what, way);
    fprintf(panel->out, "<polyline stroke=\"%s\" points=\"", colour);
    print_point(panel, (double)series->base->ranks, 1.0);
    for (int i = 0; i < series->count; i++)
        if (series->runs[i] != series->base && strcmp(series->runs[i]->way, way) == 0)
            print_point(panel, (double)series->runs[i]->ranks,
                        scaling_speedup(series, series->runs[i]));
    fputs("\"/>\n", panel->out);
    for (int i = 0; i < series->count; i++)
        if (strcmp(series->runs[i]->way, way) == 0)
            fprintf(panel->out, "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"3\" fill=\"%s\"/>\n",
                    svg_place(&panel->x, (double)series->runs[i]->ranks),
                    svg_place(&panel->y, scaling_speedup(series, series->runs[i])), colour);
}

/* A curve a way of sharing; that of the base alone is no curve. */
static void draw_curves(struct panel *panel, const struct scaling_series *series) {
    for (int i = 0; i < series->count; i++) {
        const char *way = series->runs[i]->way;
        bool drawn = series->runs[i]->ranks == series->base->ranks;
        for (int j = 0; j < i; j++)
            drawn |= strcmp(series->runs[j]->way, way) == 0 &&
                     series->runs[j]->ranks > series->base->ranks;
        if (!drawn) draw_curve(panel, series, way);
    }
}

static int visit_curves(struct panel *panel) {
    for (int i = 0; i < panel->scaling->series_count; i++)
        if (panel->scaling->series[i].weak == panel->weak)
            draw_curves(panel, &panel->scaling->series[i]);
    return panel->curves;
}

static int count_curves(const struct scaling *scaling, bool weak) {
    struct panel panel = {.scaling = scaling, .weak = weak};
    return visit_curves(&panel);
}

/* The ideal line is that of the fewest ranks, the lowest of all. */
static void draw_panel(FILE *out, const struct scaling *scaling, bool weak, int top) {
    int curves = count_curves(scaling, weak), floor_y;
    double most = 1.0, fewest = INFINITY, highest = 1.0;
    for (int i = 0; i < scaling->series_count; i++) {
        const struct scaling_series *series = &scaling->series[i];
        if (series->weak != weak) continue;
        fewest = fmin(fewest, (double)series->base->ranks);
        most = fmax(most, (double)series->runs[series->count - 1]->ranks);
        for (int j = 0; j < series->count; j++)
            highest = fmax(highest, scaling_speedup(series, series->runs[j]));
    }
    struct panel panel = {.out = out, .scaling = scaling, .weak = weak, .legend_y = top};
    top += (curves + 1) * LEGEND_LINE;
    floor_y = top + PANEL_HEIGHT;
    panel.x = svg_axis_over(0.0, most, LEFT, WIDTH - RIGHT);
    if (panel.x.tick < 1.0) panel.x = (struct svg_axis){0.0, most, 1.0, LEFT, WIDTH - RIGHT};
    panel.y = svg_axis_over(0.0, fmax(highest, most / fewest), floor_y, top);
    svg_print_axes(out, &panel.x, &panel.y, weak ? "speedup, weak" : "speedup, strong");
    fprintf(out, "<text class=\"label\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">ranks</text>\n",
            (LEFT + WIDTH - RIGHT) / 2, floor_y + 42);
    print_legend(&panel, "stroke=\"#888\" stroke-dasharray=\"6 4\"", "ideal", "");
    fputs("<polyline stroke=\"#888\" stroke-dasharray=\"6 4\" points=\"", out);
    print_point(&panel, fewest, 1.0);
    print_point(&panel, most, most / fewest);
    fputs("\"/>\n", out);
    visit_curves(&panel);
}

static void draw(FILE *out, const struct scaling *scaling) {
    int height = TOP, tops[2];
    for (int weak = 0; weak < 2; weak++) {
        int curves = count_curves(scaling, weak);
        tops[weak] = height;
        if (curves > 0) height += (curves + 1) * LEGEND_LINE + PANEL_HEIGHT + GAP;
    }
    svg_print_header(out, WIDTH, height);
    for (int weak = 0; weak < 2; weak++)
        if (count_curves(scaling, weak) > 0) draw_panel(out, scaling, weak, tops[weak]);
    fprintf(out, "</svg>\n");
}

enum status scaling_draw(const struct scaling *scaling, char **svg) {
    size_t bytes;
    *svg = NULL;
    FILE *out = open_memstream(svg, &bytes);
    if (out) draw(out, scaling);
    if (out && fclose(out) == 0) return STATUS_OK;
    free(*svg);
    *svg = NULL;
    return status_fail(STATUS_MEMORY, "no memory to draw a scaling report");
}
