#include "tests/check.h"

#include "kernels/base/rng.h"
#include "kernels/kernels.h"

enum { VOCAB = 37, DRAWS = 20000 };

static const struct kernels *table(void) {
    const struct kernels *kernels;
    assert_ok(kernels_cpu(&kernels, NULL, DTYPE_F32));
    return kernels;
}

static void fill(float *logits, uint64_t seed) {
    for (int i = 0; i < VOCAB; i++)
        logits[i] = 2.0f * rng_normal(rng_draw(seed, RNG_TEST, 0, (uint64_t)i).word[0],
                                      rng_draw(seed, RNG_TEST, 1, (uint64_t)i).word[0]);
}

static int32_t draw(const float *logits, struct sample_params params, int64_t position,
                    const struct sample_seen *seen, int32_t seen_count, float *logprob) {
    float scratch[VOCAB];
    int32_t ids[VOCAB], token;
    struct stream stream;
    stream_open_cpu(&stream, 1);
    const struct sample_args args = {
        .token = &token,
        .logprob = logprob,
        .scratch = scratch,
        .scratch_ids = ids,
        .logits = logits,
        .seen = seen,
        .seen_count = seen_count,
        .vocab = VOCAB,
        .position = position,
        .params = params,
    };
    table()->sample(&stream, &args);
    return token;
}

/* The distribution that the contract describes, by sorting everything in f64. */
static void expected(const float *logits, struct sample_params params, double *chances) {
    int order[VOCAB];
    double max = -INFINITY, total = 0.0, sum = 0.0;
    for (int i = 0; i < VOCAB; i++) {
        double scaled = (double)(logits[i] / params.temperature);
        order[i] = i;
        if (scaled > max) max = scaled;
        for (int j = i; j > 0 && logits[order[j]] > logits[order[j - 1]]; j--) {
            int swap = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swap;
        }
    }
    for (int i = 0; i < VOCAB; i++)
        chances[i] = exp((double)(logits[i] / params.temperature) - max);
    int kept = params.top_k > 0 && params.top_k < VOCAB ? params.top_k : VOCAB, count = 0;
    for (int i = 0; i < kept; i++) total += chances[order[i]];
    while (count < kept &&
           (count == 0 || params.top_p >= 1.0f || sum < (double)params.top_p * total))
        sum += chances[order[count++]];
    while (count > 1 && chances[order[count - 1]] < (double)params.min_p) count--;
    sum = 0.0;
    for (int i = 0; i < count; i++) sum += chances[order[i]];
    for (int i = 0; i < VOCAB; i++) chances[order[i]] = i < count ? chances[order[i]] / sum : 0.0;
}

static void test_draws_follow_the_cut_distribution(void **state) {
    (void)state;
    static const struct sample_params cases[] = {
        {.temperature = 1.0f, .top_p = 1.0f},
        {.temperature = 0.7f, .top_p = 1.0f, .top_k = 5},
        {.temperature = 1.5f, .top_p = 0.8f},
        {.temperature = 1.0f, .top_p = 0.9f, .top_k = 10, .min_p = 0.05f},
        {.temperature = 2.0f, .top_p = 1.0f, .min_p = 0.2f},
        {.temperature = 1.0f, .top_p = 0.0f},
        {.temperature = 1.0f, .top_p = 1.0f, .top_k = 1},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct sample_params params = cases[c];
        float logits[VOCAB];
        double chances[VOCAB];
        int counts[VOCAB] = {0};
        params.repetition_penalty = 1.0f;
        fill(logits, c);
        expected(logits, params, chances);
        for (int i = 0; i < DRAWS; i++) {
            params.seed = 99;
            counts[draw(logits, params, i, NULL, 0, NULL)]++;
        }
        for (int i = 0; i < VOCAB; i++) {
            double sigma = sqrt(DRAWS * chances[i] * (1.0 - chances[i]));
            if (chances[i] == 0.0) assert_int_equal(counts[i], 0);
            /* keyed draws are fixed: this passes always or never */
            assert_true(fabs(counts[i] - DRAWS * chances[i]) <= 5.0 * sigma + 1.0);
        }
    }
}

static void test_greedy_takes_the_lowest_of_equals(void **state) {
    (void)state;
    float logits[VOCAB], logprob;
    struct sample_params params = {.top_p = 1.0f, .repetition_penalty = 1.0f};
    for (int i = 0; i < VOCAB; i++) logits[i] = i == 7 || i == 20 ? 3.0f : 0.0f;
    assert_int_equal(draw(logits, params, 0, NULL, 0, &logprob), 7);
    double sum = 2.0 * exp(3.0) + (VOCAB - 2);
    assert_true(fabs((double)logprob - (3.0 - log(sum))) < 1e-6);
    logits[30] = NAN;
    assert_int_equal(draw(logits, params, 0, NULL, 0, &logprob), -1);
}

static void test_penalties_and_biases_move_logits(void **state) {
    (void)state;
    float logits[VOCAB] = {[3] = 4.0f, [5] = 3.0f, [6] = 2.0f, [9] = -1.0f};
    struct sample_params params = {.top_p = 1.0f, .repetition_penalty = 2.0f};
    const struct sample_seen repeated[] = {{.token = 3, .anywhere = 1}};
    assert_int_equal(draw(logits, params, 0, repeated, 1, NULL), 5);
    params.repetition_penalty = 1.0f;
    params.presence_penalty = 0.5f;
    params.frequency_penalty = 0.4f;
    const struct sample_seen often[] = {{.token = 3, .anywhere = 1, .generated = 2}};
    assert_int_equal(draw(logits, params, 0, often, 1, NULL), 5); /* 4 - 0.5 - 0.8 < 3 */
    const struct sample_seen once[] = {{.token = 3, .anywhere = 1, .generated = 1}};
    assert_int_equal(draw(logits, params, 0, once, 1, NULL), 3); /* 4 - 0.5 - 0.4 > 3 */
    const struct sample_seen banned[] = {{.token = 3, .bias = -INFINITY},
                                         {.token = 9, .bias = 100.0f}};
    assert_int_equal(draw(logits, params, 0, banned, 1, NULL), 5);
    assert_int_equal(draw(logits, params, 0, banned, 2, NULL), 9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_follow_the_cut_distribution),
        cmocka_unit_test(test_greedy_takes_the_lowest_of_equals),
        cmocka_unit_test(test_penalties_and_biases_move_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
