/* The weight table: every fact about a weight in one row. Loader, layers, optimizer, checkpoint,
 * LoRA, planner and export read it; a new model family is rows and a config. */
#ifndef STRATA_CORE_WEIGHTS_H
#define STRATA_CORE_WEIGHTS_H

#include "core/model_config.h"

enum weight_id {
    WEIGHT_EMBED,
    WEIGHT_ATTN_NORM,
    WEIGHT_Q,
    WEIGHT_K,
    WEIGHT_V,
    WEIGHT_O,
    WEIGHT_Q_BIAS,
    WEIGHT_K_BIAS,
    WEIGHT_V_BIAS,
    WEIGHT_O_BIAS,
    WEIGHT_Q_NORM,
    WEIGHT_K_NORM,
    WEIGHT_MLP_NORM,
    WEIGHT_GATE,
    WEIGHT_UP,
    WEIGHT_DOWN,
    WEIGHT_GATE_BIAS,
    WEIGHT_UP_BIAS,
    WEIGHT_DOWN_BIAS,
    WEIGHT_FINAL_NORM,
    WEIGHT_HEAD,
    WEIGHT_COUNT,
    WEIGHT_NONE = WEIGHT_COUNT
};

enum weight_dim { DIM_ONE, DIM_VOCAB, DIM_HIDDEN, DIM_FFN, DIM_Q, DIM_KV, DIM_HEAD };
enum weight_when {
    WHEN_ALWAYS,
    WHEN_QKV_BIAS,
    WHEN_O_BIAS,
    WHEN_MLP_BIAS,
    WHEN_QK_NORM,
    WHEN_UNTIED
};
enum weight_shard { SHARD_NONE, SHARD_ROWS, SHARD_COLS }; /* under tensor parallelism */
/* GGUF permutes rows of ROPE_Q and ROPE_K for interleaved RoPE (llama family). */
enum weight_order { ORDER_PLAIN, ORDER_ROPE_Q, ORDER_ROPE_K };

struct weight_row {
    const char *hf;     /* Hugging Face's name; %d is the layer */
    const char *gguf;   /* GGUF's name */
    const char *module; /* the last component before .weight: PEFT's target_modules name it */
    enum weight_dim rows, cols; /* vectors are 1 x n */
    enum weight_when when;
    enum weight_shard shard;
    enum weight_order order;
    enum weight_id bias; /* the bias that belongs to a matrix, or WEIGHT_NONE */
    bool per_layer;
    bool decays;      /* weight decay applies: matrices, not norms and biases */
    bool lora_target; /* a LoRA pair may sit beside it */
};

extern const struct weight_row weight_table[WEIGHT_COUNT];

/* Elements along one axis for a config. */
int64_t weight_dim_size(const struct model_config *config, enum weight_dim dim);

/* Whether a model of this config has the weight. */
bool weight_present(const struct model_config *config, enum weight_id id);

static inline bool weight_is_vector(enum weight_id id) {
    return weight_table[id].rows == DIM_ONE;
}

enum { WEIGHT_NAME_BYTES = 128 };

/* Hugging Face's or GGUF's name of a weight; layer is ignored outside layers. */
void weight_name_hf(char name[WEIGHT_NAME_BYTES], enum weight_id id, int layer);
void weight_name_gguf(char name[WEIGHT_NAME_BYTES], enum weight_id id, int layer);

/* The id whose module is `module` ("q_proj"), or WEIGHT_NONE. */
enum weight_id weight_find_module(const char *module);

#endif
