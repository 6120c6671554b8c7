/* What a sequence of T tokens takes is linear in T: no matrix of T x T scores, neither in what is
 * laid out nor beside it. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "core/head.h"
#include "core/packed_batch.h"
#include "core/workspace.h"

enum { VOCAB = 64, HIDDEN = 16, LONG = 8192 };

static const struct model_config config = {.family = FAMILY_LLAMA,
                                           .vocab = VOCAB,
                                           .hidden = HIDDEN,
                                           .ffn = 16,
                                           .layers = 2,
                                           .heads = 2,
                                           .kv_heads = 1,
                                           .head_dim = 8,
                                           .norm_eps = 1e-5f,
                                           .max_context = LONG,
                                           .rope = {.theta = 10000.0}};

struct bytes {
    size_t activations, scratch;
};

static struct bytes count(const struct model *model, enum dtype act, enum acts_keep keep,
                          int context, int64_t tokens) {
    struct bytes bytes;
    const struct workspace_plan plan = {.tokens = tokens,
                                        .logit_rows = 1,
                                        .keep = keep,
                                        .backward = keep != ACTS_NONE,
                                        .context = context};
    assert_ok(workspace_count(model, act, &plan, &bytes.activations, &bytes.scratch));
    return bytes;
}

/* With many tokens what layers need at once is more than the loss's chunk of logits, and each token
 * adds the same bytes. */
static void check_linear(const struct model *model, enum dtype act, enum acts_keep keep,
                         int context) {
    const int64_t tokens = 8 * head_chunk(HIDDEN, VOCAB);
    assert_int_equal(tokens % 64, 0); /* alignment does not show */
    struct bytes one = count(model, act, keep, context, tokens);
    struct bytes two = count(model, act, keep, context, 2 * tokens);
    struct bytes four = count(model, act, keep, context, 4 * tokens);
    assert_true(one.activations > 0 && one.scratch > 0);
    assert_int_equal(two.activations, 2 * one.activations);
    assert_int_equal(four.activations, 4 * one.activations);
    assert_true(two.scratch <= 2 * one.scratch);
    assert_int_equal(four.scratch - two.scratch, 2 * (two.scratch - one.scratch));
}

static void test_planned_bytes_are_linear(void **state) {
    (void)state;
    static const enum dtype acts[] = {DTYPE_F32, DTYPE_BF16};
    static const enum layout layouts[] = {LAYOUT_PANEL_F32, LAYOUT_PANEL_BF16};
    for (int i = 0; i < 2; i++) {
        struct model model;
        assert_ok(model_create(&model, &config, NULL, layouts[i]));
        for (int keep = ACTS_NONE; keep <= ACTS_ALL; keep++)
            for (int context = 1; context <= 4; context *= 2)
                check_linear(&model, acts[i], (enum acts_keep)keep, context);
        model_free(&model);
    }
}

/* VmHWM: what getrusage says may be the process's that started us. */
static long peak_kib(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long kib = 0;
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %ld", &kib) == 1) break;
    fclose(file);
    assert_true(kib > 0);
    return kib;
}

static void train(struct workspace *ws, const struct model *model, const struct batch *batch,
                  void *d_hidden) {
    double loss = 0.0;
    stage_forward(&ws->exec, model, batch, &ws->acts);
    head_loss(&ws->exec, model, batch, ws->acts.hidden, d_hidden, &loss, NULL);
    stage_backward(&ws->exec, model, batch, &ws->acts, d_hidden, NULL, NULL);
    assert_ok(stream_check(&ws->stream));
    assert_true(loss > 0.0);
}

/* The same memory has been through short sequences before the long one comes; scores of all its
 * pairs would be 256 MiB a head. */
static void test_a_long_sequence_takes_no_more_than_short_ones(void **state) {
    (void)state;
    static int32_t ids[LONG];
    struct model model;
    struct workspace ws;
    struct packed_batch packed;
    const struct kernels *kernels;
    const struct workspace_plan plan = {
        .tokens = LONG, .logit_rows = 1, .keep = ACTS_ALL, .backward = true};
    for (int i = 0; i < LONG; i++) ids[i] = i * 37 % VOCAB;
    assert_ok(kernels_cpu(&kernels, NULL, DTYPE_F32));
    assert_ok(model_create(&model, &config, NULL, LAYOUT_PANEL_F32));
    model_init_random(&model, 5, 0.5f, 1);
    assert_ok(workspace_open(&ws, &model, kernels, 2, NULL, &plan));
    assert_ok(packed_batch_create(&packed, LONG, LONG / 64));
    void *d_hidden = calloc((size_t)LONG * HIDDEN, sizeof(float));
    for (int i = 0; i < LONG / 64; i++) packed_batch_add(&packed, ids + 64 * i, 64, 1.0f);
    train(&ws, &model, &packed.batch, d_hidden);
    long before = peak_kib();
    packed_batch_clear(&packed);
    packed_batch_add(&packed, ids, LONG, 1.0f);
    train(&ws, &model, &packed.batch, d_hidden);
    long grown = peak_kib() - before, pairs = (long)LONG * LONG / 1024 * (long)sizeof(float);
    print_message("grew by %ld KiB; scores of a head: %ld KiB\n", grown, pairs);
    assert_true(grown < pairs / 16);
    free(d_hidden);
    packed_batch_free(&packed);
    workspace_close(&ws);
    model_free(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planned_bytes_are_linear),
        cmocka_unit_test(test_a_long_sequence_takes_no_more_than_short_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
