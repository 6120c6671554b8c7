#include "tests/layouts.h"

#define NUMBERS                                                                                    \
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, "           \
    "\"hidden_act\": \"silu\", \"torch_dtype\": \"float32\", "
#define LLAMA "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", " NUMBERS
#define QWEN3 "{\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", " NUMBERS
#define TIED "\"tie_word_embeddings\": true, "
#define UNTIED "\"tie_word_embeddings\": false, "
#define BIASES "\"attention_bias\": true, "
#define SHAPE(vocabulary, hidden, ffn, layers, head_dim)                                           \
    "\"vocab_size\": " #vocabulary ", \"hidden_size\": " #hidden ", \"intermediate_size\": " #ffn  \
    ", \"num_hidden_layers\": " #layers ", \"head_dim\": " #head_dim                               \
    ", \"num_attention_heads\": 4, \"num_key_value_heads\": 2}"

const struct layout_model layout_models[] = {
    /* layers enough for stages and chunks */
    {"deep", LLAMA UNTIED BIASES SHAPE(101, 32, 72, 8, 16)},
    {"deep_tied", QWEN3 TIED SHAPE(101, 32, 72, 8, 16)},
    /* every bias there is; widths that no number of ranks divides */
    {"odd", LLAMA UNTIED BIASES "\"mlp_bias\": true, " SHAPE(101, 32, 71, 2, 16)},
    /* whole blocks to quantize, an odd number of them in the feed-forward width */
    {"blocks", LLAMA UNTIED SHAPE(96, 96, 320, 2, 32)},
    {NULL, NULL}};
