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

/* The exported model or adapter has the weights of the last checkpoint. */
static void check_export(const struct layout_site *site, const struct layout_case *row,
                         const char *run) {
    struct layout_result result = {0};
    struct model_file file;
    struct model model;
    struct adapter adapter = {0};
    char path[512], base[512];
    bool lora = strcmp(row->training[0], "train.mode=lora") == 0;
    layout_read(site, run, row, &result);
    snprintf(path, sizeof path, "%s/%s/%s", site->folder, run, lora ? "adapter" : "model");
    snprintf(base, sizeof base, "tests/fixtures/%s", row->model);
    assert_ok(model_file_open(&file, lora ? base : path, false));
    assert_ok(model_load(&model, &file, NULL, LAYOUT_PANEL_F32, 0, 1));
    model_file_close(&file);
    if (lora) assert_ok(adapter_load(&adapter, "exported", &model, path));
    const struct param *params = lora ? adapter.params : model.params;
    int count = lora ? adapter.param_count : model.param_count, found = 0;
    for (int i = 0; i < count; i++) {
        if (!params[i].w.data) continue;
        const struct layout_tensor *tensor = &result.tensors[found++];
        float *values = malloc((size_t)tensor->elements * sizeof *values);
        assert_non_null(values);
        assert_string_equal(params[i].name, tensor->name);
        param_read(values, &params[i], 0, params[i].w.rows);
        assert_memory_equal(values, tensor->weights, (size_t)tensor->elements * sizeof *values);
        free(values);
    }
    assert_int_equal(found, result.count);
    adapter_free(&adapter);
    model_free(&model);
    layout_result_free(&result);
}

static void test_the_result_is_exported_whole(void **state) {
    static const struct layout_case rows[] = {
        {"export", 2, "qwen2", LIMITS_FP32_CUT, {"train.global_batch=2"}, {TP2}},
        {"export of an adapter", 2, "qwen3", LIMITS_FP32_CUT, {LORA}, {TP2}},
        {"export", 4, "llama", LIMITS_FP32_CUT, {"train.global_batch=2"}, {TP4}},
        {"export of an adapter", 4, "llama", LIMITS_FP32_CUT, {LORA}, {TP4}},
    };
    struct layout_site site;
    struct layout_result result;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].ranks != job.world.size) continue;
        layout_train(&site, "shared", &rows[i], rows[i].layout, &job, 0, LAYOUT_STEPS, &result);
        if (job.world.rank == 0) check_export(&site, &rows[i], "shared");
        if (job.world.rank == 0) layout_remove(&site, "shared");
    }
    layout_site_close(&site);
}

enum { HALF = LAYOUT_STEPS / 2 };

/* The second half of a run that began under another layout, or on one rank. */
struct continuation {
    const char *name, *first[LAYOUT_ARGUMENTS], *second[LAYOUT_ARGUMENTS];
};

/* An uninterrupted run on one rank, and the same under `first`, then `second`. */
static void check_continuation(const struct layout_site *site, const struct layout_case *row,
                               const struct continuation *way) {
    struct layout_result want = {0}, got = {0};
    struct layout_case named = *row;
    struct parallel alone = {.node_size = 1, .threads = 1, .node_cpus = 1};
    named.name = way->name;
    comm_open_self(&alone.world, "world");
    layout_train(site, "shared", row, way->first, &job, 0, HALF, &got);
    layout_train(site, "shared", row, way->second, &job, HALF, LAYOUT_STEPS, &got);
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
    static const struct layout_case full = {
        "goes on", 4, "qwen2", LIMITS_FP32_CUT, {"train.global_batch=5"}, {NULL}};
    static const struct layout_case lora = {
        "goes on, lora", 4, "llama", LIMITS_FP32_CUT, {LORA, "lora.dropout=0.1"}, {NULL}};
    static const struct continuation ways[] = {
        {"tp2 x dp2, then tp4", {TP2}, {TP4}},
        {"tp4, then dp4", {TP4}, {"parallel.dp=4"}},
        {"dp4, then tp2 x dp2", {"parallel.dp=4"}, {TP2}},
        {"tp4, then tp2 x dp2 without sp", {TP4}, {TP2, PLAIN}},
    };
    struct layout_site site;
    (void)state;
    if (job.world.size != 4) return;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        check_continuation(&site, &full, &ways[i]);
        check_continuation(&site, &lora, &ways[i]);
    }
    layout_site_close(&site);
}

