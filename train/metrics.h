/* What a run tells: key=value lines (or a bar on a terminal) and metrics.jsonl, one object a line:
 *   {"kind":"train","step":..,"loss":..,"grad_norm":..,"lr":..,"tokens":..,"tokens_per_second":..,
 *    "gflops":..,"mfu":..,"ranks":..,"threads":..,"peak_rss_mib":..,"seconds":..}
 *       and, where the step was skipped, "skipped":"nonfinite" or "skipped":"spike"
 *   {"kind":"validation","step":..,"loss":..,"perplexity":..}
 *   {"kind":"rewind","step":..,"from":..,"sample":..,"samples":..}   steps `step` to `from` are
 * done again, without the `samples` samples from the `sample`th on loss and grad_norm have 17
 * digits: runs that computed the same have the same text there; null where one isn't finite.
 * `threads` are those of a rank; peak_rss_mib is the most that rank 0's process has had resident
 * since it started (VmHWM of /proc/self/status), not what it has now. The same figures go where
 * monitors look for them (train/gauges.h). */
#ifndef STRATA_TRAIN_METRICS_H
#define STRATA_TRAIN_METRICS_H

#include "core/progress.h"
#include "train/gauges.h"
#include "train/safety.h"
#include "train/trainer.h"

#include <stdio.h>

struct metrics {
    const struct trainer *trainer;
    FILE *file;               /* NULL on ranks other than 0 */
    struct gauges gauges;     /* not open there */
    struct progress progress; /* a bar instead of lines where standard error is a terminal */
    double flops_per_token;
    double peak_flops; /* of all ranks together: the best of all probes so far */
    int probes;
    double probe_seconds; /* all probes together */
    int64_t held_tokens;  /* since the last line */
    double held_seconds;
};

/* mfu is FLOP/s (model_config_training_flops a token) over the peak of the threads at fp32
 * multiply-adds. On a busy machine a probe sees a part of that peak, so there are several:
 * METRICS_PROBES at start and one before each line of a step, until METRICS_PROBE_SECONDS are
 * spent; the highest counts for all lines after it. */
enum { METRICS_PROBES = 4 };
#define METRICS_PROBE_SECONDS 0.2

/* Opens RUN/metrics.jsonl; lines of steps after the present one are dropped (they were lost with
 * the run that wrote them). The directory must be there. */
enum status metrics_open(struct metrics *metrics, const struct trainer *trainer);
void metrics_close(struct metrics *metrics);

/* The run went back: lines of the steps that are undone are dropped, one tells of it. */
enum status metrics_rewind(struct metrics *metrics, const struct rewind *rewind);

/* After a step; prints every train.log_every. Only rank 0 does anything, so only it can fail. */
enum status metrics_step(struct metrics *metrics, const struct step_report *report);
enum status metrics_validation(struct metrics *metrics, double loss, bool best);

#endif
