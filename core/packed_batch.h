/* Builds a batch from whole sequences: the arrays behind a struct batch, owned and reused. */
#ifndef STRATA_CORE_PACKED_BATCH_H
#define STRATA_CORE_PACKED_BATCH_H

#include "core/batch.h"

struct packed_batch {
    struct batch batch; /* points into the arrays below */
    int64_t token_capacity;
    int32_t sequence_capacity;
    int32_t *ids, *positions, *targets, *start, *past;
    float *loss_weights;
    int64_t *row_ids;
};

/* Room for `tokens` tokens in `sequences` sequences. */
enum status packed_batch_create(struct packed_batch *packed, int64_t tokens, int32_t sequences);
void packed_batch_free(struct packed_batch *packed); /* may be called twice, and on zeroes */

/* Forgets the sequences. */
void packed_batch_clear(struct packed_batch *packed);

/* Appends a sequence from position 0. Each token's target is the next token, the last has none;
 * every target weighs `weight`. The room must be there. */
void packed_batch_add(struct packed_batch *packed, const int32_t *tokens, int64_t count,
                      float weight);

#endif
