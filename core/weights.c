#include "core/weights.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define LAYER "model.layers.%d."

/* What a row leaves out: present always, in no way cut or permuted, and false. */
const struct weight_row weight_table[WEIGHT_COUNT] = {
    [WEIGHT_EMBED] = {.hf = "model.embed_tokens.weight",
                      .gguf = "token_embd.weight",
                      .module = "embed_tokens",
                      .rows = DIM_VOCAB,
                      .cols = DIM_HIDDEN,
                      .shard = SHARD_ROWS,
                      .bias = WEIGHT_NONE,
                      .decays = true},
    [WEIGHT_ATTN_NORM] = {.hf = LAYER "input_layernorm.weight",
                          .gguf = "blk.%d.attn_norm.weight",
                          .module = "input_layernorm",
                          .rows = DIM_ONE,
                          .cols = DIM_HIDDEN,
                          .bias = WEIGHT_NONE,
                          .per_layer = true},
    [WEIGHT_Q] = {.hf = LAYER "self_attn.q_proj.weight",
                  .gguf = "blk.%d.attn_q.weight",
                  .module = "q_proj",
                  .rows = DIM_Q,
                  .cols = DIM_HIDDEN,
                  .shard = SHARD_ROWS,
                  .order = ORDER_ROPE_Q,
                  .bias = WEIGHT_Q_BIAS,
                  .per_layer = true,
                  .decays = true,
                  .lora_target = true},
    [WEIGHT_K] = {.hf = LAYER "self_attn.k_proj.weight",
                  .gguf = "blk.%d.attn_k.weight",
                  .module = "k_proj",
                  .rows = DIM_KV,
                  .cols = DIM_HIDDEN,
                  .shard = SHARD_ROWS,
                  .order = ORDER_ROPE_K,
                  .bias = WEIGHT_K_BIAS,
                  .per_layer = true,
                  .decays = true,
                  .lora_target = true},
    [WEIGHT_V] = {.hf = LAYER "self_attn.v_proj.weight",
                  .gguf = "blk.%d.attn_v.weight",
                  .module = "v_proj",
                  .rows = DIM_KV,
                  .cols = DIM_HIDDEN,
                  .shard = SHARD_ROWS,
                  .bias = WEIGHT_V_BIAS,
                  .per_layer = true,
                  .decays = true,
                  .lora_target = true},
    [WEIGHT_O] = {.hf = LAYER "self_attn.o_proj.weight",
                  .gguf = "blk.%d.attn_output.weight",
                  .module = "o_proj",
                  .rows = DIM_HIDDEN,
                  .cols = DIM_Q,
                  .shard = SHARD_COLS,
                  .bias = WEIGHT_O_BIAS,
                  .per_layer = true,
                  .decays = true,
                  .lora_target = true},
    [WEIGHT_Q_BIAS] = {.hf = LAYER "self_attn.q_proj.bias",
                       .gguf = "blk.%d.attn_q.bias",
                       .module = "q_proj",
                       .rows = DIM_ONE,
                       .cols = DIM_Q,
                       .when = WHEN_QKV_BIAS,
                       .shard = SHARD_COLS,
                       .order = ORDER_ROPE_Q,
                       .bias = WEIGHT_NONE,
                       .per_layer = true},
    [WEIGHT_K_BIAS] = {.hf = LAYER "self_attn.k_proj.bias",
                       .gguf = "blk.%d.attn_k.bias",
                       .module = "k_proj",
                       .rows = DIM_ONE,
                       .cols = DIM_KV,
                       .when = WHEN_QKV_BIAS,
                       .shard = SHARD_COLS,
                       .order = ORDER_ROPE_K,
                       .bias = WEIGHT_NONE,
                       .per_layer = true},
    [WEIGHT_V_BIAS] = {.hf = LAYER "self_attn.v_proj.bias",
                       .gguf = "blk.%d.attn_v.bias",
                       .module = "v_proj",
                       .rows = DIM_ONE,
                       .cols = DIM_KV,
                       .when = WHEN_QKV_BIAS,
                       .shard = SHARD_COLS,
                       .bias = WEIGHT_NONE,
                       .per_layer = true},
    [WEIGHT_O_BIAS] = {.hf = LAYER "self_attn.o_proj.bias",
                       .gguf = "blk.%d.attn_output.bias",
                       .module = "o_proj",
                       .rows = DIM_ONE,
                       .cols = DIM_HIDDEN,
                       .when = WHEN_O_BIAS,
                       .bias = WEIGHT_NONE,
                       .per_layer = true},
    [WEIGHT_Q_NORM] = {.hf = LAYER "self_attn.q_norm.weight",
                       .gguf = "blk.%d.attn_q_norm.weight",
                       .module = "q_norm",
                       .rows = DIM_ONE,
                       .cols = DIM_HEAD,
                       .when = WHEN_QK_NORM,
                       .bias = WEIGHT_NONE,
                       .per_layer = true},
    [WEIGHT_K_NORM] = {.hf = LAYER "self_attn.k_norm.weight",
                       .gguf = "blk.%d.attn_k_norm.weight",
                       .module = "k_norm",
                       .rows = DIM_ONE,
                       .cols = DIM_HEAD,
                       .when = WHEN_QK_NORM,
                       .bias = WEIGHT_NONE,
                       .per_layer = true},
    [WEIGHT_MLP_NORM] = {.hf = LAYER "post_attention_layernorm.weight",
                         .gguf = "blk.%d.ffn_norm.weight",
                         .module = "post_attention_layernorm",
                         .rows = DIM_ONE,
                         .cols = DIM_HIDDEN,
                         .bias = WEIGHT_NONE,
                         .per_layer = true},
    [WEIGHT_GATE] = {.hf = LAYER "mlp.gate_proj.weight",
                     .gguf = "blk.%d.ffn_gate.weight",
                     .module = "gate_proj",
                     .rows = DIM_FFN,
                     .cols = DIM_HIDDEN,
                     .shard = SHARD_ROWS,
                     .bias = WEIGHT_GATE_BIAS,
                     .per_layer = true,
                     .decays = true,
                     .lora_target = true},
    [WEIGHT_UP] = {.hf = LAYER "mlp.up_proj.weight",
                   .gguf = "blk.%d.ffn_up.weight",
                   .module = "up_proj",
                   .rows = DIM_FFN,
                   .cols = DIM_HIDDEN,
                   .shard = SHARD_ROWS,
                   .bias = WEIGHT_UP_BIAS,
                   .per_layer = true,
                   .decays = true,
                   .lora_target = true},
    [WEIGHT_DOWN] = {.hf = LAYER "mlp.down_proj.weight",
                     .gguf = "blk.%d.ffn_down.weight",
                     .module = "down_proj",
                     .rows = DIM_HIDDEN,
                     .cols = DIM_FFN,
                     .shard = SHARD_COLS,
                     .bias = WEIGHT_DOWN_BIAS,
                     .per_layer = true,
                     .decays = true,
                     .lora_target = true},
    [WEIGHT_GATE_BIAS] = {.hf = LAYER "mlp.gate_proj.bias",
                          .gguf = "blk.%d.ffn_gate.bias",
                          .module = "gate_proj",
                          .rows = DIM_ONE,
                          .cols = DIM_FFN,
                          .when = WHEN_MLP_BIAS,
                          .shard = SHARD_COLS,
                          .bias = WEIGHT_NONE,
                          .per_layer = true},
    [WEIGHT_UP_BIAS] = {.hf = LAYER "mlp.up_proj.bias",
                        .gguf = "blk.%d.ffn_up.bias",
                        .module = "up_proj",
                        .rows = DIM_ONE,
                        .cols = DIM_FFN,
                        .when = WHEN_MLP_BIAS,
                        .shard = SHARD_COLS,
                        .bias = WEIGHT_NONE,
                        .per_layer = true},
    [WEIGHT_DOWN_BIAS] = {.hf = LAYER "mlp.down_proj.bias",
                          .gguf = "blk.%d.ffn_down.bias",
                          .module = "down_proj",
                          .rows = DIM_ONE,
                          .cols = DIM_HIDDEN,
                          .when = WHEN_MLP_BIAS,
                          .bias = WEIGHT_NONE,
                          .per_layer = true},
    [WEIGHT_FINAL_NORM] = {.hf = "model.norm.weight",
                           .gguf = "output_norm.weight",
                           .module = "norm",
                           .rows = DIM_ONE,
                           .cols = DIM_HIDDEN,
                           .bias = WEIGHT_NONE},
    [WEIGHT_HEAD] = {.hf = "lm_head.weight",
                     .gguf = "output.weight",
                     .module = "lm_head",
                     .rows = DIM_VOCAB,
                     .cols = DIM_HIDDEN,
                     .when = WHEN_UNTIED,
                     .shard = SHARD_ROWS,
                     .bias = WEIGHT_NONE,
                     .decays = true},
};

