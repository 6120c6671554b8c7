/* Training over NCCL (the stand-in): the bits of the same run over MPI where each axis has two
 * ranks, so that a sum has one order, and one rank's result. */
#include "tests/layouts.h"

#include "parallel/comm_nccl.h"

static struct parallel job; /* cmocka's tests take no arguments */

/* Communicators that were opened over NCCL. */
static nccl_init_rank *init_rank;
static int opened;

static int count_and_init_rank(struct ncclComm **comm, int ranks, struct nccl_id id, int rank) {
    opened++;
    return init_rank(comm, ranks, id, rank);
}

#define NCCL "backend=nccl "

static const struct layout_case cases[] = {
    {2, "llama", "global_batch=5 micro_batch=1", NCCL "dp=2 zero=0"},
    {2, "llama", "global_batch=5 micro_batch=1", NCCL "zero=1"},
    {2, "llama", "global_batch=5 micro_batch=1", NCCL "zero=3"},
    {2, "llama", "global_batch=5", NCCL "tp=2"},
    {2, "llama_dynamic", "global_batch=5", NCCL "tp=2"}, /* one kv head, on both ranks */
    {2, "llama", "global_batch=5 model.dtype=bf16", NCCL "tp=2"},
    {2, "deep", "global_batch=8 micro_batch=1", NCCL "pp=2"},
    {2, "deep", "global_batch=8 micro_batch=1", NCCL "pp=2 schedule=interleaved chunks=2"},
    {4, "qwen2", "global_batch=5 micro_batch=1", NCCL "tp=2 dp=2"},
    {4, "deep_tied", "global_batch=8 micro_batch=1", NCCL "pp=2 dp=2 zero=2"},
};
enum { CASES = sizeof cases / sizeof *cases };

static void test_ranks_equal_one(void **state) {
    (void)state;
    layout_compare_all(&job, cases, CASES);
}

/* Trains under `layout`; rank 0 has the tensors then. */
static void train(const struct layout_site *site, const struct layout_case *row, const char *layout,
                  struct layout_result *result) {
    const struct layout_leg legs[] = {{job.world.size, LAYOUT_STEPS, layout}};
    layout_train(site, layout, row, legs);
    if (job.world.rank == 0) layout_read(site, layout, result);
}

static void check_bits(const char *layout, const struct layout_result *want,
                       const struct layout_result *got) {
    assert_memory_equal(&want->figures, &got->figures, sizeof want->figures);
    assert_int_equal(want->count, got->count);
    for (int i = 0; i < want->count; i++) {
        const struct layout_tensor *a = &want->tensors[i], *b = &got->tensors[i];
        size_t bytes = (size_t)(a->rows * a->cols) * sizeof *a->weights;
        if (memcmp(a->gradient, b->gradient, bytes) != 0 ||
            memcmp(a->weights, b->weights, bytes) != 0)
            fail_msg("%s: %s is not what it is over MPI", layout, a->name);
    }
}

static void test_bits_are_those_over_mpi(void **state) {
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < CASES; i++) {
        struct layout_result want = {0}, got = {0};
        const char *over_mpi = cases[i].layout + strlen(NCCL);
        if (cases[i].ranks != job.world.size) continue;
        opened = 0;
        train(&site, &cases[i], over_mpi, &want);
        assert_int_equal(opened, 0);
        train(&site, &cases[i], cases[i].layout, &got);
        assert_true(opened > 0);
        if (job.world.rank == 0) check_bits(cases[i].layout, &want, &got);
        layout_remove(&site, over_mpi);
        layout_remove(&site, cases[i].layout);
        layout_result_free(&want);
        layout_result_free(&got);
    }
    layout_site_close(&site);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_equal_one),
        cmocka_unit_test(test_bits_are_those_over_mpi),
    };
    const struct nccl *nccl;
    layout_start(&job, &argc, &argv);
    if (parallel_open_nccl(&job, PARALLEL_NCCL, &nccl) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        return layout_finish(&job, 1);
    }
    init_rank = job.nccl->library.init_rank;
    job.nccl->library.init_rank = count_and_init_rank;
    return layout_finish(&job, cmocka_run_group_tests(tests, NULL, NULL));
}
