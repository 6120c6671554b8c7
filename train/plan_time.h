/* Predicts how long a training step takes: per-layer products, attention, memory-bound ops and
 * collectives, laid along the pipeline's real schedule. The formulas are in docs/plan.md.
 *
 * A model is its shapes, so that models of other programs, published with their times, can be
 * predicted too; what differs between programs is in struct plan_habits. */
#ifndef STRATA_TRAIN_PLAN_TIME_H
#define STRATA_TRAIN_PLAN_TIME_H

#include "core/adapter.h"
#include "core/weights.h"
#include "train/options.h"
#include "train/plan_device.h"

/* y = x W^T of every layer: W is (rows, cols). */
struct plan_product {
    double rows, cols, row_unit; /* rows are cut in multiples of row_unit, and one at least */
    enum weight_shard shard;     /* under tensor parallelism */
    bool adapted;                /* a LoRA pair beside it */
    bool cheap;                  /* made again by selective recomputation */
};

enum { PLAN_PRODUCTS = 8 };

struct plan_model {
    int layers, product_count;
    struct plan_product products[PLAN_PRODUCTS];
    double hidden, ffn, vocab;
    double q, kv; /* widths of all heads' queries, and of keys */
    int heads;
    bool gated; /* gate and up, or one matrix */
    bool tied;
    double sliding; /* part of the layers that look back `window` tokens alone */
    double window;
    double lora_rank; /* 0: all weights are trained */
};

/* From a config and, unless NULL, an adapter's. */
struct plan_model plan_model_of(const struct model_config *config,
                                const struct adapter_config *adapter);

/* Parameters of the products of a layer. */
double plan_layer_parameters(const struct plan_model *model);

/* FLOPs of training on a token, as model_config_training_flops counts them. */
double plan_training_flops(const struct plan_model *model, double length);

/* How a program goes about it. */
struct plan_habits {
    bool bf16;              /* products; activations have 2 bytes, else 4 */
    double gradient_bytes;  /* of an element that replicas sum */
    double gathered_bytes;  /* of an updated weight that is sent to the others */
    double optimizer_bytes; /* read and written a parameter by an update */
    double offloaded_bytes; /* of a parameter's state, in the host's memory */
    double clearing_bytes;  /* by the gradients' owner before and after, shared or not */
    bool gathers_hidden;    /* updated weights travel while the next step begins */
    bool scores_stored;     /* attention writes its scores: before FlashAttention */
};
struct plan_habits plan_habits_of_strata(bool bf16);

struct plan_layout {
    struct mesh mesh;
    int schedule, chunks; /* enum schedule_kind */
    int zero;
    bool sequence;
    enum train_recompute recompute;
    int64_t length, global_batch, micro_batch; /* micro_batch: sequences at once, at least 1 */
    int per_node;                              /* ranks */
};

/* Microbatches of a step. */
int64_t plan_microbatches(const struct plan_layout *layout);

struct plan_time {
    double seconds;  /* of a step */
    double pipeline; /* of the microbatches, communication within layers included */
    double bubble;   /* that the busiest stage waits */
    double tensor,
        replicas; /* communication that nothing hides: of layers; of gradients, weights */
    double optimizer;
    double tokens_per_second; /* of the job */
    double mfu;               /* plan_training_flops over what all devices could do */
};

/* STATUS_CONFIG: fewer layers than parts of the pipeline, or what schedule_create refuses. */
enum status plan_time(struct plan_time *time, const struct plan_device *device,
                      const struct plan_model *model, const struct plan_habits *habits,
                      const struct plan_layout *layout);

#endif