/* And on one rank, which half of the job's ranks can't be asked to be. */
static void test_a_checkpoint_goes_on_on_one_rank(void **state) {
    static const struct layout_case row = {"tp2, then one rank",     2,    "qwen2", LIMITS_FP32_CUT,
                                           {"train.global_batch=5"}, {TP2}};
    struct layout_result want = {0}, got = {0};
    struct parallel alone = {.node_size = 1, .threads = 1, .node_cpus = 1};
    struct layout_site site;
    (void)state;
    if (job.world.size != 2) return;
    layout_site_open(&site, &job);
    comm_open_self(&alone.world, "world");
    layout_train(&site, "shared", &row, row.layout, &job, 0, HALF, &got);
    if (job.world.rank == 0) {
        layout_train(&site, "shared", &row, NULL, &alone, HALF, LAYOUT_STEPS, &got);
        layout_train(&site, "alone", &row, NULL, &alone, 0, LAYOUT_STEPS, &want);
        layout_read(&site, "shared", &row, &got);
        layout_read(&site, "alone", &row, &want);
        layout_check(&row, &want, &got, 0);
    }
    layout_result_free(&want);
    layout_result_free(&got);
    layout_site_close(&site);
}

/* One rank's slice of a weight is broken: the others say so too, and nobody waits. */
static void test_a_broken_slice_is_named(void **state) {
    static const struct layout_case row = {
        "broken", 2, "llama", LIMITS_FP32_CUT, {"train.global_batch=2"}, {TP2}};
    static struct layout_run run;
    struct layout_site site;
    struct step_report report;
    (void)state;
    if (job.world.size != 2) return;
    layout_site_open(&site, &job);
    layout_open(&run, &site, "shared", &row, row.layout, &job);
    struct param *param = model_param(&run.trainer.model, WEIGHT_DOWN, 1);
    if (job.world.rank == 1) *(float *)param->w.data = NAN;
    assert_int_equal(trainer_step(&run.trainer, &report), STATUS_NUMERIC);
    if (!strstr(status_message(), "weight model.layers.1.mlp.down_proj.weight"))
        fail_msg("%s", status_message());
    layout_close(&run);
    layout_site_close(&site);
}

/* A run's options by themselves. */
struct settings {
    struct run_options options;
    struct config_table tables[RUN_TABLES];
};

static void read_settings(struct settings *settings, const char *model, const char *layout) {
    char text[1024];
    memset(settings, 0, sizeof *settings);
    snprintf(text, sizeof text,
             "model: {path: tests/fixtures/%s}\n"
             "data: {train: [none.h5], sequence_length: 32}\n"
             "train: {out: none, steps: 1, threads: 1}\n"
             "parallel: %s\n",
             model, layout);
    run_options_tables(&settings->options, settings->tables);
    assert_ok(config_parse(settings->tables, RUN_TABLES, text, strlen(text), "test.yaml", NULL, 0));
}

static void free_settings(struct settings *settings) {
    config_free(settings->tables, RUN_TABLES);
}

static void test_what_can_not_be_shared_is_said(void **state) {
    static const struct {
        int ranks;
        const char *model, *layout, *text;
    } rows[] = {
        {3, "llama", "{tp: 3}", "tp 3 does not divide the model's 4 attention heads"},
        {8, "llama", "{tp: 8}", "tp 8 does not divide the model's 4 attention heads"},
        {2, "llama_tied_llama3", "{tp: 2}", "tp 2 does not divide the model's 3 attention heads"},
        {4, "llama", "{tp: 2, dp: 4}", "are not the job's 4 ranks"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct settings settings;
        struct trainer_memory memory;
        read_settings(&settings, rows[i].model, rows[i].layout);
        assert_int_equal(trainer_plan(&settings.options, rows[i].ranks, &memory), STATUS_CONFIG);
        if (!strstr(status_message(), rows[i].text)) fail_msg("%s", status_message());
        free_settings(&settings);
    }
}

static struct trainer_memory plan(const char *model, const char *layout, int ranks) {
    struct settings settings;
    struct trainer_memory memory = {0};
    read_settings(&settings, model, layout);
    assert_ok(trainer_plan(&settings.options, ranks, &memory));
    free_settings(&settings);
    return memory;
}

/* Weights and state are cut; activations between products only by sequence parallelism. */
static void test_a_plan_counts_one_ranks_part(void **state) {
    (void)state;
    struct trainer_memory one = plan("llama", "{tp: 1}", 1), two = plan("llama", "{tp: 2}", 2);
    struct trainer_memory plain = plan("llama", "{tp: 2, sequence: false}", 2);
    assert_true(two.weights < one.weights * 55 / 100);
    assert_true(two.optimizer < one.optimizer * 55 / 100);
    assert_true(plain.activations < one.activations);
    assert_true(two.activations < plain.activations);
    assert_true(two.activations < one.activations * 6 / 10);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_equal_one),
        cmocka_unit_test(test_the_result_is_exported_whole),
        cmocka_unit_test(test_a_checkpoint_goes_on_under_other_layouts),
        cmocka_unit_test(test_a_checkpoint_goes_on_on_one_rank),
        cmocka_unit_test(test_a_broken_slice_is_named),
        cmocka_unit_test(test_what_can_not_be_shared_is_said),
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
