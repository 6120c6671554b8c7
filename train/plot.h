/* Loss and throughput of runs over their steps, as one self-contained SVG. */
#ifndef STRATA_TRAIN_PLOT_H
#define STRATA_TRAIN_PLOT_H

#include "kernels/base/status.h"
#include <stdint.h>

enum { PLOT_MAX_RUNS = 16 };

struct plot_series {
    int64_t count, capacity;
    double *step, *value; /* (count) owned */
};

struct plot_run {
    char *name; /* as given, for the legend; owned */
    struct plot_series loss, validation, rate;
};

/* Reads metrics.jsonl of a run's directory, or such a file. STATUS_IO names it; STATUS_FORMAT when
 * no line of it is a training step. Lines that are cut short are passed over. */
enum status plot_run_read(struct plot_run *run, const char *path);
void plot_run_free(struct plot_run *run); /* may be called twice, and on a zeroed struct */

/* The picture: loss above (train as a line, validation dashed with dots), tokens/s below. Series of
 * more than 1000 points are drawn as means of neighbours. The caller frees *svg. */
enum status plot_draw(const struct plot_run *runs, int count, char **svg);

#endif
