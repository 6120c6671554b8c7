#define _GNU_SOURCE
#include "train/svg.h"
#include "train/timeline.h"

#include <math.h>
#include <stdlib.h>

enum {
    WIDTH = 1400,
    LEFT = 170,
    RIGHT = 120,
    TOP = 84,
    BOTTOM = 50,
    LEGEND_Y = 48,
    ROWS_HEIGHT = 620, /* of all ranks, if that makes no row too high or too low */
    ROW_MAX = 40,
    ROW_MIN = 4,
    LABEL_ROW = 10 /* the lowest that has room for a label */
};

/* A microbatch's number has this many pixels a digit, and a margin. */
#define DIGIT_WIDTH 3.9

static const struct {
    const char *fill, *text, *legend;
} styles[TRACE_KINDS] = {
    /* validation and checkpoint are no part of a step */
    [TRACE_DATA] = {"#9a9a9a", "#fff", "read data"},
    [TRACE_FORWARD] = {"#0072b2", "#fff", "forward"},
    [TRACE_LOSS] = {"#56b4e9", "#222", "loss"},
    [TRACE_BACKWARD] = {"#e69f00", "#222", "backward"},
    [TRACE_BACKWARD_INPUT] = {"#e69f00", "#222", "backward, inputs"},
    [TRACE_BACKWARD_WEIGHT] = {"#009e73", "#fff", "backward, weights"},
    [TRACE_OPTIMIZER] = {"#8c6d31", "#fff", "optimizer"},
    [TRACE_COLLECTIVE] = {"#cc79a7", "#222", "collective"},
    [TRACE_EXCHANGE] = {"#ffffff", "#222", "waiting for a stage"},
};

struct picture {
    FILE *out;
    const struct timeline *timeline;
    struct svg_axis time;
    double row, box; /* pixels from row to row, of a box */
};

static double left_of(const struct picture *p, double at) {
    return svg_place(&p->time,
                     fmin(fmax(at, p->timeline->begin), p->timeline->end) - p->timeline->begin);
}

static double top_of(const struct picture *p, int rank) {
    return TOP + rank * p->row;
}

/* The boxes of one kind of a rank: one path. events: all of that rank. */
static void draw_kind(const struct picture *p, const struct timeline_event *events, int64_t count,
                      enum trace_kind kind) {
    bool any = false;
    for (int64_t i = 0; i < count; i++) {
        if (events[i].kind != kind) continue;
        double left = left_of(p, events[i].begin), width = left_of(p, events[i].end) - left;
        if (!any) fprintf(p->out, "<path class=\"%s\" d=\"", trace_kind_name(kind));
        fprintf(p->out, "M%.2f %.1fh%.2fv%.1fh%.2fz", left, top_of(p, events[i].rank), width,
                p->box, -width);
        any = true;
    }
    if (any) fprintf(p->out, "\"/>\n");
}

static void draw_numbers(const struct picture *p, const struct timeline_event *events,
                         int64_t count) {
    if (p->box < LABEL_ROW) return;
    for (int64_t i = 0; i < count; i++) {
        const struct timeline_event *event = &events[i];
        if (event->microbatch < 0) continue;
        double left = left_of(p, event->begin), right = left_of(p, event->end);
        if (right - left < DIGIT_WIDTH * (event->microbatch > 9 ? 2 : 1) + 1.0) continue;
        fprintf(p->out,
                "<text class=\"number\" x=\"%.1f\" y=\"%.1f\" style=\"fill:%s\">%d</text>\n",
                (left + right) / 2.0, top_of(p, event->rank) + p->box / 2.0 + 2.5,
                styles[event->kind].text, event->microbatch);
    }
}

static void draw_row(const struct picture *p, const struct timeline_event *events, int64_t count) {
    for (int kind = 0; kind < TRACE_KINDS; kind++)
        draw_kind(p, events, count, (enum trace_kind)kind);
    draw_numbers(p, events, count);
}

