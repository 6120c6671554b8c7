/* Optimizer state in 8 bits, and state on the host or in a file: what each layout and kind of
 * training comes to, what is planned, and what is refused. */
#define _GNU_SOURCE
#include "tests/layouts.h"

#include "kernels/moment8.h"
#include "train/saves.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

static struct parallel job; /* cmocka's tests take no arguments */

#define BITS8 " global_batch=5 optimizer=adamw8bit "
#define OFFLOAD " offload=optimizer "

static const struct layout_case cases[] = {
    {2, "tiles", BITS8, "dp=2 zero=0"},
    {2, "tiles", BITS8, "zero=1"},
    {2, "tiles", BITS8, "zero=2"},
    {2, "tiles", BITS8, "zero=3"},
    {2, "tiles", BITS8, "tp=2"},
    {2, "tiles", BITS8 "micro_batch=1 recompute=selective", "pp=2 schedule=zb-h1"},
    {2, "tiles", "mode=lora lora.rank=64" BITS8, "zero=1"},
    {2, "tiles", BITS8 OFFLOAD "model.dtype=bf16", "zero=3"},
};

static void test_ranks_equal_one(void **state) {
    (void)state;
    layout_compare_all(&job, cases, sizeof cases / sizeof *cases);
}

/* Two ways to the same result, to the last bit: what is trained, and the other way's words. */
static const struct {
    struct layout_case row;
    const char *way;
} ways[] = {
    {{0, "tiles", "global_batch=5", ""}, OFFLOAD},
    {{0, "tiles", BITS8, ""}, OFFLOAD},
    {{0, "tiles", "global_batch=5 model.dtype=bf16", ""}, OFFLOAD},
    {{0, "tiles", LORA " global_batch=5", ""}, OFFLOAD},
    {{0, "tiles", "global_batch=5 model.dtype=bf16", "zero=1"}, OFFLOAD},
    {{0, "tiles", "global_batch=5", "zero=2"}, OFFLOAD},
    {{0, "tiles", "global_batch=5 model.dtype=bf16", "zero=3"}, OFFLOAD},
    {{0, "tiles", BITS8 "model.dtype=bf16", ""}, OFFLOAD "offload_path=/tmp"},
    {{0, "tiles", "global_batch=5 model.dtype=bf16", ""}, "recompute=selective"},
};

static void assert_same(const struct layout_result *want, const struct layout_result *got) {
    assert_memory_equal(&want->figures, &got->figures, sizeof want->figures);
    assert_int_equal(want->count, got->count);
    for (int i = 0; i < want->count; i++) {
        const struct layout_tensor *a = &want->tensors[i], *b = &got->tensors[i];
        size_t bytes = (size_t)(a->rows * a->cols) * sizeof(float);
        assert_memory_equal(a->gradient, b->gradient, bytes);
        assert_memory_equal(a->weights, b->weights, bytes);
    }
}

/* Trains a run by two lists of legs: the same bits. */
static void check_same(const struct layout_site *site, const struct layout_case *row,
                       const struct layout_leg *legs, const struct layout_case *other,
                       const struct layout_leg *other_legs) {
    struct layout_result want = {0}, got = {0};
    layout_train(site, "plain", row, legs);
    layout_train(site, "other", other, other_legs);
    if (job.world.rank == 0) {
        layout_read(site, "plain", &want);
        layout_read(site, "other", &got);
        assert_same(&want, &got);
    }
    layout_remove(site, "plain");
    layout_remove(site, "other");
    layout_result_free(&want);
    layout_result_free(&got);
}

static void test_ways_have_the_same_bits(void **state) {
    (void)state;
    struct layout_site site;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct layout_case other = ways[i].row;
        char words[256];
        snprintf(words, sizeof words, "%s %s", other.training, ways[i].way);
        other.training = words;
        const struct layout_leg legs[] = {{job.world.size, LAYOUT_STEPS, other.layout}};
        check_same(&site, &ways[i].row, legs, &other, legs);
    }
    layout_site_close(&site);
}

