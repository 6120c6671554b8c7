/* Context parallelism equals one rank, with everything else that training can be asked to do. What
 * ranks share is cut from one list of tokens, so the rows differ in where documents meet the cuts:
 * a microbatch of one document shorter than the chunks are many, documents that reach over several
 * ranks, and many in a chunk. */
#define _GNU_SOURCE
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

#define ONE_AT_A_TIME "global_batch=5 micro_batch=1"
#define PACKED "global_batch=3 data.packing=split data.sequence_length=60"

/* mistral has a sliding window of 8 tokens. */
static const struct layout_case cases[] = {
    {2, "llama", "global_batch=5", "cp=2"},
    {2, "llama", ONE_AT_A_TIME, "cp=2"},
    {2, "mistral", "global_batch=5", "cp=2"},
    {2, "mistral", PACKED, "cp=2"},
    {2, "qwen3", PACKED " recompute=full", "cp=2"},
    {2, "qwen2", LORA " global_batch=5 lora.dropout=0.2 micro_batch=2", "cp=2"},
    {2, "llama", "model.dtype=bf16 global_batch=5", "cp=2"},
    {2, "llama", LORA " global_batch=5 model.weights=nf4", "cp=2"},
    {2, "llama", ONE_AT_A_TIME, "cp=2 zero=1"},
    {2, "qwen3", PACKED, "cp=2 zero=2"},
    {2, "llama", ONE_AT_A_TIME, "cp=2 zero=3"},
    {3, "llama", "global_batch=5", "cp=3"},
    {3, "llama_dynamic", ONE_AT_A_TIME, "cp=3"},
    {4, "llama", "global_batch=5", "cp=4"},
    {4, "qwen2", ONE_AT_A_TIME, "cp=4"},
    {4, "mistral", PACKED, "cp=4"},
    {4, "llama", ONE_AT_A_TIME, "cp=4 zero=3"},
    {4, "llama", ONE_AT_A_TIME, "cp=2"}, /* and 2 replicas */
    {4, "qwen3", PACKED " micro_batch=1", "cp=2 order=dp-cp-tp-pp zero=2"},
    {4, "llama", ONE_AT_A_TIME, "cp=2 tp=2"},
    {4, "qwen2", LORA " global_batch=5 lora.dropout=0.2 data.packing=whole",
     "cp=2 tp=2 sequence=false"},
    {4, "llama", ONE_AT_A_TIME, "cp=2 pp=2"},
    {4, "deep_tied", PACKED " micro_batch=1", "cp=2 pp=2 schedule=zb-h1"},
    {4, "deep_tied", LORA " global_batch=5 micro_batch=1",
     "cp=2 pp=2 schedule=interleaved chunks=2 zero=3"},
};

static void test_ranks_equal_one(void **state) {
    (void)state;
    layout_compare_all(&job, cases, sizeof cases / sizeof *cases);
}

static void test_a_checkpoint_goes_on_under_other_layouts(void **state) {
    static const struct layout_case row = {0, "llama", ONE_AT_A_TIME, ""};
    static const struct layout_leg of_two[LAYOUT_LEGS] = {
        {2, 3, "cp=2"}, {1, 6, ""}, {2, LAYOUT_STEPS, "cp=2 zero=3"}};
    static const struct layout_leg of_four[LAYOUT_LEGS] = {
        {4, 3, "cp=4 zero=3"}, {4, 5, "zero=2"}, {4, 8, "cp=2 tp=2"}, {4, LAYOUT_STEPS, "pp=2"}};
    struct layout_site site;
    (void)state;
    if (job.world.size != 2 && job.world.size != 4) return;
    layout_site_open(&site, &job);
    layout_compare_legs(&site, &row, job.world.size == 2 ? of_two : of_four);
    layout_site_close(&site);
}

/* Trains by legs; rank 0 gets what all agree on. */
static struct layout_figures figures_of(const struct layout_site *site, const char *name,
                                        const struct layout_case *row,
                                        const struct layout_leg *legs) {
    struct layout_result result = {0};
    layout_train(site, name, row, legs);
    if (job.world.rank == 0) layout_read(site, name, &result);
    struct layout_figures figures = result.figures;
    layout_result_free(&result);
    return figures;
}

