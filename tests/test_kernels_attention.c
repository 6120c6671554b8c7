/* Attention: the plain loops against float64 and its finite differences, the fast tables against
 * the plain loops, and the promise that bits don't depend on threads. */
#define _GNU_SOURCE
#include "tests/attention_fixture.h"

static void run_whole(const struct kernels *kernels, const struct attention_fixture *f,
                      struct attention_tensors *t, const void *how) {
    (void)how;
    attention_run_forward(kernels, f, t, 1);
    attention_run_backward(kernels, f, t, 1);
}

static void test_reference_against_float64(void **state) {
    (void)state;
    attention_check_float64(attention_shape_of(2, 1, 4, 0), run_whole, NULL);
    attention_check_float64(attention_shape_of(1, 3, 6, 0), run_whole, NULL);
    attention_check_float64(attention_shape_of(2, 2, 5, 3), run_whole, NULL);
}

static void test_tables_match_reference(void **state) {
    (void)state;
    static const int head_dims[] = {4, 16, 20, 33, 64, 80, 96, 128, 256};
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        const struct kernels *fast = pairs[i].fast;
        for (size_t d = 0; d < sizeof head_dims / sizeof *head_dims; d++) {
            struct random random = {.seed = 100 + d};
            struct attention_fixture f;
            attention_random_fixture(&f, &random, head_dims[d]);
            struct random same = random;
            struct attention_tensors want = attention_tensors_new(fast, &f, &random),
                                     got = attention_tensors_new(fast, &f, &same);
            attention_run_forward(pairs[i].reference, &f, &want, 1);
            attention_run_forward(fast, &f, &got, 2);
            assert_act_close(fast, got.o, want.o, f.q_count, 2e-6, 2e-5, "o");
            assert_all_close(got.lse, want.lse, f.queries, 1e-5, 1e-6, "lse");
            memcpy(got.o, want.o, act_bytes(fast, f.q_count));
            attention_run_backward(pairs[i].reference, &f, &want, 1);
            attention_run_backward(fast, &f, &got, 2);
            assert_act_close(fast, got.dq, want.dq, f.q_count, 3e-5, 1e-5, "dq");
            assert_act_close(fast, got.dk, want.dk, f.kv_count, 1e-4, 1e-5, "dk");
            assert_act_close(fast, got.dv, want.dv, f.kv_count, 1e-4, 1e-5, "dv");
            attention_tensors_free(&want);
            attention_tensors_free(&got);
        }
    }
}

static void test_threads_do_not_change_bits(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        const struct kernels *fast = pairs[i].fast;
        struct random random = {.seed = 7};
        struct attention_fixture f = {.shape = attention_shape_of(3, 2, 48, 0)};
        attention_set_lengths(&f, (const int[]){130, 1, 40, 77}, 4);
        struct random same = random;
        struct attention_tensors one = attention_tensors_new(fast, &f, &random),
                                 more = attention_tensors_new(fast, &f, &same);
        attention_run_forward(fast, &f, &one, 1);
        attention_run_backward(fast, &f, &one, 1);
        for (int threads = 2; threads <= 4; threads++) {
            attention_run_forward(fast, &f, &more, threads);
            attention_run_backward(fast, &f, &more, threads);
            attention_assert_same_bits(fast, &f, &one, &more);
        }
        attention_tensors_free(&one);
        attention_tensors_free(&more);
    }
}

/* A NaN in a key spoils the rows that see it, and no others. */
static void test_nan_spreads_to_its_readers_only(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        const struct kernels *kernels = pairs[i].fast;
        if (kernels->act != DTYPE_F32) continue;
        struct attention_fixture f = {.shape = attention_shape_of(1, 1, 16, 0)};
        attention_set_lengths(&f, (const int[]){100}, 1);
        struct random random = {.seed = 5};
        struct attention_tensors t = attention_tensors_new(kernels, &f, &random);
        ((float *)t.k)[70 * 16 + 3] = NAN;
        attention_run_forward(kernels, &f, &t, 1);
        for (int row = 0; row < 100; row++) {
            assert_int_equal(isnan(((float *)t.o)[row * 16]), row >= 70);
            assert_int_equal(isnan(t.lse[row]), row >= 70);
        }
        attention_tensors_free(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_against_float64),
        cmocka_unit_test(test_tables_match_reference),
        cmocka_unit_test(test_threads_do_not_change_bits),
        cmocka_unit_test(test_nan_spreads_to_its_readers_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
