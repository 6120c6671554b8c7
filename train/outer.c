#include "train/outer.h"

#include <stdlib.h>
#include <string.h>

static size_t slot_bytes(const struct optimizer_slot *slot) {
    return (size_t)slot->piece.count * sizeof(float);
}

enum status outer_plan(struct outer *outer, const struct optimizer *optimizer,
                       struct arena *arena) {
    size_t room = (size_t)optimizer->count + 1;
    *outer = (struct outer){.optimizer = optimizer,
                            .anchors = calloc(room, sizeof(float *)),
                            .momenta = calloc(room, sizeof(float *))};
    if (!outer->anchors || !outer->momenta) {
        outer_free(outer);
        return status_fail(STATUS_MEMORY, "no memory for the list of anchors");
    }
    for (int i = 0; i < optimizer->count; i++) {
        outer->anchors[i] = arena_push(arena, slot_bytes(&optimizer->slots[i]));
        outer->momenta[i] = arena_push(arena, slot_bytes(&optimizer->slots[i]));
    }
    return STATUS_OK;
}

void outer_free(struct outer *outer) {
    free(outer->anchors);
    free(outer->momenta);
    *outer = (struct outer){0};
}

void outer_start(const struct outer *outer) {
    for (int i = 0; i < outer->optimizer->count; i++)
        memcpy(outer->anchors[i], outer->optimizer->slots[i].master,
               slot_bytes(&outer->optimizer->slots[i]));
}

/* w (n) in: the sum over `replicas` replicas; out: the new anchor. */
static void move(float *w, float *anchor, float *momentum, int64_t n, int replicas, float lr,
                 float mu, int threads) {
    float share = 1.0f / (float)replicas;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float d = anchor[i] - w[i] * share;
        momentum[i] = mu * momentum[i] + d;
        anchor[i] -= lr * (d + mu * momentum[i]);
        w[i] = anchor[i];
    }
}

void outer_step(const struct outer *outer, struct comm *replicas, struct stream *stream, double lr,
                double momentum) {
    const struct optimizer *optimizer = outer->optimizer;
    for (int i = 0; i < optimizer->count; i++) {
        const struct optimizer_slot *slot = &optimizer->slots[i];
        comm_all_reduce_ordered(replicas, stream, slot->master, slot->piece.count, DTYPE_F32);
        move(slot->master, outer->anchors[i], outer->momenta[i], slot->piece.count, replicas->size,
             (float)lr, (float)momentum, stream->threads);
    }
    optimizer_refresh(optimizer, stream);
}