/* A checkpoint holds dequantized moments; quantized again they are what they were. One may go on
 * with its state elsewhere. */
static void test_resuming_changes_nothing(void **state) {
    (void)state;
    static const struct layout_case row = {0, "tiles", BITS8, "zero=1"};
    const int ranks = job.world.size;
    const struct layout_leg whole[] = {{ranks, LAYOUT_STEPS, "zero=1"}};
    const struct layout_leg parts[] = {{ranks, 4, "zero=1"},
                                       {ranks, 7, "zero=1 train.offload=optimizer"},
                                       {ranks, LAYOUT_STEPS, "zero=1"}};
    struct layout_site site;
    layout_site_open(&site, &job);
    check_same(&site, &row, whole, &row, parts);
    layout_site_close(&site);
}

enum { CURVE = 60 };

static void train_curve(const struct layout_site *site, const char *name, const char *optimizer,
                        double losses[CURVE]) {
    static struct layout_run run;
    char words[256];
    snprintf(words, sizeof words, "global_batch=8 steps=%d lr=3e-3 eps=1e-8 optimizer=%s", CURVE,
             optimizer);
    const struct layout_case row = {0, "tiles", words, ""};
    layout_open(&run, site, name, &row, "", &job);
    for (int step = 0; step < CURVE; step++) {
        struct step_report report;
        assert_ok(trainer_step(&run.trainer, &report));
        losses[step] = report.loss;
    }
    layout_close(&run);
}

/* 60 steps in which a small model learns its documents by heart. */
static void test_8_bit_moments_learn_as_well(void **state) {
    (void)state;
    double fp32[CURVE], bits8[CURVE], worst = 0.0;
    struct layout_site site;
    layout_site_open(&site, &job);
    train_curve(&site, "fp32", "adamw", fp32);
    train_curve(&site, "bits8", "adamw8bit", bits8);
    for (int i = 0; i < CURVE; i++) worst = fmax(worst, fabs(bits8[i] - fp32[i]));
    print_message("loss %.4f -> fp32 %.4f, 8 bits %.4f; at most %.4f apart\n", fp32[0],
                  fp32[CURVE - 1], bits8[CURVE - 1], worst);
    assert_true(worst > 0.0);
    assert_true(fp32[CURVE - 1] < 0.8 * fp32[0]);
    assert_true(worst < 0.005 * fp32[0]);
    layout_site_close(&site);
}

