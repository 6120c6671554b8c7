/* A trainer's model whose matrices lie in shares (parallel.zero 3): no rank ever holds more of it
 * than its shares and the gather buffers. */
#ifndef STRATA_TRAIN_SHARDED_MODEL_H
#define STRATA_TRAIN_SHARDED_MODEL_H

#include "train/trainer.h"

/* Makes or loads trainer->model layer by layer, keeping my shares. */
enum status sharded_model_open(struct trainer *trainer, const struct model_config *config,
                               const struct shard *shard, enum layout matrices);

#endif
