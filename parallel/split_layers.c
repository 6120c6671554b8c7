#include "parallel/split_layers.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

/* best[(parts + 1) x (layers + 1)]: the best value of `part` parts that end before layer `end`, and
 * from[] the begin of the last of them. */
struct table {
    int layers, parts;
    const struct split_costs *costs;
    const double *sums; /* (layers + 1) of layers' costs before each */
    double *best;
    int *from;
};

static size_t at(const struct table *table, int part, int end) {
    return (size_t)part * (size_t)(table->layers + 1) + (size_t)end;
}

static double part_cost(const struct table *table, int part, int first, int end) {
    double cost = table->sums[end] - table->sums[first];
    if (part == 0) cost += table->costs->embedding;
    if (part == table->parts - 1) cost += table->costs->head;
    return cost;
}

/* Minimises the largest cost of a part, or with `even` the sum of squares of costs that are at most
 * `limit` each. Returns the minimum. */
static double fill(struct table *table, bool even, double limit) {
    for (int end = 0; end <= table->layers; end++)
        table->best[at(table, 0, end)] = end == 0 ? 0.0 : INFINITY;
    for (int part = 0; part < table->parts; part++)
        for (int end = 0; end <= table->layers; end++) {
            double best = INFINITY;
            for (int first = part; first < end; first++) {
                double before = table->best[at(table, part, first)];
                double cost = part_cost(table, part, first, end);
                double value = even ? before + cost * cost : fmax(before, cost);
                if (cost > limit || !(value < best)) continue;
                best = value;
                table->from[at(table, part + 1, end)] = first;
            }
            table->best[at(table, part + 1, end)] = best;
        }
    return table->best[at(table, table->parts, table->layers)];
}

static enum status check_count(int layers, int parts) {
    if (layers >= parts) return STATUS_OK;
    return status_fail(STATUS_CONFIG,
                       "the model's %d layers can't be cut into %d parts of at least one layer: "
                       "lower parallel.pp or parallel.chunks",
                       layers, parts);
}

enum status split_layers(int *first, int layers, int parts, const struct split_costs *costs) {
    TRY(check_count(layers, parts));
    size_t cells = (size_t)(parts + 1) * (size_t)(layers + 1);
    double *sums = calloc((size_t)layers + 1, sizeof *sums);
    struct table table = {
        layers, parts, costs, sums, calloc(cells, sizeof(double)), calloc(cells, sizeof(int))};
    bool whole = sums && table.best && table.from;
    for (int i = 0; i < layers && whole; i++) sums[i + 1] = sums[i] + costs->layer[i];
    if (whole) {
        double slowest = fill(&table, false, INFINITY);
        fill(&table, true, slowest * (1.0 + 1e-9)); /* costs are differences of sums: rounded */
        first[parts] = layers;
        for (int part = parts; part > 0; part--)
            first[part - 1] = table.from[at(&table, part, first[part])];
    }
    free(sums);
    free(table.best);
    free(table.from);
    return whole ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory to split %d layers", layers);
}

enum status split_layers_by_hand(int *first, int layers, int parts, const int *counts) {
    TRY(check_count(layers, parts));
    first[0] = 0;
    for (int i = 0; i < parts; i++) {
        if (counts[i] < 1)
            return status_fail(STATUS_CONFIG,
                               "parallel.layers: part %d has %d layers, not at least 1", i,
                               counts[i]);
        first[i + 1] = first[i] + counts[i];
    }
    if (first[parts] != layers)
        return status_fail(STATUS_CONFIG, "parallel.layers adds up to %d layers, the model has %d",
                           first[parts], layers);
    return STATUS_OK;
}
