/* What is done about figures that can't be right (train/guard.h judges them): a step is skipped, or
 * the run goes back to a checkpoint, or it ends. */
#ifndef STRATA_TRAIN_SAFETY_H
#define STRATA_TRAIN_SAFETY_H

#include "train/trainer.h"

/* After the gradients of a step, before the optimizer: sets report->verdict and report->rewind.
 * `loss` is this rank's own. A step that is skipped is told by the rank that found the reason,
 *     level=warn rank=1 host=n2 event=step_skipped step=.. reason=nonfinite loss=.. grad_norm=..
 *         median=.. tensor="queries of layer 3"
 * (a spike: the largest gradient). STATUS_NUMERIC names step and tensor where train.on_nonfinite is
 * stop, and after train.max_skipped steps in a row. Also brings up what failed on the stream.
 * Collective. */
enum status safety_judge(struct trainer *trainer, struct step_report *report, double loss);

/* Where a run went back, and what it leaves out. */
struct rewind {
    int64_t from, to; /* steps done before and after */
    int64_t first_sample, samples;
};

/* A run goes back at most so often without a checkpoint of a step whose loss was not too high. */
enum { SAFETY_REWINDS = 3 };

/* Goes back to the newest checkpoint of before the loss was too high, and on with the samples after
 * those seen last. Where there is none it warns, and report->rewind is false. STATUS_NUMERIC after
 * SAFETY_REWINDS. Collective. */
enum status safety_rewind(struct trainer *trainer, struct step_report *report,
                          struct rewind *rewind);

#endif
