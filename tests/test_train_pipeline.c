/* A pipeline equals one rank: first gradients, losses, gradient norms and final weights, for every
 * schedule and what training can be asked to do; a checkpoint of one number of stages goes on under
 * others; what can't be cut is said. */
#define _GNU_SOURCE
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

#define SHAPE                                                                                      \
    "\"vocab_size\": 101, \"hidden_size\": 32, \"intermediate_size\": 72, "                        \
    "\"num_hidden_layers\": 8, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "           \
    "\"head_dim\": 16, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, "                  \
    "\"rope_theta\": 10000.0, \"hidden_act\": \"silu\", \"torch_dtype\": \"float32\""
#define UNTIED                                                                                     \
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "                      \
    "\"tie_word_embeddings\": false, \"attention_bias\": true, " SHAPE "}"
#define TIED                                                                                       \
    "{\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", "                      \
    "\"tie_word_embeddings\": true, " SHAPE "}"

#define BATCHES(global, micro) "train.global_batch=" #global, "train.micro_batch=" #micro
#define LORA "train.mode=lora", "lora.rank=4"
#define PACKED "data.packing=whole"
#define RECOMPUTED "train.recompute=full"
#define PP(n) "parallel.pp=" #n
#define GPIPE "parallel.schedule=gpipe"
#define ZERO_BUBBLE "parallel.schedule=zb-h1"
#define INTERLEAVED "parallel.schedule=interleaved", "parallel.chunks=2"
#define TP2 "parallel.tp=2"

/* Stages alone add nothing in another order but a tied embedding's gradients. */
static const struct layout_case cases[] = {
    {"pp2, 1f1b", 2, UNTIED, LIMITS_FP32, {BATCHES(8, 1)}, {PP(2)}},
    {"pp2, gpipe, tied, recomputed",
     2,
     TIED,
     LIMITS_FP32,
     {BATCHES(7, 2), RECOMPUTED},
     {PP(2), GPIPE}},
    {"pp2, interleaved", 2, UNTIED, LIMITS_FP32, {BATCHES(12, 2)}, {PP(2), INTERLEAVED}},
    {"pp2, zb-h1, tied, packed",
     2,
     TIED,
     LIMITS_FP32,
     {BATCHES(5, 1), PACKED},
     {PP(2), ZERO_BUBBLE}},
    {"pp2, interleaved, tied, 3 microbatches, packed",
     2,
     TIED,
     LIMITS_FP32,
     {BATCHES(3, 1), PACKED},
     {PP(2), INTERLEAVED}},
    {"pp2, layers 7 and 1",
     2,
     UNTIED,
     LIMITS_FP32,
     {BATCHES(4, 1)},
     {PP(2), "parallel.layers=7,1"}},
    {"pp2, lora, dropout",
     2,
     UNTIED,
     LIMITS_FP32,
     {LORA, BATCHES(6, 1), "lora.dropout=0.1"},
     {PP(2)}},
    {"pp2, zb-h1, lora", 2, TIED, LIMITS_FP32, {LORA, BATCHES(6, 1)}, {PP(2), ZERO_BUBBLE}},
    {"pp2, 1f1b, bf16", 2, UNTIED, LIMITS_BF16, {BATCHES(6, 2), "model.dtype=bf16"}, {PP(2)}},
    {"pp4, 1f1b, tied, packed", 4, TIED, LIMITS_FP32, {BATCHES(7, 1), PACKED}, {PP(4)}},
    {"pp4, interleaved", 4, UNTIED, LIMITS_FP32, {BATCHES(8, 1)}, {PP(4), INTERLEAVED}},
    {"pp4, interleaved, tied, recomputed, 5 microbatches",
     4,
     TIED,
     LIMITS_FP32,
     {BATCHES(5, 1), RECOMPUTED},
     {PP(4), INTERLEAVED}},
    {"pp4, zb-h1, tied", 4, TIED, LIMITS_FP32, {BATCHES(9, 1)}, {PP(4), ZERO_BUBBLE}},
    {"pp4, fewer microbatches than stages", 4, TIED, LIMITS_FP32, {BATCHES(2, 1)}, {PP(4)}},
    {"pp4, layers 1, 4, 1, 2",
     4,
     UNTIED,
     LIMITS_FP32,
     {BATCHES(6, 2)},
     {PP(4), "parallel.layers=1,4,1,2"}},
    {"pp4, interleaved, lora", 4, UNTIED, LIMITS_FP32, {LORA, BATCHES(8, 1)}, {PP(4), INTERLEAVED}},
    {"pp2 x dp2, 1f1b, tied, packed, uneven",
     4,
     TIED,
     LIMITS_FP32,
     {BATCHES(9, 2), PACKED},
     {PP(2)}},
    {"pp2 x dp2, zb-h1", 4, UNTIED, LIMITS_FP32, {BATCHES(8, 1)}, {PP(2), ZERO_BUBBLE}},
    {"pp2 x dp2, interleaved, a replica without sequences",
     4,
     UNTIED,
     LIMITS_FP32,
     {BATCHES(1, 1)},
     {PP(2), INTERLEAVED}},
    {"pp2 x dp2, pp neighbours, lora",
     4,
     TIED,
     LIMITS_FP32,
     {LORA, BATCHES(6, 1)},
     {PP(2), "parallel.order=pp-tp-cp-dp"}},
    {"pp2 x tp2, 1f1b, tied", 4, TIED, LIMITS_FP32_CUT, {BATCHES(6, 1)}, {PP(2), TP2}},
    {"pp2 x tp2, interleaved, no sp",
     4,
     UNTIED,
     LIMITS_FP32_CUT,
     {BATCHES(4, 1)},
     {PP(2), TP2, INTERLEAVED, "parallel.sequence=false"}},
    {"pp2 x tp2, zb-h1, packed",
     4,
     UNTIED,
     LIMITS_FP32_CUT,
     {BATCHES(5, 1), PACKED},
     {PP(2), TP2, ZERO_BUBBLE}},
};