/* Whole, and in two legs: no bit depends on when messages come. */
static void test_two_runs_have_the_same_bits(void **state) {
    static const struct layout_case row = {0, "mistral", PACKED " micro_batch=2", ""};
    static const struct layout_leg legs[] = {{3, 5, "cp=3"}, {3, LAYOUT_STEPS, "cp=3"}};
    struct layout_site site;
    (void)state;
    if (job.world.size != 3) return;
    layout_site_open(&site, &job);
    struct layout_figures whole = figures_of(&site, "whole", &row, legs + 1);
    struct layout_figures parts = figures_of(&site, "parts", &row, legs);
    assert_memory_equal(whole.losses, parts.losses, sizeof whole.losses);
    assert_memory_equal(whole.norms, parts.norms, sizeof whole.norms);
    assert_true(whole.validation == parts.validation);
    layout_site_close(&site);
}

/* Two replicas of two ranks that train alone are two replicas of one rank; interrupted when they
 * have just met, with moments of their own. */
static void test_replicas_train_alone(void **state) {
    static const struct layout_case row = {4, "llama", "global_batch=6", ""};
    static const struct layout_leg two[] = {{2, LAYOUT_STEPS, "sync_every=5"}};
    static const struct layout_leg four[] = {{4, 5, "cp=2 sync_every=5"},
                                             {4, LAYOUT_STEPS, "cp=2 sync_every=5"}};
    struct layout_site site;
    (void)state;
    if (job.world.size != 4) return;
    layout_site_open(&site, &job);
    struct layout_figures want = figures_of(&site, "two", &row, two);
    struct layout_figures got = figures_of(&site, "four", &row, four);
    for (int i = 0; i < LAYOUT_STEPS && job.world.rank == 0; i++) {
        assert_true(fabs(got.losses[i] - want.losses[i]) <= 1e-6 * want.losses[i]);
        assert_true(fabs(got.norms[i] - want.norms[i]) <= 1e-6 * want.norms[i]);
    }
    layout_site_close(&site);
}

static int64_t tokens_of_a_step(const struct layout_site *site, const char *name,
                                const char *layout, struct parallel *parallel) {
    static const struct layout_case row = {0, "mistral", PACKED, ""};
    static struct layout_run run;
    struct step_report report;
    layout_open(&run, site, name, &row, layout, parallel);
    assert_ok(trainer_step(&run.trainer, &report));
    layout_close(&run);
    return report.tokens;
}

/* What is reported of a step counts every token once. */
static void test_tokens_are_counted_once(void **state) {
    struct parallel alone = {.node_size = 1, .threads = 1, .node_cpus = 1};
    struct layout_site site;
    (void)state;
    if (job.world.size != 2) return;
    comm_open_self(&alone.world, "world");
    layout_site_open(&site, &job);
    int64_t tokens = tokens_of_a_step(&site, "shared", "cp=2", &job);
    assert_true(tokens > 0);
    if (job.world.rank == 0) assert_int_equal(tokens, tokens_of_a_step(&site, "alone", "", &alone));
    layout_site_close(&site);
}

/* Weights are whole on every rank, activations are of its own tokens; keys and values of others
 * come into scratch, with their gradients in fp32 less than 14 of a rank's. */
static void test_a_plan_counts_one_ranks_part(void **state) {
    static const struct layout_case one = {1, "llama", "global_batch=4 data.sequence_length=4096",
                                           ""};
    static const struct layout_case four = {4, "llama", "global_batch=4 data.sequence_length=4096",
                                            "cp=4"};
    size_t keys = (size_t)4096 * 2 * 16 * sizeof(float); /* of a rank: 2 heads of 16 */
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    struct trainer_memory all = layout_plan(&site, &one), mine = layout_plan(&site, &four);
    assert_true(mine.weights == all.weights);
    assert_true(mine.activations < all.activations * 26 / 100);
    assert_true(mine.scratch < all.scratch / 4 + 14 * keys + mine.gradients);
    assert_true(mine.batches < all.batches * 3 / 2);
    layout_site_close(&site);
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
    layout_start(&job, &argc, &argv);
    return layout_finish(&job, cmocka_run_group_tests(tests, NULL, NULL));
}
