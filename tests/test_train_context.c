/* Context parallelism equals one rank: first gradients, losses, gradient norms and final weights,
 * with everything else that training can be asked to do. What ranks share is cut from one list of
 * tokens, so the rows differ in where documents meet the cuts: a microbatch of one document shorter
 * than the ranks' chunks are many, documents that reach over several ranks, and dozens in a chunk.
 */
#define _GNU_SOURCE
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

#define LORA "train.mode=lora", "lora.rank=4", "train.global_batch=5"
#define SHAPE                                                                                      \
    "\"vocab_size\": 101, \"hidden_size\": 32, \"intermediate_size\": 72, "                        \
    "\"num_hidden_layers\": 8, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "           \
    "\"head_dim\": 16, \"max_position_embeddings\": 256, \"rms_norm_eps\": 1e-5, "                 \
    "\"rope_theta\": 10000.0, \"hidden_act\": \"silu\", \"torch_dtype\": \"float32\""
#define TIED                                                                                       \
    "{\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", "                      \
    "\"tie_word_embeddings\": true, " SHAPE "}"
/* Softmax in parts rounds otherwise than in one, as far as other instructions do: by those, one
 * rank differs by up to 2.1e-6 of qwen2's key biases, whose gradients nearly cancel (softmax does
 * not see what all scores of a query have in common). */
#define LIMITS_KEY_BIAS                                                                            \
    { 1e-6, 1e-6, 4e-6, 2e-6 }
#define CP2 "parallel.cp=2"
#define CP3 "parallel.cp=3"
#define CP4 "parallel.cp=4"
#define ONE_AT_A_TIME "train.global_batch=5", "train.micro_batch=1"
#define PACKED "train.global_batch=3", "data.packing=split", "data.sequence_length=150"

static const struct layout_case cases[] = {
    {"cp2", 2, "llama", LIMITS_FP32_CUT, {"train.global_batch=5"}, {CP2}},
    {"cp2, one document at a time", 2, "llama", LIMITS_FP32_CUT, {ONE_AT_A_TIME}, {CP2}},
    {"cp2, sliding window", 2, "mistral", LIMITS_FP32_CUT, {"train.global_batch=5"}, {CP2}},
    {"cp2, sliding window, packed", 2, "mistral", LIMITS_FP32_CUT, {PACKED}, {CP2}},
    {"cp2, packed, tied, qk norm, recomputed",
     2,
     "qwen3",
     LIMITS_FP32_CUT,
     {PACKED, "train.recompute=full"},
     {CP2}},
    {"cp2, lora, dropout, accumulation",
     2,
     "qwen2",
     LIMITS_FP32_CUT,
     {LORA, "lora.dropout=0.2", "train.micro_batch=2"},
     {CP2}},
    {"cp2, bf16", 2, "llama", LIMITS_BF16, {"model.dtype=bf16", "train.global_batch=5"}, {CP2}},
    {"cp2, zero 1", 2, "llama", LIMITS_FP32_CUT, {ONE_AT_A_TIME}, {CP2, "parallel.zero=1"}},
    {"cp2, zero 2", 2, "qwen3", LIMITS_FP32_CUT, {PACKED}, {CP2, "parallel.zero=2"}},
    {"cp2, zero 3", 2, "llama", LIMITS_FP32_CUT, {ONE_AT_A_TIME}, {CP2, "parallel.zero=3"}},
    {"cp3", 3, "llama", LIMITS_FP32_CUT, {"train.global_batch=5"}, {CP3}},
    {"cp3, one document at a time, one key head",
     3,
     "llama_dynamic",
     LIMITS_FP32_CUT,
     {ONE_AT_A_TIME},
     {CP3}},
    {"cp4", 4, "llama", LIMITS_FP32_CUT, {"train.global_batch=5"}, {CP4}},
    {"cp4, one document at a time", 4, "qwen2", LIMITS_KEY_BIAS, {ONE_AT_A_TIME}, {CP4}},
    {"cp4, packed, sliding window", 4, "mistral", LIMITS_FP32_CUT, {PACKED}, {CP4}},
    {"cp4, zero 3, one document at a time",
     4,
     "llama",
     LIMITS_FP32_CUT,
     {ONE_AT_A_TIME},
     {CP4, "parallel.zero=3"}},
    {"cp2 x dp2, one document at a time", 4, "llama", LIMITS_FP32_CUT, {ONE_AT_A_TIME}, {CP2}},
    {"cp2 x dp2, dp neighbours, zero 2, packed",
     4,
     "qwen3",
     LIMITS_FP32_CUT,
     {PACKED, "train.micro_batch=1"},
     {CP2, "parallel.order=dp-cp-tp-pp", "parallel.zero=2"}},
    {"cp2 x tp2", 4, "llama", LIMITS_FP32_CUT, {ONE_AT_A_TIME}, {CP2, "parallel.tp=2"}},
    {"cp2 x tp2, no sp, packed, lora, dropout",
     4,
     "qwen2",
     LIMITS_FP32_CUT,
     {LORA, "lora.dropout=0.2", "data.packing=whole"},
     {CP2, "parallel.tp=2", "parallel.sequence=false"}},
    {"cp2 x pp2, one document at a time",
     4,
     "llama",
     LIMITS_FP32_CUT,
     {ONE_AT_A_TIME},
     {CP2, "parallel.pp=2"}},
    {"cp2 x pp2, zb-h1, tied, packed",
     4,
     TIED,
     LIMITS_FP32_CUT,
     {PACKED, "train.micro_batch=1"},
     {CP2, "parallel.pp=2", "parallel.schedule=zb-h1"}},
    {"cp2 x pp2, interleaved, zero 3, lora",
     4,
     TIED,
     LIMITS_FP32_CUT,
     {LORA, "train.micro_batch=1"},
     {CP2, "parallel.pp=2", "parallel.schedule=interleaved", "parallel.chunks=2",
      "parallel.zero=3"}},
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_equal_one),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    job.threads = 1;
    if (job.mpi) setenv("CMOCKA_TEST_ABORT", "1", 1); /* the others would wait for a failed rank */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "comparing layouts");
    parallel_finish(&job);
    return failed;
}
