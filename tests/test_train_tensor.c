/* Tensor parallelism, with and without sequence parallelism, equals one rank: first gradients,
 * losses, gradient norms and final weights, for what training can be asked to do; a checkpoint of
 * one layout goes on under others; what can't be shared is said. */
#define _GNU_SOURCE
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

/* Every bias there is; widths that no number of ranks divides. */
#define BIASED                                                                                     \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 101, " \
    "\"hidden_size\": 32, \"intermediate_size\": 71, \"num_hidden_layers\": 2, "                   \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 16, "                   \
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, "           \
    "\"tie_word_embeddings\": false, \"attention_bias\": true, \"mlp_bias\": true, "               \
    "\"hidden_act\": \"silu\", \"torch_dtype\": \"float32\"}"

#define LORA "train.mode=lora", "lora.rank=4", "train.global_batch=5"
#define TP2 "parallel.tp=2"
#define TP4 "parallel.tp=4"
#define PLAIN "parallel.sequence=false"

static const struct layout_case cases[] = {
    {"tp2, no sp", 2, "llama", LIMITS_FP32_CUT, {"train.global_batch=5"}, {TP2, PLAIN}},
    {"tp2", 2, "llama", LIMITS_FP32_CUT, {"train.global_batch=5"}, {TP2}},
    {"tp2, biases, odd widths, no sp",
     2,
     BIASED,
     LIMITS_FP32_CUT,
     {"train.global_batch=4"},
     {TP2, PLAIN}},
    {"tp2, biases, odd widths", 2, BIASED, LIMITS_FP32_CUT, {"train.global_batch=4"}, {TP2}},
    {"tp2, tied, qwen2, accumulation",
     2,
     "qwen2",
     LIMITS_FP32_CUT,
     {"train.global_batch=5", "train.micro_batch=2"},
     {TP2}},
    {"tp2, tied, qk norm, packed, recomputed",
     2,
     "qwen3",
     LIMITS_FP32_CUT,
     {"train.global_batch=5", "data.packing=whole", "train.recompute=full"},
     {TP2}},
    {"tp2, one kv head, packed",
     2,
     "llama_dynamic",
     LIMITS_FP32_CUT,
     {"data.packing=split"},
     {TP2}},
    {"tp2, lora, dropout, no sp",
     2,
     "llama",
     LIMITS_FP32_CUT,
     {LORA, "lora.dropout=0.2"},
     {TP2, PLAIN}},
    {"tp2, lora, dropout, accumulation",
     2,
     "qwen2",
     LIMITS_FP32_CUT,
     {LORA, "lora.dropout=0.2", "train.micro_batch=1"},
     {TP2}},
    {"tp2, bf16", 2, "llama", LIMITS_BF16, {"model.dtype=bf16", "train.global_batch=5"}, {TP2}},
    {"tp4, kv heads on two ranks each, no sp",
     4,
     "llama",
     LIMITS_FP32_CUT,
     {"train.global_batch=5"},
     {TP4, PLAIN}},
    {"tp4, kv heads on two ranks each",
     4,
     "llama",
     LIMITS_FP32_CUT,
     {"train.global_batch=5"},
     {TP4}},
    {"tp4, biases, odd widths, one sequence",
     4,
     BIASED,
     LIMITS_FP32_CUT,
     {"train.global_batch=1"},
     {TP4}},
    {"tp4, tied, qk norm, packed, accumulation",
     4,
     "qwen3",
     LIMITS_FP32_CUT,
     {"train.global_batch=5", "data.packing=whole", "train.micro_batch=2"},
     {TP4}},
    {"tp4, lora, dropout, packed",
     4,
     "qwen2",
     LIMITS_FP32_CUT,
     {LORA, "lora.dropout=0.2", "data.packing=whole"},
     {TP4}},
    {"tp2 x dp2",
     4,
     "qwen2",
     LIMITS_FP32_CUT,
     {"train.global_batch=5", "train.micro_batch=1"},
     {TP2}},
    {"tp2 x dp2, dp neighbours, a rank without sequences",
     4,
     "llama",
     LIMITS_FP32_CUT,
     {"train.global_batch=3", "train.micro_batch=1"},
     {TP2, "parallel.order=dp-tp-cp-pp"}},
    {"tp2 x dp2, lora, dropout",
     4,
     "llama",
     LIMITS_FP32_CUT,
     {LORA, "lora.dropout=0.2", "train.micro_batch=1"},
     {TP2}},
};

static void test_ranks_equal_one(void **state) {
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (cases[i].ranks == job.world.size) layout_compare(&site, &cases[i]);
    layout_site_close(&site);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ranks_equal_one)};
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    job.threads = 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "comparing layouts");
    parallel_finish(&job);
    return failed;
}