int64_t weight_dim_size(const struct model_config *config, enum weight_dim dim) {
    switch (dim) {
    case DIM_ONE:
        return 1;
    case DIM_VOCAB:
        return config->vocab;
    case DIM_HIDDEN:
        return config->hidden;
    case DIM_FFN:
        return config->ffn;
    case DIM_Q:
        return (int64_t)config->heads * config->head_dim;
    case DIM_KV:
        return (int64_t)config->kv_heads * config->head_dim;
    case DIM_HEAD:
        return config->head_dim;
    }
    assert(!"a dimension without a size");
    return 0;
}

bool weight_present(const struct model_config *config, enum weight_id id) {
    switch (weight_table[id].when) {
    case WHEN_ALWAYS:
        return true;
    case WHEN_QKV_BIAS:
        return config->qkv_bias;
    case WHEN_O_BIAS:
        return config->o_bias;
    case WHEN_MLP_BIAS:
        return config->mlp_bias;
    case WHEN_QK_NORM:
        return config->qk_norm;
    case WHEN_UNTIED:
        return !config->tied;
    }
    assert(!"a weight without a condition");
    return false;
}

/* Replaces the one %d of a name; the table's strings are ours, but a format that isn't a literal is
 * nothing to hand to printf. */
static void fill_layer(char name[WEIGHT_NAME_BYTES], const char *pattern, int layer) {
    const char *place = strstr(pattern, "%d");
    if (!place) {
        snprintf(name, WEIGHT_NAME_BYTES, "%s", pattern);
        return;
    }
    snprintf(name, WEIGHT_NAME_BYTES, "%.*s%d%s", (int)(place - pattern), pattern, layer,
             place + 2);
}

void weight_name_hf(char name[WEIGHT_NAME_BYTES], enum weight_id id, int layer) {
    fill_layer(name, weight_table[id].hf, layer);
}

void weight_name_gguf(char name[WEIGHT_NAME_BYTES], enum weight_id id, int layer) {
    fill_layer(name, weight_table[id].gguf, layer);
}

enum weight_id weight_find_module(const char *module) {
    for (int id = 0; id < WEIGHT_COUNT; id++)
        if (!weight_is_vector((enum weight_id)id) && strcmp(weight_table[id].module, module) == 0)
            return (enum weight_id)id;
    return WEIGHT_NONE;
}
