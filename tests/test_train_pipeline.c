/* A pipeline equals one rank, for every schedule and what training can be asked to do; a checkpoint
 * of one number of stages goes on under others; what can't be cut is said. */
#define _GNU_SOURCE
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

static const struct layout_case cases[] = {
    {2, "deep", "global_batch=8 micro_batch=1", "pp=2"},
    {2, "deep_tied", "global_batch=7 micro_batch=2 recompute=full", "pp=2 schedule=gpipe"},
    {2, "deep", "global_batch=12 micro_batch=2", "pp=2 schedule=interleaved chunks=2"},
    {2, "deep_tied", "global_batch=5 micro_batch=1 data.packing=whole", "pp=2 schedule=zb-h1"},
    {2, "deep_tied", "global_batch=6 micro_batch=1 recompute=selective", "pp=2 schedule=zb-h1"},
    {2, "deep_tied", "global_batch=3 micro_batch=1 data.packing=whole",
     "pp=2 schedule=interleaved chunks=2"},
    {2, "deep", "global_batch=4 micro_batch=1", "pp=2 layers=7,1"},
    {2, "deep", LORA " global_batch=6 micro_batch=1 lora.dropout=0.1", "pp=2"},
    {2, "deep_tied", LORA " global_batch=6 micro_batch=1", "pp=2 schedule=zb-h1"},
    {2, "deep", "global_batch=6 micro_batch=2 model.dtype=bf16", "pp=2"},
    {4, "deep_tied", "global_batch=7 micro_batch=1 data.packing=whole recompute=selective", "pp=4"},
    {4, "deep", "global_batch=8 micro_batch=1", "pp=4 schedule=interleaved chunks=2"},
    {4, "deep_tied", "global_batch=5 micro_batch=1 recompute=full",
     "pp=4 schedule=interleaved chunks=2"},
    {4, "deep_tied", "global_batch=9 micro_batch=1", "pp=4 schedule=zb-h1"},
    /* fewer microbatches than stages */
    {4, "deep_tied", "global_batch=2 micro_batch=1", "pp=4"},
    {4, "deep", "global_batch=6 micro_batch=2", "pp=4 layers=1,4,1,2"},
    {4, "deep", LORA " global_batch=8 micro_batch=1", "pp=4 schedule=interleaved chunks=2"},
    {4, "deep_tied", "global_batch=9 micro_batch=2 data.packing=whole", "pp=2"},
    {4, "deep", "global_batch=8 micro_batch=1", "pp=2 schedule=zb-h1"},
    /* a replica without sequences */
    {4, "deep", "global_batch=1 micro_batch=1", "pp=2 schedule=interleaved chunks=2"},
    {4, "deep_tied", LORA " global_batch=6 micro_batch=1", "pp=2 order=pp-tp-cp-dp"},
    {4, "deep_tied", "global_batch=6 micro_batch=1", "pp=2 tp=2"},
    {4, "deep", "global_batch=4 micro_batch=1",
     "pp=2 tp=2 schedule=interleaved chunks=2 sequence=false"},
    {4, "deep", "global_batch=5 micro_batch=1 data.packing=whole recompute=selective",
     "pp=2 tp=2 schedule=zb-h1"},
};

static void test_ranks_equal_one(void **state) {
    (void)state;
    layout_compare_all(&job, cases, sizeof cases / sizeof *cases);
}

enum { HALF = LAYOUT_STEPS / 2 };

/* Runs that change their layout half-way. */
static const struct layout_leg ways[][LAYOUT_LEGS] = {
    {{2, HALF, "pp=2"}, {1, LAYOUT_STEPS, ""}},
    {{1, HALF, ""}, {2, LAYOUT_STEPS, "pp=2 schedule=interleaved chunks=2"}},
    {{4, HALF, "pp=4"}, {4, LAYOUT_STEPS, "pp=2 tp=2"}},
    {{4, HALF, "dp=4"}, {4, LAYOUT_STEPS, "pp=4 schedule=interleaved chunks=2"}},
};

static void test_a_checkpoint_goes_on_under_other_layouts(void **state) {
    static const struct layout_case rows[] = {
        {0, "deep_tied", "global_batch=6 micro_batch=1", ""},
        {0, "deep", LORA " global_batch=4 micro_batch=1", ""},
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

static void test_what_can_not_be_cut_is_said(void **state) {
    static const struct layout_refusal rows[] = {
        {{4, "llama", "", "pp=4"},
         "the model's 2 layers can't be cut into 4 parts of at least one layer"},
        {{2, "llama", "", "pp=2 chunks=2 schedule=interleaved"},
         "2 layers can't be cut into 4 parts"},
        {{2, "llama", "", "pp=2 layers=2"}, "parallel.layers has 1 numbers, but there are 2 parts"},
        {{2, "llama", "", "pp=2 layers=1,2"}, "adds up to 3 layers, the model has 2"},
        {{2, "llama", "", "pp=2 layers=one,1"}, "'one' is not a number of layers"},
        {{2, "llama", "", "pp=2 layers=2,0"}, "'0' is not a number of layers"},
        {{2, "llama", "", "pp=2 chunks=2"},
         "parallel.chunks 2 needs parallel.schedule interleaved"},
        {{4, "llama", "", "pp=3"}, "are not the job's 4 ranks"},
    };
    (void)state;
    layout_check_refused(&job, rows, sizeof rows / sizeof *rows);
}

static void test_a_broken_stage_is_named(void **state) {
    static const struct layout_case row = {2, "deep", "global_batch=4 micro_batch=1", "pp=2"};
    (void)state;
    layout_check_broken_weight(&job, &row, 7);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_can_not_be_cut_is_said),
        cmocka_unit_test(test_ranks_equal_one),
        cmocka_unit_test(test_a_checkpoint_goes_on_under_other_layouts),
        cmocka_unit_test(test_a_broken_stage_is_named),
    };
    layout_start(&job, &argc, &argv);
    return layout_finish(&job, cmocka_run_group_tests(tests, NULL, NULL));
}
