/* Which part of a model a rank holds: a run of layers (pipeline), and of each layer a slice (tensor
 * parallelism, Megatron-LM, arXiv:1909.08053). Arithmetic alone: no communicator, no memory.
 *
 *   sliced by rows   q, k, v (whole heads), gate, up, and by vocabulary embedding and head
 *   sliced by cols   o, down
 *   on every rank    norms, and biases of o and down
 *
 * Slices are contiguous, in order of rank, and differ by at most one unit: a head, a word, or
 * ffn_unit of the feed-forward width (the blocks of a quantized base must not be cut). A rank has
 * at least one key/value head: where there are fewer of them than ranks, neighbours hold the same
 * one. */
#ifndef STRATA_CORE_SHARD_H
#define STRATA_CORE_SHARD_H

#include "core/weights.h"

struct layer_run {
    int first, end; /* [first, end) */
};

enum { SHARD_MAX_RUNS = 16 };

struct shard {
    int tp_rank, tp_size;
    int first_layer, end_layer;            /* [first, end) */
    int run_count;                         /* 0: all layers of [first, end) */
    struct layer_run runs[SHARD_MAX_RUNS]; /* those of [first, end) that are here; interleaved */
    bool embedding, head;                  /* whether the ends of the model are here */
    int64_t ffn_unit; /* the feed-forward width is cut at multiples of it; 0 = 1 */
};

/* All of a model on one rank. */
struct shard shard_whole(const struct model_config *config);

/* STATUS_CONFIG names what tp_size ranks can't share. */
enum status shard_check(const struct model_config *config, int tp_size);

/* The config of a rank's slice: its heads, kv_heads, ffn and vocab. */
struct model_config shard_config(const struct shard *shard, const struct model_config *config);

struct shard_range {
    int64_t first, count;
};
/* My part along an axis of a weight. */
struct shard_range shard_range(const struct shard *shard, const struct model_config *config,
                               enum weight_dim dim);

/* How many neighbouring tensor-parallel ranks hold the same slice of a weight: all of them where it
 * is not sliced. */
int shard_copies(const struct shard *shard, const struct model_config *config, enum weight_id id);

/* Whether a weight that the model has lies on this rank. A tied embedding lies on both end stages.
 */
bool shard_holds(const struct shard *shard, const struct model_config *config, enum weight_id id,
                 int layer);

#endif
