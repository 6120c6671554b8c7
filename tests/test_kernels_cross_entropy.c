/* Cross entropy: loss and gradient against float64 and finite differences, vocabulary shards
 * against the whole, the fast tables against the plain loops. */
#define _GNU_SOURCE
#include "tests/kernels_tables.h"

static double loss_f64(const double *row, int vocab, int target) {
    double max = row[0], sum = 0.0;
    for (int i = 0; i < vocab; i++) max = fmax(max, row[i]);
    for (int i = 0; i < vocab; i++) sum += exp(row[i] - max);
    return log(sum) + max - row[target];
}

static void test_reference_against_float64(void **state) {
    (void)state;
    enum { TOKENS = 4, VOCAB = 9 };
    const struct kernels *k;
    assert_ok(kernels_cpu(&k, "reference", DTYPE_F32));
    struct stream s;
    stream_open_cpu(&s, 1);
    struct random random = {.seed = 2};
    float *logits = new_normal(&random, TOKENS * VOCAB, 3.0f), gradient[TOKENS * VOCAB];
    int32_t targets[TOKENS] = {0, 8, 4, -100};
    float weight[TOKENS] = {0.5f, 2.0f, 1.0f, 0.0f};
    struct cross_entropy_row rows[TOKENS];
    k->cross_entropy_forward(&s, rows, logits, targets, 0, TOKENS, VOCAB);
    k->cross_entropy_backward(&s, gradient, logits, rows, targets, weight, 0, TOKENS, VOCAB);
    for (int t = 0; t < 3; t++) {
        double row[VOCAB];
        for (int i = 0; i < VOCAB; i++) row[i] = (double)logits[t * VOCAB + i];
        double loss = log((double)rows[t].sum_exp) + (double)rows[t].row_max;
        loss -= (double)rows[t].target_logit;
        assert_true(fabs(loss - loss_f64(row, VOCAB, targets[t])) <= 1e-6);
        for (int i = 0; i < VOCAB; i++) {
            row[i] += 1e-5;
            double slope = loss_f64(row, VOCAB, targets[t]);
            row[i] -= 2e-5;
            slope = (slope - loss_f64(row, VOCAB, targets[t])) / 2e-5 * (double)weight[t];
            row[i] += 1e-5;
            assert_true(fabs((double)gradient[t * VOCAB + i] - slope) <= 1e-6);
        }
    }
    assert_true(rows[3].target_logit == 0.0f);
    for (int i = 0; i < VOCAB; i++) assert_true(gradient[3 * VOCAB + i] == 0.0f);
    free(logits);
}

static void test_shards_make_the_whole(void **state) {
    (void)state;
    enum { TOKENS = 5, VOCAB = 100, CUT = 60 };
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < 2 * count; i++) {
        const struct kernels *k = i % 2 ? pairs[i / 2].fast : pairs[i / 2].reference;
        struct random random = {.seed = 8};
        float *logits = new_normal(&random, TOKENS * VOCAB, 2.0f);
        int32_t targets[TOKENS] = {3, 99, 60, 59, -1};
        struct cross_entropy_row whole[TOKENS], part;
        struct stream s;
        stream_open_cpu(&s, 1);
        k->cross_entropy_forward(&s, whole, logits, targets, 0, TOKENS, VOCAB);
        for (int t = 0; t < TOKENS; t++) {
            double sum = 0.0, target = 0.0;
            for (int shard = 0; shard < 2; shard++) {
                int first = shard ? CUT : 0, width = shard ? VOCAB - CUT : CUT;
                k->cross_entropy_forward(&s, &part, logits + t * VOCAB + first, targets + t, first,
                                         1, width);
                sum += (double)part.sum_exp * exp((double)(part.row_max - whole[t].row_max));
                target += (double)part.target_logit;
            }
            assert_true(fabs(sum - (double)whole[t].sum_exp) <= 1e-6 * sum);
            assert_true(target == (double)whole[t].target_logit);
        }
        free(logits);
    }
}

static void test_tables_match_reference(void **state) {
    (void)state;
    static const int vocabs[] = {1, 16, 63, 1000, 32003};
    enum { TOKENS = 7 };
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (size_t i = 0; i < (size_t)count * 5; i++) {
        const struct kernels *fast = pairs[i / 5].fast, *plain = pairs[i / 5].reference;
        int vocab = vocabs[i % 5];
        size_t elements = (size_t)(TOKENS * vocab);
        struct random random = {.seed = i};
        float *logits = new_normal(&random, elements, 5.0f),
              *weight = new_normal(&random, TOKENS, 1);
        int32_t targets[TOKENS];
        for (int t = 0; t < TOKENS; t++) targets[t] = random_int(&random, -1, vocab + 5);
        struct cross_entropy_row want[TOKENS], got[TOKENS];
        void *dwant = new_bytes(act_bytes(fast, elements)), *dgot = new_bytes(elements * 4);
        struct stream s;
        stream_open_cpu(&s, 3);
        plain->cross_entropy_forward(&s, want, logits, targets, 3, TOKENS, vocab);
        fast->cross_entropy_forward(&s, got, logits, targets, 3, TOKENS, vocab);
        for (int t = 0; t < TOKENS; t++) {
            assert_true(got[t].row_max == want[t].row_max);
            assert_true(got[t].target_logit == want[t].target_logit);
            assert_true(fabsf(got[t].sum_exp - want[t].sum_exp) <= 2e-6f * want[t].sum_exp);
        }
        plain->cross_entropy_backward(&s, dwant, logits, want, targets, weight, 3, TOKENS, vocab);
        memcpy(dgot, logits, elements * 4); /* in place where dlogits is f32 */
        const float *from = fast->act == DTYPE_F32 ? dgot : logits;
        fast->cross_entropy_backward(&s, dgot, from, want, targets, weight, 3, TOKENS, vocab);
        assert_act_close(fast, dgot, dwant, elements, 1e-7, 1e-6, "dlogits");
        free(logits);
        free(weight);
        free(dwant);
        free(dgot);
    }
}

static void test_nan_is_not_hidden(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < 2 * count; i++) {
        const struct kernels *k = i % 2 ? pairs[i / 2].fast : pairs[i / 2].reference;
        for (int at = 0; at < 70; at += 23) {
            float logits[70] = {0};
            logits[at] = NAN;
            int32_t target = 5;
            struct cross_entropy_row row;
            struct stream s;
            stream_open_cpu(&s, 1);
            k->cross_entropy_forward(&s, &row, logits, &target, 0, 1, 70);
            assert_true(isnan(row.sum_exp));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_against_float64),
        cmocka_unit_test(test_shards_make_the_whole),
        cmocka_unit_test(test_tables_match_reference),
        cmocka_unit_test(test_nan_is_not_hidden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
