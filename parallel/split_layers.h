/* Which layers each part of a pipeline gets. Arithmetic alone. */
#ifndef STRATA_PARALLEL_SPLIT_LAYERS_H
#define STRATA_PARALLEL_SPLIT_LAYERS_H

#include "kernels/base/status.h"

/* Costs in any one unit; `layer` (layers) each. */
struct split_costs {
    double embedding, head; /* of the first and the last part */
    const double *layer;
};

/* Cuts `layers` layers into `parts` runs, at least one layer each, so that the slowest part is as
 * fast as can be, and of the cuts for which that holds takes the most even one (the lowest sum of
 * squares): part i is [first[i], first[i + 1]), `first` (parts + 1). STATUS_CONFIG where there are
 * fewer layers than parts. STATUS_MEMORY. */
enum status split_layers(int *first, int layers, int parts, const struct split_costs *costs);

/* The cut that `counts` (parts) asks for. STATUS_CONFIG when they don't add up to `layers`, or one
 * is below 1. */
enum status split_layers_by_hand(int *first, int layers, int parts, const int *counts);

#endif