static void test_stages_equal_one_rank(void **state) {
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (cases[i].ranks == job.world.size) layout_compare(&site, &cases[i]);
    layout_site_close(&site);
}

enum { HALF = LAYOUT_STEPS / 2 };

/* The second half of a run that began under another layout; NULL: on one rank. */
struct way {
    const char *name;
    int ranks;
    const char *first[LAYOUT_ARGUMENTS], *second[LAYOUT_ARGUMENTS];
};

static void train_half(const struct layout_site *site, const struct layout_case *row,
                       const char *const *layout, int first, struct layout_result *result) {
    struct parallel alone = {.node_size = 1, .threads = 1, .node_cpus = 1};
    struct stream stream;
    stream_open_cpu(&stream, 1);
    comm_open_self(&alone.world, "world");
    if (layout[0])
        layout_train(site, "shared", row, layout, &job, first, first + HALF, result);
    else if (job.world.rank == 0)
        layout_train(site, "shared", row, NULL, &alone, first, first + HALF, result);
    comm_barrier(&job.world, &stream);
    assert_ok(stream_check(&stream));
}

static void check_way(const struct layout_site *site, const struct layout_case *row,
                      const struct way *way) {
    struct layout_result want = {0}, got = {0};
    struct layout_case named = *row;
    struct parallel alone = {.node_size = 1, .threads = 1, .node_cpus = 1};
    named.name = way->name;
    named.ranks = job.world.size;
    comm_open_self(&alone.world, "world");
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

static void test_a_checkpoint_goes_on_with_other_stages(void **state) {
    static const struct layout_case full = {"goes on",       0,     TIED, LIMITS_FP32_CUT,
                                            {BATCHES(6, 1)}, {NULL}};
    static const struct layout_case lora = {"goes on, lora",       0,     UNTIED, LIMITS_FP32_CUT,
                                            {LORA, BATCHES(4, 1)}, {NULL}};
    static const struct way ways[] = {
        {"pp2, then one rank", 2, {PP(2)}, {NULL}},
        {"one rank, then pp2 interleaved", 2, {NULL}, {PP(2), INTERLEAVED}},
        {"pp4, then pp2 x tp2", 4, {PP(4)}, {PP(2), TP2}},
        {"dp4, then pp4 interleaved", 4, {"parallel.dp=4"}, {PP(4), INTERLEAVED}},
    };
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (ways[i].ranks != job.world.size) continue;
        check_way(&site, &full, &ways[i]);
        check_way(&site, &lora, &ways[i]);
    }
    layout_site_close(&site);
}

