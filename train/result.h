/* The result of a run in a form that others read. */
#ifndef STRATA_TRAIN_RESULT_H
#define STRATA_TRAIN_RESULT_H

#include "train/trainer.h"

/* Where train.export asks for it, rank 0 writes train.out/adapter (PEFT) or train.out/model
 * (safetensors, config and tokenizer) and says so. */
enum status result_export(const struct trainer *trainer);

#endif
