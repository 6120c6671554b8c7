/* Forward and loss of a network in float64, in plain loops. Shares nothing with core's layers and
 * loader but the reader of containers and the ids that name weights: a reference for both. */
#ifndef STRATA_TESTS_FORWARD_F64_H
#define STRATA_TESTS_FORWARD_F64_H

#include "core/weights.h"

#include <stdbool.h>

enum { F64_MAX_LAYERS = 16 };

struct network_f64 {
    int layers, width, inner, heads, kv_heads, head, vocab;
    double base, epsilon;
    bool neighbours;            /* rotates the pairs (2i, 2i+1) of a head, else (i, i + head / 2) */
    int window[F64_MAX_LAYERS]; /* tokens that a token sees, itself included; 0 = all before it */
    double
        *weight[F64_MAX_LAYERS + 1][WEIGHT_COUNT]; /* [layer + 1]; row-major, owned; NULL: none */
};

/* From the letters of a Llama GGUF file alone: its metadata keys, its tensors dequantised, rotation
 * of neighbouring pairs on the rows as they are stored. */
void network_f64_read_gguf(struct network_f64 *network, const struct model_file *file);
void network_f64_free(struct network_f64 *network);

/* logits (count, vocab) of one sequence; the caller frees them. The residual streams after each
 * layer go to `hidden` (layers, count, width) unless it is NULL. */
double *network_f64_logits(const struct network_f64 *network, const int32_t *ids, int count,
                           double *hidden);

/* Sum over a sequence of -log p(next token). */
double network_f64_loss(const struct network_f64 *network, const int32_t *ids, int count);

#endif
