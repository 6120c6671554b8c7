/* The figures of a run for monitoring: TensorBoard (train.out/tensorboard/, train/event_file.h) and
 * Prometheus (train.out/metrics.prom, the text format 0.0.4 that node_exporter's textfile collector
 * reads). One table says what there is and what it is called in either. */
#ifndef STRATA_TRAIN_GAUGES_H
#define STRATA_TRAIN_GAUGES_H

#include "train/event_file.h"

#include <stdbool.h>

/* The latest of each; a validation's two are NaN before the first one. */
struct gauge_values {
    double step, steps;             /* done, in all */
    double loss, gradient_norm, lr; /* of the step */
    double tokens;                  /* trained on so far */
    double rate, flops, mfu;        /* tokens/s and FLOP/s of all ranks, share of peak */
    double resident_bytes;          /* peak of rank 0's process */
    double skipped;                 /* optimizer steps that were skipped so far */
    double validation_loss, perplexity;
};

struct gauges {
    const char *out; /* the run's directory, borrowed; NULL = not open */
    int ranks;
    struct event_file events;
    struct gauge_values values;
};

/* `out` is there. With `tensorboard` a new event file begins after `step`. */
enum status gauges_open(struct gauges *gauges, const char *out, int ranks, int64_t step,
                        bool tensorboard);
void gauges_close(struct gauges *gauges); /* may be called twice, and on a zeroed struct */

/* Adds the present values to the event file, those of a step or those of a validation, and replaces
 * metrics.prom: a reader never sees half of it. */
enum status gauges_step(struct gauges *gauges);
enum status gauges_validation(struct gauges *gauges);

#endif
