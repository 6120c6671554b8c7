/* ZeRO 3 (arXiv:1910.02054): a model's matrices lie in equal shares on the ranks that hold the same
 * weights, and are gathered a layer ahead of their use.
 *
 *     a unit (layer k)      | wq | wk | wv | wo | gate | up | down | padding |
 *     shares                | rank 0's     | rank 1's     | rank 2's   ...   |
 *
 *     forward  layer k      computes in buffer k % 2     head, embedding: a third buffer
 *              layer k + 1  arrives in the other one
 *
 * A unit is the matrices of a layer, the embedding, or the head; bf16 and fp32 are cut as their
 * gradients are (parallel/data_parallel.h), so a rank updates what it keeps. Frozen weights may be
 * of any layout. Vectors are whole. Buffers are
 * assigned for good: a matrix's address never changes, but what it holds is another unit's weights
 * outside its turn. */
#ifndef STRATA_PARALLEL_SHARDED_WEIGHTS_H
#define STRATA_PARALLEL_SHARDED_WEIGHTS_H

#include "core/comm.h"
#include "core/model.h"

struct sharded_unit {
    int layer;       /* -1 the embedding, L the head */
    int first, last; /* matrices [first, last) */
    size_t bytes;    /* padding included */
    char *share;     /* (bytes / shares) */
    char *buffer;    /* (bytes) */
    bool here;       /* buffer holds it, when the request has ended */
    bool started;
    struct comm_request request;
};

struct sharded_weights {
    struct comm *comm;
    struct stream *stream;
    int shares, mine;
    int layers;                 /* of the model */
    struct param **params;      /* by unit, in the model's order */
    size_t *offsets;            /* bytes from the unit's beginning */
    int unit_count;             /* 0: weights are whole, and every call does nothing */
    struct sharded_unit *units; /* layer ascending */
};

/* Lays out the shares and buffers of `model`, which was described on a counting arena, and its
 * vectors, in `weights`, which may be counting (then rank and size are all that is asked of comm),
 * and points every param->w at its place. comm and stream are borrowed. STATUS_MEMORY;
 * STATUS_UNSUPPORTED names a bf16 matrix with an odd number of columns, which can't be cut so. */
enum status sharded_plan(struct sharded_weights *sharded, struct model *model, struct comm *comm,
                         struct stream *stream, struct arena *weights);
void sharded_free(struct sharded_weights *sharded); /* may be called twice, and on zeroes */

/* The unit of a matrix; NULL for a parameter that is whole. */
struct sharded_unit *sharded_unit_of(const struct sharded_weights *sharded,
                                     const struct param *param);

/* Takes my share of a unit whose buffer was filled with its weights. */
void sharded_keep(struct sharded_weights *sharded, struct sharded_unit *unit);

/* Before a layer runs (core/exec.h): its weights are there when this returns, those of the one that
 * follows in that direction are on their way. Every rank runs its layers in the same order. */
void sharded_begin(struct sharded_weights *sharded, int layer, bool backward);

/* The same for one parameter, until another one is brought. Collective over comm. */
void sharded_bring(struct sharded_weights *sharded, const struct param *param);

/* Shares have changed: what is gathered is stale. */
void sharded_forget(struct sharded_weights *sharded);

/* Where element `first` of a matrix, which must be in my share, lies; NULL for a whole one. */
void *sharded_place(const struct sharded_weights *sharded, const struct param *param,
                    int64_t first);

#endif
