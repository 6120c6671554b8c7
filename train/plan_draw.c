#define _GNU_SOURCE
#include "train/plan_print.h"
#include "train/svg.h"

#include <math.h>
#include <stdlib.h>

enum {
    WIDTH = 1240,
    LEFT = 410,
    RIGHT = 190,
    TOP = 84,
    BOTTOM = 54,
    LEGEND_Y = 46,
    LEGEND_WIDTH = 106,
    ROW = 34,
    BOX = 24
};

/* The kinds; state that is moved away on a device whose memory is the host's; the reserve. */
enum { OFFLOADED = TRAINER_MEMORY_PARTS, RESERVE, PARTS };
_Static_assert((int)TRAINER_MEMORY_PARTS <= (int)SVG_COLOURS, "every kind has a colour");

struct picture {
    FILE *out;
    const struct plan_request *request;
    const struct plan_result *result;
    int bars;
    double share; /* GiB of a rank's device, or its part of the node's */
    struct svg_axis gib;
};

static double to_gib(double bytes) {
    return bytes / (1 << 30);
}

static const char *colour_of(int part) {
    return part == RESERVE ? "#bbbbbb" : part == OFFLOADED ? "#f0e442" : svg_colours[part];
}

static void list_parts(const struct picture *p, const struct plan_candidate *c,
                       struct trainer_memory_part parts[PARTS]) {
    bool here = !*p->request->options->train.offload_path;
    trainer_memory_parts(&c->memory, parts);
    parts[OFFLOADED] = (struct trainer_memory_part){"offloaded", here ? c->memory.offloaded : 0};
    parts[RESERVE] = (struct trainer_memory_part){"reserve", (size_t)p->request->device.reserve};
}

static double rank_gib(const struct picture *p, const struct plan_candidate *c) {
    struct trainer_memory_part parts[PARTS];
    double sum = 0.0;
    list_parts(p, c, parts);
    for (int i = 0; i < PARTS; i++) sum += to_gib((double)parts[i].bytes);
    return sum;
}

