/* Training whose data-parallel ranks share optimizer state, gradients and weights (ZeRO) equals one
 * rank; a checkpoint of one level goes on under any other, with any number of ranks; resuming
 * changes no bit. */
#define _GNU_SOURCE
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

/* For 2 and for 4 ranks; where 4 share 3 sequences, one has none. */
static const struct layout_case cases[] = {
    {0, "llama", "global_batch=5", "zero=1"},
    {0, "llama_tied_llama3", "global_batch=5 micro_batch=1 data.packing=whole", "zero=1"},
    {0, "llama", LORA " global_batch=5 lora.dropout=0.2", "zero=1"},
    {0, "llama", "model.dtype=bf16 global_batch=5", "zero=1"},
    {0, "llama", "global_batch=5", "zero=2"},
    {0, "llama", "global_batch=3 micro_batch=1", "zero=2"},
    {0, "llama_tied_llama3", "global_batch=5 micro_batch=1 data.packing=whole", "zero=2"},
    {0, "qwen3", "global_batch=7 micro_batch=2 recompute=full", "zero=2"},
    {0, "llama", LORA " global_batch=5 lora.dropout=0.2 micro_batch=1", "zero=2"},
    {0, "llama", "model.dtype=bf16 global_batch=5", "zero=2"},
    {0, "llama", "global_batch=5", "zero=3"},
    {0, "llama", "global_batch=3 micro_batch=1", "zero=3"},
    {0, "llama_tied_llama3", "global_batch=5 micro_batch=1 data.packing=whole", "zero=3"},
    {0, "qwen3", "global_batch=7 micro_batch=2 recompute=full", "zero=3"},
    {0, "qwen2", "global_batch=5 recompute=selective", "zero=3"},
    {0, "llama_tied_llama3", LORA " global_batch=5 lora.dropout=0.2 micro_batch=1", "zero=3"},
    {0, "llama", "model.dtype=bf16 global_batch=5", "zero=3"},
    {0, "llama", LORA " global_batch=5 model.dtype=bf16", "zero=3"},
    {4, "qwen2", "global_batch=5 micro_batch=1", "zero=1 tp=2"},
    {4, "qwen3", "global_batch=5 micro_batch=1", "zero=2 tp=2"},
    {4, "llama", "global_batch=3 micro_batch=1", "zero=3 tp=2"},
    {4, "llama", LORA " global_batch=5 micro_batch=1", "zero=3 tp=2"},
    {4, "deep_tied", "global_batch=9 micro_batch=2", "zero=1 pp=2"},
    {4, "deep_tied", "global_batch=9 micro_batch=2", "zero=2 pp=2"},
    {4, "deep", "global_batch=1 micro_batch=1", "zero=2 pp=2 schedule=interleaved chunks=2"},
    {4, "deep", "global_batch=8 micro_batch=1", "zero=3 pp=2 schedule=interleaved chunks=2"},
    {4, "deep_tied", "global_batch=7 micro_batch=1 recompute=full", "zero=3 pp=2 schedule=gpipe"},
    {4, "deep_tied", "global_batch=7 micro_batch=1", "zero=1 pp=2 schedule=zb-h1"},
    {4, "deep", "global_batch=8 micro_batch=1", "zero=2 pp=2 schedule=zb-h1"},
    {4, "deep", LORA " global_batch=5 micro_batch=1", "zero=3 pp=2"},
    /* layers in shares of nf4 */
    {4, "llama", LORA " global_batch=5 model.dtype=bf16 model.weights=nf4", "zero=3"},
};

static void test_ranks_equal_one(void **state) {
    (void)state;
    layout_compare_all(&job, cases, sizeof cases / sizeof *cases);
}

static void test_checkpoints_fit_any_level(void **state) {
    static const struct layout_case rows[] = {
        {0, "llama", "global_batch=6 micro_batch=1", ""},
        {0, "llama", LORA " global_batch=5 micro_batch=2", ""},
    };
    int all = job.world.size;
    const struct layout_leg legs[LAYOUT_LEGS] = {{all, 3, "zero=2"},
                                                 {1, 5, ""},
                                                 {all > 1 ? all / 2 : 1, 7, "zero=3"},
                                                 {all, LAYOUT_STEPS, "zero=1"}};
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        layout_compare_legs(&site, &rows[i], legs);
    layout_site_close(&site);
}

static void check_same_bits(const struct layout_site *site) {
    struct layout_result want, got;
    layout_read(site, "whole", &want);
    layout_read(site, "parts", &got);
    const struct layout_limits none = {0}, worst = layout_differences(&want, &got).worst;
    assert_true(layout_within(&worst, &none));
    layout_result_free(&want);
    layout_result_free(&got);
}

/* On the same layout to the last bit. */
static void test_resuming_changes_nothing(void **state) {
    static const struct layout_case row = {0, "llama", "global_batch=6 micro_batch=1", ""};
    static const char *const levels[] = {"zero=1", "zero=2", "zero=3"};
    struct layout_site site;
    int all = job.world.size;
    (void)state;
    layout_site_open(&site, &job);
    for (int i = 0; i < 3; i++) {
        const struct layout_leg legs[] = {{all, 4, levels[i]}, {all, LAYOUT_STEPS, levels[i]}};
        layout_train(&site, "whole", &row, legs + 1);
        layout_train(&site, "parts", &row, legs);
        if (job.world.rank == 0) check_same_bits(&site);
        layout_remove(&site, "whole");
        layout_remove(&site, "parts");
    }
    layout_site_close(&site);
}

/* Where nothing is said of it. */
static void test_level_follows_the_replicas(void **state) {
    static const struct {
        int ranks;
        const char *layout;
        int level;
    } rows[] = {{1, "", 0},       {2, "", 1},          {4, "tp=2", 1},
                {2, "cp=2", 1},   {4, "tp=2 pp=2", 0}, {2, "sync_every=4", 0},
                {2, "zero=0", 0}, {2, "zero=3", 3},    {4, "zero=auto", 1}};
    static struct layout_run run;
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct layout_case row = {rows[i].ranks, "llama", "", rows[i].layout};
        layout_parse(&run, &site, "level", &row, row.layout);
        assert_ok(run_options_check(&run.options));
        assert_int_equal(run_options_zero(&run.options, row.ranks), rows[i].level);
        layout_close(&run);
    }
    const struct layout_case open = {2, "llama", "", "dp=2"},
                             given = {2, "llama", "", "dp=2 zero=1"},
                             whole = {2, "llama", "", "dp=2 zero=0"};
    const struct trainer_memory planned = layout_plan(&site, &open);
    assert_int_equal(planned.optimizer, layout_plan(&site, &given).optimizer);
    assert_true(planned.optimizer < layout_plan(&site, &whole).optimizer);
    layout_site_close(&site);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_level_follows_the_replicas),
        cmocka_unit_test(test_ranks_equal_one),
        cmocka_unit_test(test_checkpoints_fit_any_level),
        cmocka_unit_test(test_resuming_changes_nothing),
    };
    layout_start(&job, &argc, &argv);
    return layout_finish(&job, cmocka_run_group_tests(tests, NULL, NULL));
}
