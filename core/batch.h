/* What runs through the layers at once: packed tokens of several sequences. A training sequence and
 * a served prompt are both ragged segments; only `kv` (pages) and `targets` differ. Borrows all. */
#ifndef STRATA_CORE_BATCH_H
#define STRATA_CORE_BATCH_H

#include "core/adapter.h"
#include "kernels/attention.h"

/* Which adapter the tokens [first, first + count) go through; spans are disjoint and ascending;
 * tokens outside any span go through the base alone. */
struct adapter_span {
    int64_t first, count;
    const struct adapter *adapter;
};

/* The pages of all layers: layer l's keys start at k + l * layer_bytes, values at v + the same. */
struct kv_pages_view {
    char *k, *v;
    size_t layer_bytes;
    enum dtype dtype;
    const int32_t *page_table; /* (sequences, max_pages) */
    int32_t page_size, max_pages;
};

struct context;

struct batch {
    int64_t tokens;           /* N */
    const int32_t *ids;       /* (N) */
    const int32_t *positions; /* (N) position in its document or request */
    struct segments segments;
    const struct kv_pages_view *kv; /* NULL: keys and values of this batch only (training) */
    const struct context *context;  /* the batch that this is a rank's part of (core/context.h); its
                                       segments are not read then; NULL: this is all of it */
    const struct adapter_span *spans;
    int span_count;

    /* training and evaluation */
    const int32_t *targets;    /* (N) next token, negative = none */
    const float *loss_weights; /* (N) weight * global normalisation */
    const int64_t *row_ids;    /* (N) global token numbers: dropout is keyed by them */
    uint64_t dropout_seed;
    bool training; /* dropout applies */
    /* Backward leaves the gradients of the blocks' matrices to block_backward_weights; activations
     * are kept for them (struct acts_plan). */
    bool weights_later;
};

#endif
