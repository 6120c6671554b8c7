/* Training runs that others published with their speed, as the planner sees them. */
#ifndef STRATA_TESTS_PUBLISHED_H
#define STRATA_TESTS_PUBLISHED_H

#include "train/plan_time.h"

struct published_run {
    const char *source, *name, *device;
    int hidden, layers, heads;
    int tp, cp, pp, dp;
    int length, batch;       /* sequences of a step */
    int micro_batch, chunks; /* Llama 3's and Megatron's tables don't tell them: assumed */
    double mfu;              /* as published, by the source's own count of FLOPs */
};

extern const struct published_run published_runs[];
extern const int published_run_count;

/* The predicted MFU by the same count of FLOPs. */
enum status published_predict(const struct published_run *run, const struct plan_device *device,
                              double *mfu);

#endif
