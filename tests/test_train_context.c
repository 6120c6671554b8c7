/* Context parallelism equals one rank: first gradients, losses, gradient norms and final weights,
 * with everything else that training can be asked to do. What ranks share is cut from one list of
 * tokens, so the rows differ in where documents meet the cuts: a microbatch of one document shorter
 * than the ranks' chunks are many, documents that reach over several ranks, and dozens in a chunk.
 */
#define _GNU_SOURCE
#include "tests/layouts.h"

#include "parallel/comm_mpi.h"

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

enum { HALF = LAYOUT_STEPS / 2 };

static struct parallel one_rank(void) {
    struct parallel alone = {.node_size = 1, .threads = 1, .node_cpus = 1};
    comm_open_self(&alone.world, "world");
    return alone;
}

/* The second half of a run that began under another layout; NULL is one rank. */
struct continuation {
    const char *name;
    int ranks;
    const char *const *first, *const *second;
};

static void train_half(const struct layout_site *site, const struct layout_case *row,
                       const char *const *layout, int first, struct layout_result *result) {
    struct parallel alone = one_rank();
    struct parallel *who = layout ? &job : &alone;
    if (layout || job.world.rank == 0)
        layout_train(site, "shared", row, layout, who, first, first + HALF, result);
}

static void check_continuation(const struct layout_site *site, const struct layout_case *row,
                               const struct continuation *way) {
    struct layout_result want = {0}, got = {0};
    struct layout_case named = *row;
    struct parallel alone = one_rank();
    named.name = way->name;
    named.ranks = way->ranks;
    train_half(site, row, way->first, 0, &got);
    train_half(site, row, way->second, HALF, &got);
    if (job.world.rank == 0) {
        layout_train(site, "alone", row, NULL, &alone, 0, LAYOUT_STEPS, &want);
        layout_read(site, "shared", row, &got);
        layout_read(site, "alone", row, &want);
        layout_check(&named, &want, &got, 0);
        layout_remove(site, "shared");
        layout_remove(site, "alone");
    }
    layout_result_free(&want);
    layout_result_free(&got);
}

static void test_a_checkpoint_goes_on_under_other_layouts(void **state) {
    static const struct layout_case row = {"",    0, "llama", LIMITS_FP32_CUT, {ONE_AT_A_TIME},
                                           {NULL}};
    static const char *const cp2[] = {CP2, NULL}, *const cp4[] = {CP4, NULL};
    static const char *const cp4_zero3[] = {CP4, "parallel.zero=3", NULL};
    static const char *const dp4_zero2[] = {"parallel.zero=2", NULL};
    static const char *const cp2_tp2[] = {CP2, "parallel.tp=2", NULL};
    static const char *const pp2_dp2[] = {"parallel.pp=2", NULL};
    static const struct continuation ways[] = {
        {"cp2, then one rank", 2, cp2, NULL},
        {"one rank, then cp2", 2, NULL, cp2},
        {"cp4 zero 3, then dp4 zero 2", 4, cp4_zero3, dp4_zero2},
        {"cp2 x tp2, then pp2 x dp2", 4, cp2_tp2, pp2_dp2},
        {"pp2 x dp2, then cp4", 4, pp2_dp2, cp4},
    };
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (ways[i].ranks == job.world.size) check_continuation(&site, &row, &ways[i]);
    layout_site_close(&site);
}

/* Whole, and in two halves: no bit depends on when messages come. */
static void test_two_runs_have_the_same_bits(void **state) {
    static const struct layout_case row = {
        "", 0, "mistral", LIMITS_FP32, {PACKED, "train.micro_batch=2"}, {NULL}};
    static const char *const layout[] = {"parallel.dp=1", CP3, NULL};
    struct layout_result whole = {0}, halves = {0};
    struct layout_site site;
    (void)state;
    if (job.world.size != 3) return;
    layout_site_open(&site, &job);
    layout_train(&site, "whole", &row, layout, &job, 0, LAYOUT_STEPS, &whole);
    layout_train(&site, "halves", &row, layout, &job, 0, HALF, &halves);
    layout_train(&site, "halves", &row, layout, &job, HALF, LAYOUT_STEPS, &halves);
    assert_memory_equal(whole.losses, halves.losses, sizeof whole.losses);
    assert_memory_equal(whole.norms, halves.norms, sizeof whole.norms);
    assert_true(whole.validation == halves.validation);
    layout_site_close(&site);
}

