/* The learning rate of a step: a pure function. */
#ifndef STRATA_TRAIN_SCHEDULE_H
#define STRATA_TRAIN_SCHEDULE_H

#include "train/options.h"

/* step counts from 1 to steps. Warm-up: lr * step / warmup. Then, with t from 0 at the warm-up's
 * end to 1 at the last step: cosine    min + (lr - min) (1 + cos(pi t)) / 2 linear    lr + (min -
 * lr) t wsd       lr, then linear to min over the last decay_fraction of all steps
 * (arXiv:2404.06395) constant  lr */
double schedule_rate(const struct train_options *options, int64_t step, int64_t steps);

#endif
