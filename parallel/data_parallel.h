/* Data parallelism: every rank computes gradients of its own samples; a step's gradients are the
 * sum over ranks. No average: loss weights are divided by the valid tokens of the global batch
 * beforehand.
 *
 * Gradients live in buckets of about bucket_bytes, in the order in which backward completes them,
 * so one reduction covers many parameters and starts while lower layers still compute:
 *
 *     gradients    | head, final norm, layer L-1 ... | layer k ... | ... layer 0, embedding |
 *                    bucket 0                          bucket 1      bucket n-1
 *
 * ZeRO (arXiv:1910.02054) cuts each bucket into equal shares, one a rank, wherever the cuts fall:
 *
 *     bucket       | rank 0's      | rank 1's      | rank 2's      | rank 3's  (padding) |
 *                         ^ a cut lies between columns of a panel: a parameter's share is a run of
 *                           its elements, up to three rectangles of the matrix (weight_parts)
 *
 *     zero 0   every rank sums every bucket and updates all weights           2 N elements a step
 *     zero 1   a rank sums, and updates, its shares; weights are gathered     2 N
 *     zero 2   it keeps nothing of a gradient but its shares: buckets take    (m + 1) N for m
 *              turns in two buffers, and every microbatch is scattered        microbatches
 *     zero 3   weights_sharded: matrices lie in shares too (parallel/sharded_weights.h), cut as
 *              their buckets are, a layer a bucket; vectors are whole, in a bucket of their own
 *
 * The sum of a bucket is deterministic for a number of ranks; in shares it is made in rank order.
 * One rank: a layout, nothing else. */
#ifndef STRATA_PARALLEL_DATA_PARALLEL_H
#define STRATA_PARALLEL_DATA_PARALLEL_H

#include "core/comm.h"
#include "core/model.h"

enum {
    DP_BUCKET_BYTES = 16 << 20,   /* where nothing says otherwise */
    DP_SCATTER_BYTES = 256 << 20, /* larger buckets are scattered at once, in pieces */
    /* Elements: a parameter's beginning, and a cut, are multiples: so a block of 8-bit moments, a
     * tile of 16 x 16, is one rank's, whatever their number. */
    DP_CUT = 256
};

struct dp_bucket {
    float *data;     /* (count), borrowed from the arena; NULL while counting */
    float *share;    /* (count / shares) my part of the sum, after dp_finish; may lie in data */
    int64_t count;   /* elements, padding between parameters included (always zero) */
    int first, last; /* parameters [first, last) in backward order */
    bool lasting;    /* written to by layers that others lie between: complete at the very end */
    bool whole;      /* its weights are whole on every rank */
    int pending;     /* parameters that backward has not completed */
    bool open;       /* gradients are written to data, and are not summed yet */
    bool started;
    struct comm_request request;
};

struct dp {
    struct comm *comm;
    struct stream *stream;
    int zero;
    int shares, mine; /* of every bucket; 1 and 0 where each rank sums all */
    int layers;       /* of the model: head and final norm count as layer L */
    bool tied, weights_sharded;
    int param_count;       /* trained ones */
    struct param **params; /* (param_count) in backward order: head first, embedding last */
    int64_t *offsets;      /* (param_count) elements from its bucket's beginning */
    int bucket_count;
    struct dp_bucket *buckets;
    float *scratch; /* of the one scatter in flight */
};

struct dp_options {
    struct comm *comm; /* the ranks with the same weights; borrowed, as is the stream */
    struct stream *stream;
    int layers;
    size_t bucket_bytes;
    int zero;
    bool tied; /* the embedding makes the logits too: it has a bucket of its own, cut alike
                  on both end stages of a pipeline */
    bool weights_sharded; /* zero 3, and the parameters are the model's */
};

/* Lays out gradients of `params` (in any order; all are trained) in `grads`, which may be counting
 * (then rank and size of the communicator are all that is asked of it), and points every
 * param->grad at its place. STATUS_MEMORY only. */
enum status dp_plan(struct dp *dp, const struct dp_options *options, struct param *const *params,
                    int param_count, struct arena *grads);

/* Forgets the layout; the arena is the caller's. May be called twice, and on a zeroed struct. */
void dp_free(struct dp *dp);

/* Sets all gradients to zero: the start of a step. */
void dp_zero(const struct dp *dp);

/* Whether a microbatch's backward reports its layers: the step's last one, and from zero 2 on each
 * one, also of a rank that has no samples left. */
static inline bool dp_reports(const struct dp *dp, bool last) {
    return last || dp->zero >= 2;
}

/* Before the backward of a layer (core/exec.h's exec_begin_layer): makes room for its gradients. */
void dp_layer_begins(struct dp *dp, int layer);

/* A stage_layer_done (core/stage.h) with a struct dp as context, where dp_reports says so: starts
 * the reduction of every bucket that the layer completes, and moves those in flight on. */
void dp_layer_done(void *dp, int layer);

/* A backward that reported its layers is over: the gradients that it wrote to in several of them
 * are complete too. What is to be summed over other ranks before is, anew in each such backward. */
void dp_pass_done(struct dp *dp);

/* Starts what was never reported complete, waits for all. My shares are sums afterwards; a failure
 * sticks to the stream. Buckets are ready for the next step. */
void dp_finish(struct dp *dp);

/* values (count) = their sums over the ranks that hold shares. */
void dp_sum_shares(struct dp *dp, double *values, int count);

/* My elements of a parameter, in the order of its gradient. */
struct dp_piece {
    int bucket;
    int64_t first, count; /* count may be 0 */
    float *grad;          /* of the first */
    float *staged;        /* its place in the bucket's whole data, for dp_gather */
};
struct dp_piece dp_piece(const struct dp *dp, const struct param *param);

/* How many elements of dp->params[i], which lies in `bucket`, are rank `rank`'s of the shares. */
int64_t dp_piece_count(const struct dp *dp, int bucket, int i, int rank);

/* After an update: my new fp32 weights lie staged in a bucket whose weights are whole; gathers
 * everybody's and rounds them into the parameters. Overwrites gradients. Collective over comm. */
void dp_gather(struct dp *dp, int bucket);

#endif
