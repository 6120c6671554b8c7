#include "tests/layouts.h"

#define NUMBERS                                                                                    \
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, "                                    \
    "\"hidden_act\": \"silu\", \"torch_dtype\": \"float32\", "
#define LLAMA "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", " NUMBERS
#define QWEN3 "{\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", " NUMBERS
#define FAR "\"rope_theta\": 10000.0, "
#define NEAR "\"rope_theta\": 10.0, "
#define TIED "\"tie_word_embeddings\": true, "
#define UNTIED "\"tie_word_embeddings\": false, "
#define BIASES "\"attention_bias\": true, "
#define SHAPE(vocabulary, hidden, ffn, layers, heads, head_dim)                                    \
    "\"vocab_size\": " #vocabulary ", \"hidden_size\": " #hidden ", \"intermediate_size\": " #ffn  \
    ", \"num_hidden_layers\": " #layers ", \"head_dim\": " #head_dim                               \
    ", \"num_attention_heads\": " #heads ", \"num_key_value_heads\": 2}"

const struct layout_model layout_models[] = {
    /* layers enough for stages and chunks */
    {"deep", LLAMA FAR UNTIED BIASES SHAPE(101, 32, 72, 8, 4, 16), 0.05f},
    {"deep_tied", QWEN3 FAR TIED SHAPE(101, 32, 72, 8, 4, 16), 0.05f},
    /* every bias there is; widths that no number of ranks divides */
    {"odd", LLAMA FAR UNTIED BIASES "\"mlp_bias\": true, " SHAPE(101, 32, 71, 2, 4, 16), 0.05f},
    /* whole blocks to quantize, an odd number of them in the feed-forward width */
    {"blocks", LLAMA FAR UNTIED SHAPE(96, 96, 320, 2, 4, 32), 0.05f},
    /* For 8 tensor-parallel ranks, and for 8 parts. Scores of attention are near 0 and positions
     * far apart, so that little cancels where gradients of queries and keys are summed: one rank
     * with other instructions, which sum in another order, differs from itself by 0.8e-6 (by 9e-6
     * with 0.4 in place of 0.01). Heads with norms are wider: of few elements of a norm's gradient
     * little may be left by chance. */
    {"heads8", LLAMA NEAR UNTIED BIASES SHAPE(101, 32, 76, 4, 8, 8), 0.01f},
    {"heads8_tied", QWEN3 NEAR TIED SHAPE(101, 32, 76, 4, 8, 16), 0.01f},
    {"wide", LLAMA NEAR UNTIED SHAPE(101, 32, 288, 4, 8, 32), 0.01f},
    {"wide_tied", QWEN3 NEAR TIED SHAPE(101, 32, 288, 4, 8, 32), 0.01f},
    {"deep8", LLAMA NEAR UNTIED BIASES SHAPE(101, 32, 76, 8, 8, 8), 0.01f},
    {"deep8_tied", QWEN3 NEAR TIED SHAPE(101, 32, 76, 8, 8, 16), 0.01f},
    {"wide8", LLAMA NEAR UNTIED SHAPE(101, 32, 288, 8, 8, 32), 0.01f},
    {"wide8_tied", QWEN3 NEAR TIED SHAPE(101, 32, 288, 8, 8, 32), 0.01f},
    /* matrices of 4096 elements and more in tiles of 16, and a head that tp 2 cuts inside one */
    {"tiles", LLAMA FAR UNTIED SHAPE(96, 64, 144, 3, 4, 16), 0.05f},
    {"tiles_odd", LLAMA FAR UNTIED SHAPE(101, 64, 144, 1, 4, 16), 0.05f},
    {NULL, NULL, 0.0f}};
