/* What a run tells: key=value lines (or a bar on a terminal) and metrics.jsonl, one object a line:
 *   {"kind":"train","step":..,"loss":..,"grad_norm":..,"lr":..,"tokens":..,"tokens_per_second":..,
 *    "gflops":..,"mfu":..,"rss_mib":..,"seconds":..}
 *   {"kind":"validation","step":..,"loss":..,"perplexity":..} */
#ifndef STRATA_TRAIN_METRICS_H
#define STRATA_TRAIN_METRICS_H

#include "train/trainer.h"

#include <stdio.h>

struct metrics {
    const struct trainer *trainer;
    FILE *file;    /* NULL on ranks other than 0 */
    bool terminal; /* standard error is one: a bar instead of lines */
    double flops_per_token;
    double peak_flops;   /* of all ranks together, measured at start */
    int64_t held_tokens; /* since the last line */
    double held_seconds, started;
};

/* FLOPs of training a token: 6 N' + 12 L H D s' for full training, 4 N' + ... for LoRA (frozen
 * weights need no gradient of their own), with N' = parameters without the embedding look-up and s'
 * = half the sequence, the mean reach of causal attention. Recomputation isn't counted. */
double metrics_flops_per_token(const struct trainer *trainer);

/* Opens RUN/metrics.jsonl; lines of steps after the present one are dropped (they were lost with
 * the run that wrote them). */
enum status metrics_open(struct metrics *metrics, const struct trainer *trainer);
void metrics_close(struct metrics *metrics);

/* After a step; prints every train.log_every. */
enum status metrics_step(struct metrics *metrics, const struct step_report *report);
enum status metrics_validation(struct metrics *metrics, double loss, bool best);

#endif