static void draw_text(const struct picture *p, double x, double y, const char *anchor,
                      const char *text) {
    fprintf(p->out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    svg_print_text(p->out, text);
    fputs("</text>\n", p->out);
}

/* "dp 4 tp 2 pp 2 1f1b zero 1 micro 2 full": what is not 1, or not usual. */
static void name_layout(char text[128], const struct plan_candidate *c) {
    const int64_t *at = c->choice.at;
    int used = snprintf(text, 128, "dp %lld", (long long)at[PLAN_DP]);
    const struct {
        const char *name;
        enum plan_key key;
    } degrees[] = {{"tp", PLAN_TP}, {"cp", PLAN_CP}, {"pp", PLAN_PP}};
    for (size_t i = 0; i < sizeof degrees / sizeof *degrees; i++)
        if (at[degrees[i].key] > 1)
            used += snprintf(text + used, 128 - (size_t)used, " %s %lld", degrees[i].name,
                             (long long)at[degrees[i].key]);
    char schedule[32];
    if (at[PLAN_PP] > 1)
        used += snprintf(text + used, 128 - (size_t)used, " %s",
                         plan_print_schedule(schedule, &c->choice));
    snprintf(text + used, 128 - (size_t)used, " zero %lld micro %lld%s%s%s%s",
             (long long)at[PLAN_ZERO], (long long)at[PLAN_MICRO_BATCH],
             at[PLAN_RECOMPUTE] ? " " : "",
             at[PLAN_RECOMPUTE] ? train_recompute_words[at[PLAN_RECOMPUTE]] : "",
             at[PLAN_OPTIMIZER] == OPTIMIZER_ADAMW8 ? " 8bit" : "",
             at[PLAN_OFFLOAD] == OFFLOAD_OPTIMIZER ? " host" : "");
}

static void draw_bar(const struct picture *p, int row, const struct plan_candidate *c) {
    struct trainer_memory_part parts[PARTS];
    char text[128], step[16];
    double at = 0.0, y = TOP + row * ROW, middle = y + BOX / 2.0 + 4.0;
    list_parts(p, c, parts);
    name_layout(text, c);
    draw_text(p, LEFT - 8, middle, "end", text);
    for (int i = 0; i < PARTS; i++) {
        double gib = to_gib((double)parts[i].bytes), left = svg_place(&p->gib, at);
        if (parts[i].bytes == 0) continue;
        fprintf(p->out,
                "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%d\" fill=\"%s\">"
                "<title>%s %.3f GiB</title></rect>\n",
                left, y, svg_place(&p->gib, at + gib) - left, BOX, colour_of(i), parts[i].name,
                gib);
        at += gib;
    }
    snprintf(text, sizeof text, "%.2f GiB, %s", at, plan_print_seconds(step, c->time.seconds));
    draw_text(p, WIDTH - RIGHT + 10, middle, "start", text);
}

/* Only kinds that the picture has. */
static void draw_legend(const struct picture *p) {
    struct trainer_memory_part parts[PARTS];
    bool there[PARTS] = {false};
    for (int row = 0; row < p->bars; row++) {
        list_parts(p, &p->result->candidates[row], parts);
        for (int i = 0; i < PARTS; i++) there[i] |= parts[i].bytes > 0;
    }
    int x = 24;
    for (int i = 0; i < PARTS; i++) {
        if (!there[i]) continue;
        fprintf(p->out, "<rect x=\"%d\" y=\"%d\" width=\"14\" height=\"14\" fill=\"%s\"/>", x,
                LEGEND_Y, colour_of(i));
        draw_text(p, x + 20, LEGEND_Y + 12, "start", parts[i].name);
        x += LEGEND_WIDTH;
    }
}

static void draw_axis(const struct picture *p, int floor_y) {
    char text[32];
    int64_t ticks = llround((p->gib.high - p->gib.low) / p->gib.tick);
    for (int64_t i = 0; i <= ticks; i++) {
        double value = p->gib.low + (double)i * p->gib.tick, at = svg_place(&p->gib, value);
        fprintf(p->out, "<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>\n", at,
                TOP - 6, at, floor_y);
        svg_format_tick(text, value);
        draw_text(p, at, floor_y + 18, "middle", text);
    }
    draw_text(p, (LEFT + WIDTH - RIGHT) / 2.0, floor_y + 40, "middle",
              "GiB of the rank that takes most");
}

/* Where a device ends, unless that is far away. */
static void draw_end(const struct picture *p, int floor_y) {
    if (p->share > p->gib.high) return;
    double at = svg_place(&p->gib, p->share);
    fprintf(p->out,
            "<line stroke=\"#c00000\" stroke-width=\"1.5\" stroke-dasharray=\"5 3\" x1=\"%.1f\" "
            "y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>\n",
            at, TOP - 6, at, floor_y);
}

static void draw_title(const struct picture *p) {
    const struct plan_request *r = p->request;
    fprintf(p->out,
            "<text class=\"label\" x=\"24\" y=\"26\">%d ranks, %s: the best %d of %d layouts; "
            "there are %.2f GiB a %s</text>\n",
            r->nodes * r->per_node, r->device.name, p->bars, p->result->count, p->share,
            r->device.shared_memory ? "rank" : "device");
}

static void draw(FILE *out, const struct plan_request *request, const struct plan_result *result) {
    enum { FAR = 3 }; /* times the largest bar */
    struct picture p = {.out = out, .request = request, .result = result};
    double most = 0.0;
    p.bars = result->count < PLAN_BARS ? result->count : PLAN_BARS;
    p.share =
        to_gib(request->device.memory) / (request->device.shared_memory ? request->per_node : 1);
    for (int row = 0; row < p.bars; row++)
        most = fmax(most, rank_gib(&p, &result->candidates[row]));
    p.gib =
        svg_axis_over(0.0, p.share <= FAR * most ? fmax(most, p.share) : most, LEFT, WIDTH - RIGHT);
    int floor_y = TOP + p.bars * ROW;
    svg_print_header(out, WIDTH, floor_y + BOTTOM);
    draw_title(&p);
    draw_legend(&p);
    draw_axis(&p, floor_y);
    for (int row = 0; row < p.bars; row++) draw_bar(&p, row, &result->candidates[row]);
    draw_end(&p, floor_y);
    fprintf(out, "</svg>\n");
}

enum status plan_draw(const struct plan_request *request, const struct plan_result *result,
                      char **svg) {
    size_t bytes;
    *svg = NULL;
    FILE *out = open_memstream(svg, &bytes);
    if (out) draw(out, request, result);
    if (out && fclose(out) == 0) return STATUS_OK;
    free(*svg);
    *svg = NULL;
    return status_fail(STATUS_MEMORY, "no memory to draw a plan");
}
