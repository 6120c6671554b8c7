/* A model in memory, or the shard of it that this rank holds: its config and its parameters, each a
 * packed matrix or a vector, in one arena that lives as long as the run. */
#ifndef STRATA_CORE_MODEL_H
#define STRATA_CORE_MODEL_H

#include "core/arena.h"
#include "core/model_file.h"
#include "core/shard.h"
#include "kernels/pack.h"

/* The rectangle of a logical tensor that a parameter is; its size is that of param.w. */
struct param_slice {
    int64_t rows, cols; /* of the whole tensor */
    int64_t first_row, first_col;
};

/* One trainable or frozen tensor. Vectors are 1 x n in LAYOUT_ROWS_F32. */
struct param {
    enum weight_id id;
    int layer;                         /* -1 outside the layers */
    char name[WEIGHT_NAME_BYTES + 64]; /* Hugging Face's, or PEFT's for a LoRA factor */
    bool decays;
    struct param_slice slice;
    int copies;   /* neighbouring tensor-parallel ranks that hold the same rectangle, me included */
    bool primary; /* I am the first of them: the one that counts it and writes it */
    struct weight w;    /* what the layers compute with */
    struct weight grad; /* fp32, same element order; data NULL while frozen */
};

struct model {
    struct model_config config; /* the whole model's */
    struct model_config local;  /* heads, kv_heads, ffn and vocab are those of my slice */
    struct shard shard;
    int param_count;
    struct param *params;
    struct param *by_layer[MODEL_MAX_LAYERS + 1]; /* (WEIGHT_COUNT) each, indexed layer + 1 */
    double *inverse_frequency;                    /* RoPE, (head_dim / 2) */
    double rope_factor;
    struct arena arena; /* the weights' bytes */
};

/* Lays out the parameters in `arena`, which may be counting (then nobody may touch their values).
 * matrices is what the matrices are kept in: LAYOUT_PANEL_F32, LAYOUT_PANEL_BF16, or, of a model
 * that is not trained, LAYOUT_NF4: the linear layers of the blocks in NF4 (kernels/quantized.h),
 * the embedding and the head in bf16. Norms and biases are fp32 always. Here and below `shard` NULL
 * is the whole model; one whose ranks can't share the model, or one that cuts a block of a
 * quantized weight, is STATUS_CONFIG; of a quantized model the slice of the feed-forward width is
 * whole blocks. */
enum status model_describe(struct model *model, const struct model_config *config,
                           const struct shard *shard, enum layout matrices, struct arena *arena);

/* Describes twice: counts, allocates model->arena, lays out. Values are zero. Frees everything on
 * failure. model_free may be called twice, and on a zeroed struct. */
enum status model_create(struct model *model, const struct model_config *config,
                         const struct shard *shard, enum layout matrices);
void model_free(struct model *model);

/* Some of a model's layers, and ends, as a model of their own that borrows everything: it is not
 * freed, and `model` must neither move its parameters nor be freed before. */
static inline struct model model_part(const struct model *model, const struct shard *shard) {
    struct model part = *model;
    part.shard = *shard;
    return part;
}

/* The parameter of a weight, NULL where the model, or this shard of it, has none. */
static inline struct param *model_param(const struct model *model, enum weight_id id, int layer) {
    struct param *row = model->by_layer[weight_table[id].per_layer ? layer + 1 : 0];
    return row[id].w.data ? &row[id] : NULL;
}

/* The matrix that makes logits: the head, or the embedding when tied. */
static inline struct param *model_head(const struct model *model) {
    return model_param(model, model->config.tied ? WEIGHT_EMBED : WEIGHT_HEAD, -1);
}

/* Reads config and weights of a file that is open. matrices = LAYOUT_COUNT chooses by what is
 * stored: bf16 panels for BF16 files, fp32 otherwise (quantized weights are dequantized exactly).
 * LAYOUT_STORED keeps each matrix as the file has it: block types and F16 as their blocks, BF16 and
 * F32 as panels, so that memory is about the file's size; values are the same as dequantized ones.
 * `context` > 0 sets the run's context length (dynamic RoPE scaling needs it). A missing tensor, a
 * wrong shape or a NaN weight is named. */
enum status model_load(struct model *model, const struct model_file *file,
                       const struct shard *shard, enum layout matrices, int64_t context,
                       int threads);

/* What LAYOUT_COUNT chooses. */
enum layout model_layout_auto(const struct model_config *config, const struct model_file *file);

/* A weight's tensor in a file, NULL when it has none. */
const struct file_tensor *model_tensor(const struct model_file *file, enum weight_id id, int layer);

/* What model_load would lay out, counted: model->arena says the bytes and no weight is read.
 * model_free ends it. Its parameters may be given memory of their own and loaded one by one. */
enum status model_plan(struct model *model, const struct model_file *file,
                       const struct shard *shard, enum layout matrices, int64_t context);

/* Reads one parameter that has memory. */
enum status model_load_param(const struct model *model, const struct model_file *file,
                             const struct param *param, int threads);

/* Random weights, N(0, std), output projections scaled by 1 / sqrt(2 L) (GPT-2); norms 1, biases 0.
 * The value of an element depends on seed, parameter and element of the logical tensor alone, not
 * on the shard, nor on `threads` (at least 1), which share the rows. */
void model_init_random(struct model *model, uint64_t seed, float std, int threads);
void model_init_param(const struct model *model, const struct param *param, uint64_t seed,
                      float std, int threads); /* one of them */

/* fp32 values of rows [first, first + count) of a parameter (its slice's rows), in Hugging Face's
 * order. */
static inline void param_read(float *out, const struct param *param, int64_t first, int64_t count) {
    weight_unpack(out, &param->w, first, count);
}

/* Where a whole model's values come from that are not in memory: a checkpoint, of which its ranks
 * hold parts. The model is one that was described on a counting arena. */
struct param_source {
    enum status (*read)(void *context, float *out, const struct param *param, int64_t first,
                        int64_t count); /* as param_read */
    void *context;
};

/* The layer whose backward completes a parameter's gradient: `layers` stands for final norm and
 * head, -1 for the embedding. */
static inline int param_completing_layer(const struct param *param, int layers) {
    if (param->layer >= 0) return param->layer;
    return param->id == WEIGHT_EMBED ? -1 : layers;
}

/* param_read from `source`, or from memory where it is NULL. */
static inline enum status param_read_from(const struct param_source *source, float *out,
                                          const struct param *param, int64_t first, int64_t count) {
    if (source) return source->read(source->context, out, param, first, count);
    param_read(out, param, first, count);
    return STATUS_OK;
}

#endif
