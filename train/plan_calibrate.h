/* Rates of a device from runs that were measured: their directories hold what they were
 * (config.yaml) and how fast they went (metrics.jsonl). */
#ifndef STRATA_TRAIN_PLAN_CALIBRATE_H
#define STRATA_TRAIN_PLAN_CALIBRATE_H

#include "train/plan_search.h"

enum { PLAN_RATES = 6 };

struct plan_calibrated_run {
    const char *path;           /* borrowed */
    double measured, predicted; /* seconds of a step */
};

struct plan_calibration {
    struct plan_calibrated_run *runs; /* (count); owned */
    int count;
    const char *names[PLAN_RATES];
    double before[PLAN_RATES], after[PLAN_RATES];
};

/* A rank's device: of the CPU that many threads. */
struct plan_device plan_device_of_rank(const struct plan_device *device, int64_t threads);

/* Corrects `device`, a thread's where it is the CPU, so that predictions come close to the runs'
 * steps, those that a quarter of them is faster than. STATUS_CONFIG where a run's file doesn't tell
 * its ranks (parallel.dp 0) or, on the CPU, threads. The caller calls plan_calibration_free, also
 * after a failure. */
enum status plan_calibrate(struct plan_device *device, char *const *runs, int count, int per_node,
                           struct plan_calibration *calibration);
void plan_calibration_free(struct plan_calibration *calibration);

#endif