static void draw_rows(const struct picture *p) {
    const struct timeline *t = p->timeline;
    for (int64_t first = 0, end; first < t->count; first = end) {
        for (end = first; end < t->count && t->events[end].rank == t->events[first].rank;) end++;
        draw_row(p, t->events + first, end - first);
    }
    if (p->box < LABEL_ROW) return;
    for (int rank = 0; rank < t->ranks; rank++) {
        double y = top_of(p, rank) + p->box / 2.0 + 4.0;
        fprintf(p->out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LEFT - 8, y);
        svg_print_text(p->out, t->labels[rank]);
        fprintf(p->out, "</text><text x=\"%d\" y=\"%.1f\">%.1f%% | %.1f%%</text>\n",
                WIDTH - RIGHT + 8, y, 100.0 * t->shares[rank].busy, 100.0 * t->shares[rank].bubble);
    }
}

static void draw_axis(const struct picture *p, int floor_y) {
    char text[32];
    int64_t ticks = llround((p->time.high - p->time.low) / p->time.tick);
    for (int64_t i = 0; i <= ticks; i++) {
        double value = p->time.low + (double)i * p->time.tick, at = svg_place(&p->time, value);
        svg_format_tick(text, value);
        fprintf(p->out,
                "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>"
                "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
                at, TOP - 6, at, floor_y, at, floor_y + 18, text);
    }
    fprintf(p->out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">ms</text>\n",
            (LEFT + WIDTH - RIGHT) / 2, floor_y + 38);
}

/* Only kinds that the picture has. */
static void draw_legend(const struct picture *p) {
    bool there[TRACE_KINDS] = {false};
    int x = LEFT;
    for (int64_t i = 0; i < p->timeline->count; i++) there[p->timeline->events[i].kind] = true;
    for (int kind = 0; kind < TRACE_KINDS; kind++) {
        if (!there[kind]) continue;
        fprintf(p->out,
                "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"14\" height=\"14\"%s/>"
                "<text x=\"%d\" y=\"%d\">%s</text>\n",
                trace_kind_name((enum trace_kind)kind), x, LEGEND_Y,
                kind == TRACE_EXCHANGE ? " style=\"stroke:#888\"" : "", x + 20, LEGEND_Y + 12,
                styles[kind].legend);
        x += kind == TRACE_BACKWARD_INPUT || kind == TRACE_BACKWARD_WEIGHT ? 150 : 112;
    }
    fprintf(p->out, "<text x=\"%d\" y=\"%d\">busy | bubble</text>\n", WIDTH - RIGHT + 8, TOP - 12);
}

static void draw_head(const struct picture *p, int height, const char *title) {
    struct timeline_shares mean = timeline_mean(p->timeline);
    fprintf(p->out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\">\n<style>text{font:12px sans-serif;fill:#222}"
            ".number{font-size:7px;text-anchor:middle}.grid{stroke:#e2e2e2}"
            "path{stroke:#fff;stroke-width:.4}",
            WIDTH, height, WIDTH, height);
    for (int kind = 0; kind < TRACE_KINDS; kind++)
        if (styles[kind].fill)
            fprintf(p->out, ".%s{fill:%s}", trace_kind_name((enum trace_kind)kind),
                    styles[kind].fill);
    fprintf(p->out,
            "</style>\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n"
            "<text x=\"%d\" y=\"28\" style=\"font-size:14px\">",
            LEFT);
    svg_print_text(p->out, title);
    fprintf(p->out, ": %.4g ms, busy %.1f%%, collectives %.1f%%, bubble %.1f%%</text>\n",
            p->timeline->end - p->timeline->begin, 100.0 * mean.busy, 100.0 * mean.collective,
            100.0 * mean.bubble);
}

static void draw(FILE *out, const struct timeline *timeline, const char *title) {
    double row = fmin(fmax((double)ROWS_HEIGHT / timeline->ranks, ROW_MIN), ROW_MAX);
    struct picture p = {out, timeline,
                        svg_axis_over(0.0, timeline->end - timeline->begin, LEFT, WIDTH - RIGHT),
                        row, 0.8 * row};
    int floor_y = TOP + (int)ceil(row * timeline->ranks);
    draw_head(&p, floor_y + BOTTOM, title);
    draw_legend(&p);
    draw_axis(&p, floor_y);
    draw_rows(&p);
    fprintf(out, "</svg>\n");
}

enum status timeline_draw(const struct timeline *timeline, const char *title, char **svg) {
    size_t bytes;
    *svg = NULL;
    FILE *out = open_memstream(svg, &bytes);
    if (out) draw(out, timeline, title);
    if (out && fclose(out) == 0) return STATUS_OK;
    free(*svg);
    *svg = NULL;
    return status_fail(STATUS_MEMORY, "no memory to draw a trace");
}
