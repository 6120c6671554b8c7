/* Data parallelism: every rank computes gradients of its own samples; a step's gradients are the
 * sum over ranks (no average: loss weights are normalised over the global batch beforehand,
 * docs: sum of token losses / valid tokens of all ranks).
 *
 * Gradients live in buckets of about bucket_bytes, in the order in which backward completes them,
 * so one reduction covers many parameters and starts while lower layers still compute:
 *
 *     grads arena  | head, final norm, layer L-1 ... | layer k ... | ... layer 0, embedding |
 *                    bucket 0                          bucket 1      bucket n-1
 *
 * The sum of a bucket is deterministic for a number of ranks. One rank: a layout, nothing else. */
#ifndef STRATA_PARALLEL_DATA_PARALLEL_H
#define STRATA_PARALLEL_DATA_PARALLEL_H

#include "core/comm.h"
#include "core/model.h"

struct dp_bucket {
    float *data;     /* (count), borrowed from the arena; NULL while counting */
    int64_t count;   /* elements, padding between parameters included (always zero) */
    int first, last; /* parameters [first, last) in backward order */
    int pending;     /* parameters that backward has not completed */
    bool started;
    struct comm_request request;
};

struct dp {
    struct comm *comm;
    struct stream *stream;
    int layers;            /* of the model: head and final norm count as layer L */
    int param_count;       /* trained ones */
    struct param **params; /* (param_count) in backward order: head first, embedding last */
    int bucket_count;
    struct dp_bucket *buckets;
};

enum { DP_BUCKET_BYTES = 16 << 20 }; /* where nothing says otherwise */

/* Lays out gradients of `params` (in any order; all are trained) in `grads`, which may be counting,
 * and points every param->grad at its place. comm and stream are borrowed. STATUS_MEMORY only. */
enum status dp_plan(struct dp *dp, struct comm *comm, struct stream *stream,
                    struct param *const *params, int param_count, int layers, size_t bucket_bytes,
                    struct arena *grads);

/* Forgets the layout; the arena is the caller's. May be called twice, and on a zeroed struct. */
void dp_free(struct dp *dp);

/* Sets all gradients to zero: the start of a step. */
void dp_zero(const struct dp *dp);

/* A stage_layer_done (core/stage.h) with a struct dp as context, for the last microbatch of a step:
 * starts the reduction of every bucket that the layer completes, and moves those in flight on. */
void dp_layer_done(void *dp, int layer);

/* Starts what was never reported complete, waits for all. Gradients are sums afterwards; a failure
 * sticks to the stream. Buckets are ready for the next step. */
void dp_finish(struct dp *dp);

#endif