/* Two replicas of two ranks that train alone are two replicas of one rank. */
static void test_replicas_train_alone(void **state) {
    static const struct layout_case row = {
        "cp2 x dp2, sync_every 5", 4, "llama", LIMITS_FP32_CUT, {"train.global_batch=6"}, {NULL}};
    static const char *const four[] = {CP2, "parallel.sync_every=5", NULL};
    static const char *const two[] = {"parallel.sync_every=5", NULL};
    struct layout_result want = {0}, got = {0};
    struct layout_site site;
    struct parallel half = job;
    (void)state;
    if (job.world.size != 4) return;
    layout_site_open(&site, &job);
    layout_train(&site, "four", &row, four, &job, 0, HALF, &got);
    layout_train(&site, "four", &row, four, &job, HALF, LAYOUT_STEPS, &got);
    bool first = job.world.rank < 2;
    assert_ok(comm_mpi_open_split(&half.world, &job.world, "half", first, job.world.rank));
    layout_train(&site, first ? "two" : "two more", &row, two, &half, 0, LAYOUT_STEPS, &want);
    comm_close(&half.world);
    layout_check(&row, &want, &got, 0);
    layout_site_close(&site);
}

/* What is reported of a step counts every token once. */
static void test_tokens_are_counted_once(void **state) {
    static const struct layout_case row = {"", 0, "mistral", LIMITS_FP32, {PACKED}, {NULL}};
    static const char *const layout[] = {CP2, NULL};
    static struct layout_run run;
    struct layout_site site;
    struct step_report report, alone_report;
    struct parallel alone = one_rank();
    (void)state;
    if (job.world.size != 2) return;
    layout_site_open(&site, &job);
    layout_open(&run, &site, "shared", &row, layout, &job);
    assert_ok(trainer_step(&run.trainer, &report));
    layout_close(&run);
    if (job.world.rank == 0) {
        layout_open(&run, &site, "alone", &row, NULL, &alone);
        assert_ok(trainer_step(&run.trainer, &alone_report));
        layout_close(&run);
        assert_int_equal(report.tokens, alone_report.tokens);
        assert_true(report.tokens > 0);
    }
    layout_site_close(&site);
}

static struct trainer_memory plan(const char *layout, int ranks) {
    char text[1024];
    struct run_options options = {0};
    struct config_table tables[RUN_TABLES];
    struct trainer_memory memory = {0};
    snprintf(text, sizeof text,
             "model: {path: tests/fixtures/llama}\n"
             "data: {train: [none.h5], sequence_length: 4096}\n"
             "train: {out: none, steps: 1, threads: 1, global_batch: 4}\n"
             "parallel: %s\n",
             layout);
    run_options_tables(&options, tables);
    assert_ok(config_parse(tables, RUN_TABLES, text, strlen(text), "test.yaml", NULL, 0));
    assert_ok(trainer_plan(&options, ranks, &memory));
    config_free(tables, RUN_TABLES);
    return memory;
}

/* Weights are whole on every rank, activations are of its own tokens; keys and values of others
 * come into scratch, at most 14 of a rank's with their gradients in fp32. */
static void test_a_plan_counts_one_ranks_part(void **state) {
    (void)state;
    struct trainer_memory one = plan("{dp: 1}", 1), four = plan("{cp: 4, dp: 1}", 4);
    size_t keys = (size_t)4 * 4096 / 4 * 2 * 16 * sizeof(float); /* of a rank: 2 heads of 16 */
    assert_true(four.weights == one.weights);
    assert_true(four.activations < one.activations * 26 / 100);
    assert_true(four.scratch < one.scratch / 4 + 14 * keys + 4096 + four.gradients);
    assert_true(four.batches < one.batches * 3 / 2);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_equal_one),
        cmocka_unit_test(test_a_checkpoint_goes_on_under_other_layouts),
        cmocka_unit_test(test_two_runs_have_the_same_bits),
        cmocka_unit_test(test_replicas_train_alone),
        cmocka_unit_test(test_tokens_are_counted_once),
        cmocka_unit_test(test_a_plan_counts_one_ranks_part),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    job.threads = 1;
    if (job.mpi) setenv("CMOCKA_TEST_ABORT", "1", 1); /* the others would wait for a failed rank */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "comparing layouts");
    parallel_finish(&job);
    return failed;
}