static size_t aligned(size_t bytes) {
    return (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
}

/* Of a matrix of n elements fp32 moments take 8n bytes, those in 8 bits 2n and two scales for each
 * 256. Buffers are two of the largest piece. */
static void test_bytes_are_as_planned(void **state) {
    (void)state;
    if (job.world.size > 1) return;
    enum { LAYERS = 3, Q = 64 * 64, MLP = 64 * 144, HEAD = 64 * 96 };
    static const struct layout_case rows[] = {{1, "tiles", "", ""},
                                              {1, "tiles", BITS8, ""},
                                              {1, "tiles", OFFLOAD, ""},
                                              {1, "tiles", BITS8 OFFLOAD, ""}};
    const struct {
        int64_t elements, count;
    } matrices[] = {{Q, 2 * LAYERS}, {MLP, 3 * LAYERS}, {HEAD, 1}};
    struct layout_site site;
    layout_site_open(&site, &job);
    struct trainer_memory plain = layout_plan(&site, &rows[0]);
    struct trainer_memory small = layout_plan(&site, &rows[1]);
    struct trainer_memory apart = layout_plan(&site, &rows[2]);
    struct trainer_memory least = layout_plan(&site, &rows[3]);
    size_t saved = 0;
    for (int i = 0; i < 3; i++) {
        size_t n = (size_t)matrices[i].elements;
        size_t moment = 4 * n, moment8 = aligned(n + n / MOMENT8_BLOCK * 4);
        saved += (size_t)matrices[i].count * 2 * (moment - moment8);
    }
    assert_int_equal(plain.optimizer - small.optimizer, saved);
    assert_int_equal(plain.offloaded + small.offloaded, 0);
    assert_int_equal(apart.offloaded, plain.optimizer);
    assert_int_equal(apart.optimizer, 2 * 2 * MLP * sizeof(float));
    assert_int_equal(least.offloaded, small.optimizer);
    assert_int_equal(least.optimizer, 2 * 2 * HEAD * sizeof(float)); /* the embedding's are fp32 */
    assert_int_equal(trainer_memory_total(&plain) - trainer_memory_total(&apart),
                     plain.optimizer - apart.optimizer);
    layout_site_close(&site);
}

static const struct layout_refusal refusals[] = {
    {{2, "tiles_odd", BITS8, "tp=2"}, "lm_head.weight at row 50, inside a block of 16"},
    {{1, "tiles", "offload_path=/tmp", ""}, "needs train.offload optimizer"},
    {{2, "tiles", OFFLOAD, "sync_every=4"}, "needs train.offload none"},
};

static void test_what_is_refused(void **state) {
    (void)state;
    if (job.world.size > 1) return;
    layout_check_refused(&job, refusals, sizeof refusals / sizeof *refusals);
}

/* A limit on the size of files stands in for a full disk. */
static void test_no_room_for_a_file(void **state) {
    (void)state;
    struct arena arena;
    struct rlimit before, small = {.rlim_cur = 1 << 16};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum status status = arena_map(&arena, "train.offload_path", 1 << 20, "/tmp");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, STATUS_IO);
    assert_string_equal(status_message(),
                        "/tmp: no file of 1.0 MiB for train.offload_path: File too large");
    arena_free(&arena);
    assert_int_equal(arena_map(&arena, "train.offload_path", 64, "/nowhere"), STATUS_IO);
    assert_string_equal(
        status_message(),
        "/nowhere: no file of 0.0 MiB for train.offload_path: No such file or directory");
    arena_free(&arena);
}

/* Memory for a copy of what is saved is for moments of the bytes that they take. */
static void test_snapshot_holds_what_is_saved(void **state) {
    static struct layout_run run;
    static const char *const layouts[] = {"zero=0", "zero=1", "zero=3"};
    struct layout_site site;
    (void)state;
    layout_site_open(&site, &job);
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        const struct layout_case row = {job.world.size, "tiles", BITS8 "checkpoint_every=2",
                                        layouts[i]};
        const struct layout_case fp32 = {job.world.size, "tiles", "checkpoint_every=2", layouts[i]};
        size_t narrow = layout_plan(&site, &row).snapshot,
               wide = layout_plan(&site, &fp32).snapshot;
        print_message("%s: snapshot of %zu bytes, with fp32 moments %zu\n", layouts[i], narrow,
                      wide);
        assert_true(wide > 0 && (double)narrow < 0.8 * (double)wide);
        struct step_report report;
        layout_open(&run, &site, "saved", &row, row.layout, &job);
        assert_ok(trainer_step(&run.trainer, &report));
        assert_ok(saves_begin(&run.trainer, false, false)); /* asserts that all of it fits */
        assert_ok(saves_settle(&run.trainer));
        layout_close(&run);
        layout_remove(&site, "saved");
    }
    layout_site_close(&site);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_equal_one),
        cmocka_unit_test(test_ways_have_the_same_bits),
        cmocka_unit_test(test_resuming_changes_nothing),
        cmocka_unit_test(test_8_bit_moments_learn_as_well),
        cmocka_unit_test(test_bytes_are_as_planned),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_no_room_for_a_file),
        cmocka_unit_test(test_snapshot_holds_what_is_saved),
    };
    layout_start(&job, &argc, &argv);
    return layout_finish(&job, cmocka_run_group_tests(tests, NULL, NULL));
}
