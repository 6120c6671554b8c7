/* Watching a run from inside: which communicators a step's trace sees, the file of a traced step,
 * and ranks that are slower than the others. */
#ifndef STRATA_TRAIN_OBSERVE_H
#define STRATA_TRAIN_OBSERVE_H

#include "train/trainer.h"

/* Around a step: its collectives are timed, and recorded when it is the step to trace. */
void observe_begin(struct trainer *trainer);
void observe_end(struct trainer *trainer);

/* After a step: every train.slow_rank_every steps the ranks compare how long they computed, and one
 * that stays slower than those with the same pipeline stage says so itself:
 *     level=warn rank=3 host=n2 event=slow_rank step=.. seconds=.. median=.. steps=..
 * seconds are those of the last `steps` steps in forward, loss and backward, without collectives.
 * Collective. */
enum status observe_slow_ranks(struct trainer *trainer);

/* After a step and all that belongs to it: writes train.out/trace-step-N.json if that is the step
 * to trace. Collective. */
enum status observe_trace(struct trainer *trainer);

#endif
