#include "core/weights.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define LAYER "model.layers.%d."

const struct weight_row weight_table[WEIGHT_COUNT] = {
    [WEIGHT_EMBED] = {"model.embed_tokens.weight", "token_embd.weight", "embed_tokens", DIM_VOCAB,
                      DIM_HIDDEN, WHEN_ALWAYS, SHARD_ROWS, ORDER_PLAIN, WEIGHT_NONE, false, true,
                      false},
    [WEIGHT_ATTN_NORM] = {LAYER "input_layernorm.weight", "blk.%d.attn_norm.weight",
                          "input_layernorm", DIM_ONE, DIM_HIDDEN, WHEN_ALWAYS, SHARD_NONE,
                          ORDER_PLAIN, WEIGHT_NONE, true, false, false},
    [WEIGHT_Q] = {LAYER "self_attn.q_proj.weight", "blk.%d.attn_q.weight", "q_proj", DIM_Q,
                  DIM_HIDDEN, WHEN_ALWAYS, SHARD_ROWS, ORDER_ROPE_Q, WEIGHT_Q_BIAS, true, true,
                  true},
    [WEIGHT_K] = {LAYER "self_attn.k_proj.weight", "blk.%d.attn_k.weight", "k_proj", DIM_KV,
                  DIM_HIDDEN, WHEN_ALWAYS, SHARD_ROWS, ORDER_ROPE_K, WEIGHT_K_BIAS, true, true,
                  true},
    [WEIGHT_V] = {LAYER "self_attn.v_proj.weight", "blk.%d.attn_v.weight", "v_proj", DIM_KV,
                  DIM_HIDDEN, WHEN_ALWAYS, SHARD_ROWS, ORDER_PLAIN, WEIGHT_V_BIAS, true, true,
                  true},
    [WEIGHT_O] = {LAYER "self_attn.o_proj.weight", "blk.%d.attn_output.weight", "o_proj",
                  DIM_HIDDEN, DIM_Q, WHEN_ALWAYS, SHARD_COLS, ORDER_PLAIN, WEIGHT_O_BIAS, true,
                  true, true},
    [WEIGHT_Q_BIAS] = {LAYER "self_attn.q_proj.bias", "blk.%d.attn_q.bias", "q_proj", DIM_ONE,
                       DIM_Q, WHEN_QKV_BIAS, SHARD_COLS, ORDER_ROPE_Q, WEIGHT_NONE, true, false,
                       false},
    [WEIGHT_K_BIAS] = {LAYER "self_attn.k_proj.bias", "blk.%d.attn_k.bias", "k_proj", DIM_ONE,
                       DIM_KV, WHEN_QKV_BIAS, SHARD_COLS, ORDER_ROPE_K, WEIGHT_NONE, true, false,
                       false},
    [WEIGHT_V_BIAS] = {LAYER "self_attn.v_proj.bias", "blk.%d.attn_v.bias", "v_proj", DIM_ONE,
                       DIM_KV, WHEN_QKV_BIAS, SHARD_COLS, ORDER_PLAIN, WEIGHT_NONE, true, false,
                       false},
    [WEIGHT_O_BIAS] = {LAYER "self_attn.o_proj.bias", "blk.%d.attn_output.bias", "o_proj", DIM_ONE,
                       DIM_HIDDEN, WHEN_O_BIAS, SHARD_NONE, ORDER_PLAIN, WEIGHT_NONE, true, false,
                       false},
    [WEIGHT_Q_NORM] = {LAYER "self_attn.q_norm.weight", "blk.%d.attn_q_norm.weight", "q_norm",
                       DIM_ONE, DIM_HEAD, WHEN_QK_NORM, SHARD_NONE, ORDER_PLAIN, WEIGHT_NONE, true,
                       false, false},
    [WEIGHT_K_NORM] = {LAYER "self_attn.k_norm.weight", "blk.%d.attn_k_norm.weight", "k_norm",
                       DIM_ONE, DIM_HEAD, WHEN_QK_NORM, SHARD_NONE, ORDER_PLAIN, WEIGHT_NONE, true,
                       false, false},
    [WEIGHT_MLP_NORM] = {LAYER "post_attention_layernorm.weight", "blk.%d.ffn_norm.weight",
                         "post_attention_layernorm", DIM_ONE, DIM_HIDDEN, WHEN_ALWAYS, SHARD_NONE,
                         ORDER_PLAIN, WEIGHT_NONE, true, false, false},
    [WEIGHT_GATE] = {LAYER "mlp.gate_proj.weight", "blk.%d.ffn_gate.weight", "gate_proj", DIM_FFN,
                     DIM_HIDDEN, WHEN_ALWAYS, SHARD_ROWS, ORDER_PLAIN, WEIGHT_GATE_BIAS, true, true,
                     true},
    [WEIGHT_UP] = {LAYER "mlp.up_proj.weight", "blk.%d.ffn_up.weight", "up_proj", DIM_FFN,
                   DIM_HIDDEN, WHEN_ALWAYS, SHARD_ROWS, ORDER_PLAIN, WEIGHT_UP_BIAS, true, true,
                   true},
    [WEIGHT_DOWN] = {LAYER "mlp.down_proj.weight", "blk.%d.ffn_down.weight", "down_proj",
                     DIM_HIDDEN, DIM_FFN, WHEN_ALWAYS, SHARD_COLS, ORDER_PLAIN, WEIGHT_DOWN_BIAS,
                     true, true, true},
    [WEIGHT_GATE_BIAS] = {LAYER "mlp.gate_proj.bias", "blk.%d.ffn_gate.bias", "gate_proj", DIM_ONE,
                          DIM_FFN, WHEN_MLP_BIAS, SHARD_COLS, ORDER_PLAIN, WEIGHT_NONE, true, false,
                          false},
    [WEIGHT_UP_BIAS] = {LAYER "mlp.up_proj.bias", "blk.%d.ffn_up.bias", "up_proj", DIM_ONE, DIM_FFN,
                        WHEN_MLP_BIAS, SHARD_COLS, ORDER_PLAIN, WEIGHT_NONE, true, false, false},
    [WEIGHT_DOWN_BIAS] = {LAYER "mlp.down_proj.bias", "blk.%d.ffn_down.bias", "down_proj", DIM_ONE,
                          DIM_HIDDEN, WHEN_MLP_BIAS, SHARD_NONE, ORDER_PLAIN, WEIGHT_NONE, true,
                          false, false},
    [WEIGHT_FINAL_NORM] = {"model.norm.weight", "output_norm.weight", "norm", DIM_ONE, DIM_HIDDEN,
                           WHEN_ALWAYS, SHARD_NONE, ORDER_PLAIN, WEIGHT_NONE, false, false, false},
    [WEIGHT_HEAD] = {"lm_head.weight", "output.weight", "lm_head", DIM_VOCAB, DIM_HIDDEN,
                     WHEN_UNTIED, SHARD_ROWS, ORDER_PLAIN, WEIGHT_NONE, false, true, false},
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
