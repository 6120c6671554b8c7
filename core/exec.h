/* What a layer needs to run: where (stream), with what (op table), with whom (tensor-parallel
 * peers) and scratch memory for values that do not outlive it. Passed by pointer to everything;
 * nothing of it is global.
 *
 * To measure a layout, run the same code with kernels_nothing() and a counting scratch arena: every
 * address is made, nothing is read or written. */
#ifndef STRATA_CORE_EXEC_H
#define STRATA_CORE_EXEC_H

#include "core/arena.h"
#include "core/comm.h"
#include "kernels/kernels.h"

/* Who is told that a layer is about to run (-1: embedding; L: head and final norm), forward or
 * backward: to bring its weights, or make room for its gradients. */
struct exec_watch {
    void (*begins)(void *context, int layer, bool backward);
    void *context;
};

struct exec {
    struct stream *stream;
    const struct kernels *k;
    struct comm *tp;       /* the ranks that share each layer */
    struct comm *cp;       /* the ranks that share a batch's tokens, where it says so */
    struct arena *scratch; /* marked and released around each use */
    bool sequence;         /* the residual stream is split over tp by tokens (core/sequence.h) */
    /* Called after each layer where it is not NULL: messages that are under way want attention. */
    void (*between_layers)(void *context);
    void *context;
    const struct exec_watch *watch; /* NULL: nobody */
};

static inline void exec_between_layers(const struct exec *exec) {
    if (exec->between_layers) exec->between_layers(exec->context);
}

static inline void exec_begin_layer(const struct exec *exec, int layer, bool backward) {
    if (exec->watch) exec->watch->begins(exec->watch->context, layer, backward);
}

/* Bytes of `elements` activations. */
static inline size_t act_bytes(const struct exec *exec, int64_t elements) {
    return dtype_bytes(exec->k->act, (size_t)elements);
}

/* Scratch for `elements` activations or floats; release with arena_release. */
static inline void *scratch_act(const struct exec *exec, int64_t elements) {
    return arena_push(exec->scratch, act_bytes(exec, elements));
}
static inline float *scratch_f32(const struct exec *exec, int64_t elements) {
    return arena_push(exec->scratch, (size_t)elements * sizeof(float));
}

#endif
