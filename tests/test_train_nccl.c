/* Training over NCCL (the stand-in): the bits of the same run over MPI where an axis has two ranks,
 * so that a sum has one order, and one rank's result within the limits of its layout. */
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

#define NCCL "parallel.backend=nccl"
#define ROWS "train.global_batch=5"

static const struct layout_case cases[] = {
    {"dp2", 2, "llama", LIMITS_FP32, {ROWS, "train.micro_batch=1"}, {"parallel.dp=2"}},
    {"dp2, zero 1", 2, "llama", LIMITS_FP32, {ROWS, "train.micro_batch=1"}, {"parallel.zero=1"}},
    {"dp2, zero 3", 2, "llama", LIMITS_FP32, {ROWS, "train.micro_batch=1"}, {"parallel.zero=3"}},
    {"tp2", 2, "llama", LIMITS_FP32_CUT, {ROWS}, {"parallel.tp=2"}},
    {"tp2, one kv head", 2, "llama_dynamic", LIMITS_FP32_CUT, {ROWS}, {"parallel.tp=2"}},
    {"pp2", 2, "llama", LIMITS_FP32, {ROWS, "train.micro_batch=1"}, {"parallel.pp=2"}},
    {"tp2, bf16", 2, "llama", LIMITS_BF16, {ROWS, "model.dtype=bf16"}, {"parallel.tp=2"}},
    {"tp2 x dp2",
     4,
     "qwen2",
     LIMITS_FP32_CUT,
     {ROWS, "train.micro_batch=1"},
     {"parallel.tp=2", "parallel.dp=2"}},
    {"pp2 x dp2",
     4,
     "llama",
     LIMITS_FP32,
     {ROWS, "train.micro_batch=1"},
     {"parallel.pp=2", "parallel.dp=2"}},
};

static void train(const struct layout_site *site, const char *run, const struct layout_case *row,
                  struct layout_result *result) {
    layout_train(site, run, row, row->layout, &site->job[0], 0, LAYOUT_STEPS, result);
    if (job.world.rank == 0) layout_read(site, run, row, result);
}

static void check_bits(const struct layout_case *row, const struct layout_result *want,
                       const struct layout_result *got) {
    assert_memory_equal(want->losses, got->losses, sizeof want->losses);
    assert_memory_equal(want->norms, got->norms, sizeof want->norms);
    assert_true(want->validation == got->validation);
    assert_int_equal(want->count, got->count);
    for (int i = 0; i < want->count; i++) {
        const struct layout_tensor *a = &want->tensors[i], *b = &got->tensors[i];
        size_t bytes = (size_t)a->elements * sizeof *a->weights;
        if (memcmp(a->gradient, b->gradient, bytes) != 0 ||
            memcmp(a->weights, b->weights, bytes) != 0)
            fail_msg("%s: %s is not what it is over MPI", row->name, a->name);
    }
}

static void check_case(const struct layout_site *site, const struct layout_case *row) {
    struct layout_case over_nccl = *row;
    struct layout_result want = {0}, got = {0};
    int last = 0;
    while (over_nccl.layout[last]) last++;
    over_nccl.layout[last] = NCCL;
    train(site, "mpi", row, &want);
    train(site, "nccl", &over_nccl, &got);
    assert_non_null(site->job->nccl);
    if (job.world.rank == 0) {
        check_bits(row, &want, &got);
        layout_remove(site, "mpi");
        layout_remove(site, "nccl");
    }
    layout_result_free(&want);
    layout_result_free(&got);
    layout_compare(site, &over_nccl);
}

static void test_training_equals_that_over_mpi(void **state) {
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (cases[i].ranks == job.world.size) check_case(&site, &cases[i]);
    layout_site_close(&site);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_training_equals_that_over_mpi)};
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    parallel_finish(&job);
    return failures != 0;
}
