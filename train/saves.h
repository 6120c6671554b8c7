/* The checkpoints that a run writes: train.checkpoint_async has them written while it trains on
 * (parallel/checkpoint_saving.h), and then a step waits for no more than a copy of what is saved.
 * One is in flight at a time; who wants the next one waits for it, and says so. */
#ifndef STRATA_TRAIN_SAVES_H
#define STRATA_TRAIN_SAVES_H

#include "train/trainer.h"

/* Whether the run would keep memory for that copy: it is asked to, and saves before its end. */
bool saves_want_snapshot(const struct run_options *options);

/* Its bytes on this rank, at most; the optimizer is planned. 0 where t->saves.behind is not set,
 * and on ranks that others' values are the same as. */
size_t saves_snapshot_bytes(const struct trainer *trainer);

/* Begins a checkpoint of the present step, `best` or not, and returns when the copy is made; where
 * the run has no memory for one, or `wait` is set, when it is on the disk. Collective. */
enum status saves_begin(struct trainer *trainer, bool best, bool wait);

/* Between two steps: lets one in flight move on, and ends it where it is done. Its failure is what
 * it would have been to wait for. Collective. */
enum status saves_poll(struct trainer *trainer);

/* Waits for one in flight. Collective. */
enum status saves_settle(struct trainer *trainer);

/* Of a run that ends here: one in flight is given up. Not collective; may be called twice. */
void saves_close(struct trainer *trainer);

#endif