/* What is wrong with a layout of the 2-layer fixture is found before anything is allocated. */
static void test_what_can_not_be_cut_is_said(void **state) {
    static const struct {
        int ranks;
        const char *layout, *text;
    } rows[] = {
        {4, "{pp: 4}", "the model's 2 layers can't be cut into 4 parts of at least one layer"},
        {2, "{pp: 2, chunks: 2, schedule: interleaved}", "2 layers can't be cut into 4 parts"},
        {2, "{pp: 2, layers: [2]}", "parallel.layers has 1 numbers, but there are 2 parts"},
        {2, "{pp: 2, layers: [1, 2]}", "adds up to 3 layers, the model has 2"},
        {2, "{pp: 2, layers: [one, 1]}", "'one' is not a number of layers"},
        {2, "{pp: 2, layers: [2, 0]}", "'0' is not a number of layers"},
        {2, "{pp: 2, chunks: 2}", "parallel.chunks 2 needs parallel.schedule interleaved"},
        {4, "{pp: 3}", "are not the job's 4 ranks"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct run_options options;
        struct config_table tables[RUN_TABLES];
        struct trainer_memory memory;
        char text[1024];
        snprintf(text, sizeof text,
                 "model: {path: tests/fixtures/llama}\n"
                 "data: {train: [none.h5], sequence_length: 32}\n"
                 "train: {out: none, steps: 1, threads: 1}\n"
                 "parallel: %s\n",
                 rows[i].layout);
        run_options_tables(&options, tables);
        assert_ok(config_parse(tables, RUN_TABLES, text, strlen(text), "test.yaml", NULL, 0));
        enum status status = run_options_check(&options);
        if (status == STATUS_OK) status = trainer_plan(&options, rows[i].ranks, &memory);
        assert_int_equal(status, STATUS_CONFIG);
        if (!strstr(status_message(), rows[i].text)) fail_msg("%s", status_message());
        config_free(tables, RUN_TABLES);
    }
}

/* A weight of the last stage is broken: the others say so too, and nobody waits. */
static void test_a_broken_stage_is_named(void **state) {
    static const struct layout_case row = {"broken",        2,      UNTIED, LIMITS_FP32,
                                           {BATCHES(4, 1)}, {PP(2)}};
    static struct layout_run run;
    struct layout_site site;
    struct step_report report;
    (void)state;
    if (job.world.size != 2) return;
    layout_site_open(&site, &job);
    layout_open(&run, &site, "shared", &row, row.layout, &job);
    const struct param *param = model_param(&run.trainer.model, WEIGHT_DOWN, 7);
    if (job.world.rank == 1) *(float *)param->w.data = NAN;
    assert_int_equal(trainer_step(&run.trainer, &report), STATUS_NUMERIC);
    if (!strstr(status_message(), "weight model.layers.7.mlp.down_proj.weight"))
        fail_msg("%s", status_message());
    layout_close(&run);
    layout_site_close(&site);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_can_not_be_cut_is_said),
        cmocka_unit_test(test_stages_equal_one_rank),
        cmocka_unit_test(test_a_checkpoint_goes_on_with_other_stages),
        cmocka_unit_test(test_a_broken_stage_is_named),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    job.threads = 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "comparing with one rank");
    parallel_finish(&job);
    return failed;
}
