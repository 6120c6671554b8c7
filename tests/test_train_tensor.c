/* Tensor parallelism, with and without sequence parallelism, equals one rank, for what training can
 * be asked to do; a checkpoint of one layout goes on under others; the result is exported whole;
 * what can't be shared is said. */
#define _GNU_SOURCE
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

static const struct layout_case cases[] = {
    {2, "llama", "global_batch=5", "tp=2 sequence=false"},
    {2, "llama", "global_batch=5", "tp=2"},
    {2, "odd", "global_batch=4", "tp=2 sequence=false"},
    {2, "odd", "global_batch=4", "tp=2"},
    {2, "qwen2", "global_batch=5 micro_batch=2", "tp=2"},
    {2, "qwen3", "global_batch=5 data.packing=whole recompute=full", "tp=2"},
    {2, "qwen3", "global_batch=3 recompute=selective", "tp=2"},
    /* one kv head */
    {2, "llama_dynamic", "data.packing=split", "tp=2"},
    {2, "llama", LORA " global_batch=5 lora.dropout=0.2", "tp=2 sequence=false"},
    {2, "qwen2", LORA " global_batch=5 lora.dropout=0.2 micro_batch=1", "tp=2"},
    {2, "llama", "model.dtype=bf16 global_batch=5", "tp=2"},
    /* kv heads on two ranks each */
    {4, "llama", "global_batch=5", "tp=4 sequence=false"},
    {4, "llama", "global_batch=5", "tp=4"},
    {4, "odd", "global_batch=1", "tp=4"},
    {4, "qwen3", "global_batch=5 data.packing=whole micro_batch=2", "tp=4"},
    {4, "qwen2", LORA " global_batch=5 lora.dropout=0.2 data.packing=whole", "tp=4"},
    {4, "qwen2", "global_batch=5 micro_batch=1", "tp=2"},
    /* a rank without sequences */
    {4, "llama", "global_batch=3 micro_batch=1", "tp=2 order=dp-tp-cp-pp"},
    {4, "llama", LORA " global_batch=5 lora.dropout=0.2 micro_batch=1", "tp=2"},
};

static void test_ranks_equal_one(void **state) {
    (void)state;
    layout_compare_all(&job, cases, sizeof cases / sizeof *cases);
}

/* The exported model or adapter has the weights of the last checkpoint. */
static void check_export(const struct layout_site *site, const struct layout_case *row) {
    struct layout_result result = {0};
    struct model_file file;
    struct model model;
    struct adapter adapter = {0};
    char path[512], base[512];
    bool lora = strstr(row->training, "mode=lora") != NULL;
    layout_read(site, "shared", &result);
    snprintf(path, sizeof path, "%s/shared/%s", site->folder, lora ? "adapter" : "model");
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
        float *values = malloc((size_t)(tensor->rows * tensor->cols) * sizeof *values);
        assert_non_null(values);
        assert_string_equal(params[i].name, tensor->name);
        param_read(values, &params[i], 0, params[i].w.rows);
        assert_memory_equal(values, tensor->weights,
                            (size_t)(tensor->rows * tensor->cols) * sizeof *values);
        free(values);
    }
    assert_int_equal(found, result.count);
    adapter_free(&adapter);
    model_free(&model);
    layout_result_free(&result);
}

static void test_the_result_is_exported_whole(void **state) {
    static const struct layout_case rows[] = {
        {2, "qwen2", "global_batch=2", "tp=2"},
        {2, "qwen3", LORA " global_batch=5", "tp=2"},
        {4, "llama", "global_batch=2", "tp=4"},
        {4, "llama", LORA " global_batch=5", "tp=4"},
    };
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct layout_leg legs[] = {{rows[i].ranks, LAYOUT_STEPS, rows[i].layout}};
        if (rows[i].ranks != job.world.size) continue;
        layout_train(&site, "shared", &rows[i], legs);
        if (job.world.rank == 0) check_export(&site, &rows[i]);
        layout_remove(&site, "shared");
    }
    layout_site_close(&site);
}

enum { HALF = LAYOUT_STEPS / 2 };

/* Runs that change their layout half-way. */
static const struct layout_leg ways[][LAYOUT_LEGS] = {
    {{4, HALF, "tp=2"}, {4, LAYOUT_STEPS, "tp=4"}},
    {{4, HALF, "tp=4"}, {4, LAYOUT_STEPS, "dp=4"}},
    {{4, HALF, "dp=4"}, {4, LAYOUT_STEPS, "tp=2"}},
    {{4, HALF, "tp=4"}, {4, LAYOUT_STEPS, "tp=2 sequence=false"}},
    {{2, HALF, "tp=2"}, {1, LAYOUT_STEPS, ""}},
};

static void test_a_checkpoint_goes_on_under_other_layouts(void **state) {
    static const struct layout_case rows[] = {
        {0, "qwen2", "global_batch=5", ""},
        {0, "llama", LORA " global_batch=5 lora.dropout=0.1", ""},
    };
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < 2 * sizeof ways / sizeof *ways; i++) {
        const struct layout_leg *legs = ways[i / 2];
        int most = legs[0].ranks > legs[1].ranks ? legs[0].ranks : legs[1].ranks;
        if (most == job.world.size) layout_compare_legs(&site, &rows[i % 2], legs);
    }
    layout_site_close(&site);
}

static void test_a_broken_slice_is_named(void **state) {
    static const struct layout_case row = {2, "llama", "global_batch=2", "tp=2"};
    (void)state;
    layout_check_broken_weight(&job, &row, 1);
}

static void test_what_can_not_be_shared_is_said(void **state) {
    static const struct layout_refusal rows[] = {
        {{3, "llama", "", "tp=3"}, "tp 3 does not divide the model's 4 attention heads"},
        {{8, "llama", "", "tp=8"}, "tp 8 does not divide the model's 4 attention heads"},
        {{2, "llama_tied_llama3", "", "tp=2"},
         "tp 2 does not divide the model's 3 attention heads"},
        {{4, "llama", "", "tp=2 dp=4"}, "are not the job's 4 ranks"},
    };
    (void)state;
    layout_check_refused(&job, rows, sizeof rows / sizeof *rows);
}

/* Weights and state are cut; activations between products only by sequence parallelism. */
static void test_a_plan_counts_one_ranks_part(void **state) {
    static const struct layout_case rows[] = {
        {1, "llama", "", ""}, {2, "llama", "", "tp=2"}, {2, "llama", "", "tp=2 sequence=false"}};
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    struct trainer_memory one = layout_plan(&site, &rows[0]), two = layout_plan(&site, &rows[1]);
    struct trainer_memory plain = layout_plan(&site, &rows[2]);
    assert_true(two.weights < one.weights * 55 / 100);
    assert_true(two.optimizer < one.optimizer * 55 / 100);
    assert_true(plain.activations < one.activations);
    assert_true(two.activations < plain.activations);
    assert_true(two.activations < one.activations * 6 / 10);
    layout_site_close(&site);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_equal_one),
        cmocka_unit_test(test_the_result_is_exported_whole),
        cmocka_unit_test(test_a_checkpoint_goes_on_under_other_layouts),
        cmocka_unit_test(test_a_broken_slice_is_named),
        cmocka_unit_test(test_what_can_not_be_shared_is_said),
        cmocka_unit_test(test_a_plan_counts_one_ranks_part),
    };
    layout_start(&job, &argc, &argv);
    return layout_finish(&job, cmocka_run_group_tests(tests, NULL, NULL));
}
