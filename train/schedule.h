/* The learning rate of a step: a pure function. */
#ifndef STRATA_TRAIN_SCHEDULE_H
#define STRATA_TRAIN_SCHEDULE_H

#include "train/options.h"

/* step counts from 1 to steps; what counts is the steps done before it, s = step - 1, as in
 * transformers' schedulers and Megatron's. Warm-up (s < warmup): lr * s / warmup, so its first step
 * has rate 0. Then, with t = (s - warmup) / (steps - warmup), which the last step has not yet
 * brought to 1:
 *     cosine    min + (lr - min) (1 + cos(pi t)) / 2
 *     linear    lr + (min - lr) t
 *     wsd       lr, then linear towards min over the last decay_fraction of all steps
 *               (arXiv:2404.06395)
 *     constant  lr
 * steps >= step, and above warmup where step is. */
double schedule_rate(const struct train_options *options, int64_t step, int64_t steps);

#endif
