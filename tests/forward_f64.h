/* A Llama forward in float64 from the letters of the GGUF file alone: its metadata keys, its
 * tensors dequantised, rotation of neighbouring pairs (2i, 2i+1) on the rows as they are stored.
 * Shares nothing with core's layers and loader but the reader of the container. */
#ifndef STRATA_TESTS_FORWARD_F64_H
#define STRATA_TESTS_FORWARD_F64_H

#include "core/model_file.h"

/* logits (count, vocabulary), and the vocabulary's size to *vocab; the caller frees them. */
double *forward_f64(const struct model_file *file, const int32_t *ids, int count, int *vocab);

#endif
