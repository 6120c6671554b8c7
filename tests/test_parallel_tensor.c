/* The forward pass over tensor-parallel ranks: logits of the whole vocabulary near one rank's, and
 * the same bits whatever else is in the batch and however the residual stream is split. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "core/packed_batch.h"
#include "core/workspace.h"
#include "parallel/parallel.h"

static struct parallel job; /* cmocka's tests take no arguments */

enum { PROBE = 7, OTHERS = 12, LENGTH = 40, SEQUENCES = OTHERS + 1 };
enum { TOKENS = PROBE + OTHERS * LENGTH };

struct bench {
    struct model model;
    struct workspace ws;
    struct packed_batch packed;
    const struct kernels *kernels;
};

/* The probe's tokens; the others' begin elsewhere. */
static int32_t token(int sequence, int at) {
    return (sequence * 31 + at * 17 + at * at) % 96;
}

static void bench_open(struct bench *bench, const char *name, struct comm *tp, enum dtype act,
                       bool sequence) {
    struct model_config config;
    struct model_file file;
    memset(bench, 0, sizeof *bench);
    assert_ok(model_config_read_hf(&config, name));
    struct shard shard = shard_whole(&config);
    shard.tp_rank = tp ? tp->rank : 0;
    shard.tp_size = tp ? tp->size : 1;
    assert_ok(model_file_open(&file, name, false));
    enum layout layout = act == DTYPE_BF16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32;
    assert_ok(model_load(&bench->model, &file, &shard, layout, 0, 1));
    model_file_close(&file);
    assert_ok(parallel_kernels(&job.world, &bench->kernels, "auto", act));
    const struct workspace_plan plan = {
        .tokens = TOKENS, .logit_rows = PROBE, .keep = ACTS_NONE, .sequence = sequence};
    assert_ok(workspace_open(&bench->ws, &bench->model, bench->kernels, 1, tp, &plan));
    assert_ok(packed_batch_create(&bench->packed, TOKENS, SEQUENCES));
}

static void bench_close(struct bench *bench) {
    packed_batch_free(&bench->packed);
    workspace_close(&bench->ws);
    model_free(&bench->model);
}

/* The probe, behind `others` sequences. */
static void fill(struct bench *bench, int others) {
    int32_t ids[LENGTH];
    packed_batch_clear(&bench->packed);
    for (int s = others; s >= 0; s--) {
        int count = s == 0 ? PROBE : LENGTH;
        for (int i = 0; i < count; i++) ids[i] = token(s, i);
        packed_batch_add(&bench->packed, ids, count, 0.01f);
    }
}

/* (PROBE, V); the caller frees them. */
static float *probe_logits(struct bench *bench, int others) {
    int32_t rows[PROBE];
    int64_t vocab = bench->model.config.vocab;
    float *logits = malloc((size_t)(PROBE * vocab) * sizeof *logits);
    assert_non_null(logits);
    fill(bench, others);
    for (int i = 0; i < PROBE; i++) rows[i] = others * LENGTH + i;
    stage_forward(&bench->ws.exec, &bench->model, &bench->packed.batch, &bench->ws.acts);
    head_logits(&bench->ws.exec, &bench->model, logits, bench->ws.acts.hidden, rows, PROBE);
    assert_ok(stream_check(&bench->ws.stream));
    return logits;
}

static double loss_of(struct bench *bench, float *tokens) {
    double loss = 0.0;
    fill(bench, OTHERS);
    stage_forward(&bench->ws.exec, &bench->model, &bench->packed.batch, &bench->ws.acts);
    head_loss(&bench->ws.exec, &bench->model, &bench->packed.batch, bench->ws.acts.hidden, NULL,
              &loss, tokens);
    assert_ok(stream_check(&bench->ws.stream));
    return loss;
}

static bool can_share(const char *name) {
    struct model_config config;
    assert_ok(model_config_read_hf(&config, name));
    return shard_check(&config, job.world.size) == STATUS_OK;
}

static const char *const models[] = {"tests/fixtures/llama", "tests/fixtures/qwen2",
                                     "tests/fixtures/qwen3", "tests/fixtures/mistral",
                                     "tests/fixtures/llama_dynamic"};
enum { MODELS = sizeof models / sizeof *models };

static void check_logits(const char *name, enum dtype act, double tolerance) {
    struct bench whole, part;
    bench_open(&whole, name, NULL, act, false);
    bench_open(&part, name, &job.world, act, false);
    size_t count = (size_t)(PROBE * whole.model.config.vocab);
    float *want = probe_logits(&whole, OTHERS), *got = probe_logits(&part, OTHERS);
    float *alone = probe_logits(&part, 0);
    assert_all_close(got, want, count, tolerance, tolerance, name);
    assert_memory_equal(alone, got, count * sizeof *got);
    free(want);
    free(got);
    free(alone);
    bench_close(&whole);
    bench_close(&part);
}

static void test_logits_are_one_ranks(void **state) {
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        if (!can_share(models[m])) continue;
        check_logits(models[m], DTYPE_F32, 2e-5);
        check_logits(models[m], DTYPE_BF16, 0.1);
    }
}

static void check_split(const char *name, enum dtype act) {
    struct bench plain, split;
    float losses[2][TOKENS];
    bench_open(&plain, name, &job.world, act, false);
    bench_open(&split, name, &job.world, act, true);
    double want = loss_of(&plain, losses[0]), got = loss_of(&split, losses[1]);
    assert_memory_equal(losses[0], losses[1], sizeof losses[0]);
    assert_true(want == got);
    bench_close(&plain);
    bench_close(&split);
}

static void test_splitting_the_sequence_changes_no_bit(void **state) {
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        if (!can_share(models[m])) continue;
        check_split(models[m], DTYPE_F32);
        check_split(models[m], DTYPE_BF16);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_are_one_ranks),
        cmocka_unit_test(test_splitting_the_sequence_changes_no_bit),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    if (job.mpi) setenv("CMOCKA_TEST_ABORT", "1", 1); /* the others would wait for a failed rank */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "comparing logits");
    parallel_finish(&job);
    return failed;
}
