#include "core/packed_batch.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum status packed_batch_create(struct packed_batch *packed, int64_t tokens, int32_t sequences) {
    memset(packed, 0, sizeof *packed);
    size_t n = (size_t)tokens, m = (size_t)sequences;
    packed->token_capacity = tokens;
    packed->sequence_capacity = sequences;
    packed->ids = malloc(n * sizeof *packed->ids);
    packed->positions = malloc(n * sizeof *packed->positions);
    packed->targets = malloc(n * sizeof *packed->targets);
    packed->loss_weights = malloc(n * sizeof *packed->loss_weights);
    packed->row_ids = malloc(n * sizeof *packed->row_ids);
    packed->start = malloc((m + 1) * sizeof *packed->start);
    packed->past = calloc(m, sizeof *packed->past);
    if (!packed->ids || !packed->positions || !packed->targets || !packed->loss_weights ||
        !packed->row_ids || !packed->start || !packed->past) {
        packed_batch_free(packed);
        return status_fail(STATUS_MEMORY, "no memory for a batch of %lld tokens",
                           (long long)tokens);
    }
    packed_batch_clear(packed);
    return STATUS_OK;
}

void packed_batch_free(struct packed_batch *packed) {
    free(packed->ids);
    free(packed->positions);
    free(packed->targets);
    free(packed->loss_weights);
    free(packed->row_ids);
    free(packed->start);
    free(packed->past);
    memset(packed, 0, sizeof *packed);
}

void packed_batch_clear(struct packed_batch *packed) {
    packed->start[0] = 0;
    packed->batch = (struct batch){
        .ids = packed->ids,
        .positions = packed->positions,
        .segments = {.count = 0, .start = packed->start, .past = packed->past},
        .targets = packed->targets,
        .loss_weights = packed->loss_weights,
        .row_ids = packed->row_ids,
    };
}

void packed_batch_add(struct packed_batch *packed, const int32_t *tokens, int64_t count,
                      float weight) {
    struct batch *batch = &packed->batch;
    assert(batch->tokens + count <= packed->token_capacity);
    assert(batch->segments.count < packed->sequence_capacity);
    for (int64_t i = 0; i < count; i++) {
        int64_t t = batch->tokens + i;
        packed->ids[t] = tokens[i];
        packed->positions[t] = (int32_t)i;
        packed->targets[t] = i + 1 < count ? tokens[i + 1] : -1;
        packed->loss_weights[t] = i + 1 < count ? weight : 0.0f;
        packed->row_ids[t] = t;
    }
    batch->tokens += count;
    batch->segments.count++;
    packed->start[batch->segments.count] = (int32_t)batch->tokens;
}
