/* Cross entropy on a GPU against the reference table: odd vocabularies, shards, targets of another
 * rank and ignored ones, in place, NaN. */
#define _GNU_SOURCE
#include "tests/gpu_case.h"

struct batch {
    int tokens, vocab, first;
    float *logits, *weight;
    int32_t *targets;
    struct cross_entropy_row *rows;
};

static struct batch random_batch(struct gpu_case *c) {
    static const int vocabs[] = {1, 2, 31, 1024, 1027, 2600};
    struct batch b = {.tokens = random_int(&c->random, 1, 6)};
    b.vocab = c->number < 6 ? vocabs[c->number] : random_int(&c->random, 1, 1500);
    b.first = c->number % 3 == 1 ? random_int(&c->random, 1, 500) : 0;
    b.logits = gpu_f32(c, (size_t)(b.tokens * b.vocab), 6.0f);
    b.weight = gpu_shared_bytes(c, (size_t)b.tokens * sizeof *b.weight);
    b.targets = gpu_shared_bytes(c, (size_t)b.tokens * sizeof *b.targets);
    b.rows = gpu_bytes(c, (size_t)b.tokens * sizeof *b.rows);
    for (int t = 0; t < b.tokens; t++) {
        b.weight[t] = random_normal(&c->random);
        b.targets[t] = random_int(&c->random, -1, b.first + b.vocab + 3);
    }
    return b;
}

/* sum_exp: sums in another order than the reference's doubles, and exp to 2 ulp. */
static void run_both(struct gpu_case *c, void *context) {
    (void)context;
    struct batch b = random_batch(c);
    size_t count = (size_t)(b.tokens * b.vocab);
    c->cuda->cross_entropy_forward(&c->stream, gpu_of(c, b.rows), gpu_of(c, b.logits), b.targets,
                                   b.first, b.tokens, b.vocab);
    c->reference->cross_entropy_forward(&c->host_stream, b.rows, b.logits, b.targets, b.first,
                                        b.tokens, b.vocab);
    gpu_expect_f32(c, (float *)b.rows, 0.0, 3e-6, "rows");
    gpu_send(c, b.rows);
    bool bf16 = c->cuda->act == DTYPE_BF16;
    void *d = !bf16 && c->number % 2 ? (void *)b.logits : gpu_bytes(c, act_bytes(c->cuda, count));
    c->cuda->cross_entropy_backward(&c->stream, gpu_of(c, d), gpu_of(c, b.logits),
                                    gpu_of(c, b.rows), b.targets, b.weight, b.first, b.tokens,
                                    b.vocab);
    c->reference->cross_entropy_backward(&c->host_stream, d, b.logits, b.rows, b.targets, b.weight,
                                         b.first, b.tokens, b.vocab);
    gpu_expect_act(c, d, 1e-6, bf16 ? 0x1p-7 : 1e-6, "dlogits");
}

static void run_nan(struct gpu_case *c, void *context) {
    (void)context;
    int vocab = random_int(&c->random, 2, 1300);
    float *logits = gpu_f32(c, (size_t)vocab, 1.0f);
    logits[random_int(&c->random, 0, vocab - 1)] = NAN;
    gpu_send(c, logits);
    int32_t *target = gpu_shared_bytes(c, sizeof *target);
    struct cross_entropy_row *row = gpu_shared_bytes(c, sizeof *row);
    *target = -1;
    c->cuda->cross_entropy_forward(&c->stream, row, gpu_of(c, logits), target, 0, 1, vocab);
    assert_ok(stream_check(&c->stream));
    assert_true(isnan(row->sum_exp));
    assert_false(isnan(row->row_max));
}

static void test_both(void **state) {
    (void)state;
    gpu_each(20, run_both, NULL);
}

static void test_nan(void **state) {
    (void)state;
    gpu_each(4, run_nan, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_both), cmocka_unit_test(test_nan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
