#define _GNU_SOURCE
#include "parallel/preflight.h"

#include "kernels/base/median.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *preflight_verdict_name(enum preflight_verdict verdict) {
    static const char *const names[] = {"fine", "slow", "broken"};
    return names[verdict];
}

int preflight_partner(int round, int place, int count) {
    /* The edge from i to i + 1 belongs to round i % 2; the last of an odd ring would meet its
     * neighbours' there, and has a round of its own. Two nodes have one edge. */
    int edges = count > 2 ? count : count - 1;
    for (int side = 0; side < 2; side++) {
        int edge = side == 0 ? place : (place + count - 1) % count;
        if (edge >= edges) continue;
        int when = edge == count - 1 && count % 2 ? 2 : edge % 2;
        if (when == round) return side == 0 ? (place + 1) % count : edge;
    }
    return -1;
}

/* A figure that nodes are compared by. */
struct figure {
    const char *name;
    size_t offset;
    bool by_rank;      /* nodes may have different numbers of ranks */
    bool network;      /* there is none on one node */
    bool less;         /* is better: then the limits are those of the header */
    bool never_broken; /* little is no defect */
};
#define FIELD(name) offsetof(struct preflight_node, name)
static const struct figure figures[] = {
    {"gemm", FIELD(gemm_gflops), .by_rank = true},
    {"memory bandwidth", FIELD(memory_gbs), .by_rank = false},
    {"memory available", FIELD(available_gib), .never_broken = true},
    {"network bandwidth", FIELD(network_gbs), .network = true},
    {"network latency", FIELD(latency_us), .network = true, .less = true},
};
static const double latency_slow = 0.5, latency_broken = 0.1;

/* More is better, whatever the figure. */
static double value_of(const struct figure *figure, const struct preflight_node *node) {
    double value = *(const double *)((const char *)node + figure->offset);
    if (!isfinite(value) || value <= 0.0) return NAN;
    if (figure->less) return 1.0 / value;
    return figure->by_rank && node->ranks > 0 ? value / node->ranks : value;
}

/* Of those that are numbers; NAN when none is. */
static double median_figure(const struct figure *figure, const struct preflight_node *nodes,
                            int count, double *room) {
    int known = 0;
    for (int i = 0; i < count; i++) {
        room[known] = value_of(figure, &nodes[i]);
        if (!isnan(room[known])) known++;
    }
    return known ? median(room, known, MEDIAN_UPPER) : NAN;
}

__attribute__((format(printf, 3, 4))) static void
find(struct preflight_finding *finding, enum preflight_verdict verdict, const char *format, ...) {
    size_t used = strlen(finding->reason), room = sizeof finding->reason;
    if (verdict > finding->verdict) finding->verdict = verdict;
    if (used) used += (size_t)snprintf(finding->reason + used, room - used, ", ");
    if (used >= room) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(finding->reason + used, room - used, format, arguments);
    va_end(arguments);
}

static void judge_figure(struct preflight_finding *finding, const struct figure *figure,
                         const struct preflight_node *node, double usual,
                         const struct preflight_limits *limits) {
    double value = value_of(figure, node);
    if (isnan(value)) {
        find(finding, PREFLIGHT_BROKEN, "%s could not be measured", figure->name);
        return;
    }
    double part = value / usual;
    double slow = figure->less ? latency_slow : limits->slow;
    double broken = figure->less ? latency_broken : limits->broken;
    if (part >= slow) return;
    bool is_broken = part < broken && !figure->never_broken;
    find(finding, is_broken ? PREFLIGHT_BROKEN : PREFLIGHT_SLOW, "%s %.0f%% of the median",
         figure->name, 100.0 * (figure->less ? 1.0 / part : part));
}

static void judge_alone(struct preflight_finding *finding, const struct preflight_node *node,
                        const struct preflight_limits *limits) {
    if (node->wrong) find(finding, PREFLIGHT_BROKEN, "it computes wrong products");
    if (node->available_gib < limits->memory_gib)
        find(finding, PREFLIGHT_BROKEN, "%.1f GiB of memory available, not %.1f",
             node->available_gib, limits->memory_gib);
    if (fabs(node->clock_ms) > limits->clock_ms)
        find(finding, PREFLIGHT_SLOW, "its clock is off by %.1f s", node->clock_ms * 1e-3);
}

enum status preflight_judge(struct preflight_finding *findings, const struct preflight_node *nodes,
                            int count, const struct preflight_limits *limits) {
    double *room = calloc((size_t)count, sizeof *room);
    if (!room) return status_fail(STATUS_MEMORY, "no memory to judge %d nodes", count);
    memset(findings, 0, (size_t)count * sizeof *findings);
    for (int i = 0; i < count; i++) judge_alone(&findings[i], &nodes[i], limits);
    for (size_t f = 0; f < sizeof figures / sizeof *figures; f++) {
        if (figures[f].network && count == 1) continue;
        double usual = median_figure(&figures[f], nodes, count, room);
        for (int i = 0; i < count; i++)
            judge_figure(&findings[i], &figures[f], &nodes[i], usual, limits);
    }
    free(room);
    return STATUS_OK;
}
