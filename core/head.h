/* The end of the stage: final norm, logits, loss. */
#ifndef STRATA_CORE_HEAD_H
#define STRATA_CORE_HEAD_H

#include "core/batch.h"
#include "core/exec.h"
#include "core/model.h"

/* Rows of logits alive at once in the loss. More rows walk the head's weights and gradients less
 * often, fewer keep the logits in a cache: as many as 8 MiB hold, or half the width if that is
 * more, within 128 MiB. No result depends on it. */
int64_t head_chunk(int64_t hidden, int64_t vocab);

/* logits (count, V) f32, of the whole vocabulary on every rank, of the hidden states at `rows`
 * (count) of hidden (N, C) act, in order. Not under sequence parallelism. */
void head_logits(const struct exec *exec, const struct model *model, float *logits,
                 const void *hidden, const int32_t *rows, int64_t count);

/* Loss of a batch: *loss += sum over tokens of loss_weights[t] * -log p(targets[t]), f64. With
 * d_hidden (M, C) act not NULL also the gradient of that sum with respect to hidden (M, C), and +=
 * those of head and final norm where they are trained. token_loss (N) f32, unweighted, or NULL. A
 * NaN loss fails the stream. Every tensor-parallel rank has a part of the vocabulary and gets the
 * same loss; M as in core/block.h. */
void head_loss(const struct exec *exec, const struct model *model, const struct batch *batch,
               const void *hidden, void *d_hidden, double *loss, float *token_loss);

#endif
