/* Sampling: greedy, penalties and each cut on rows small enough to reason about; the drawn
 * distribution by chi-square over fixed seeds; the fast tables against the plain loops. */
#define _GNU_SOURCE
#include "tests/kernels_tables.h"

static const struct sample_params plain_params = {
    .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f, .seed = 1};

/* Every table of the machine, plain loops first. */
static int all_tables(const struct kernels *tables[MOST_TABLES + 1]) {
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    assert_ok(kernels_cpu(&tables[0], "reference", DTYPE_F32));
    for (int i = 0; i < count; i++) tables[i + 1] = pairs[i].fast;
    return count + 1;
}

enum { MOST = 5000 };

struct case_of_sample {
    struct sample_params params;
    const float *logits;
    const struct sample_seen *seen;
    int32_t seen_count, vocab;
};

static int32_t sample_at(const struct kernels *k, const struct case_of_sample *c, int64_t position,
                         float *logprob) {
    static float scratch[MOST];
    static int32_t ids[MOST];
    int32_t token = -7;
    struct stream s;
    stream_open_cpu(&s, 1);
    k->sample(&s, &(struct sample_args){&token, logprob, scratch, ids, c->logits, c->seen,
                                        c->seen_count, c->vocab, position, c->params});
    assert_ok(stream_check(&s));
    return token;
}

/* The tokens drawn at positions 0 .. 299 are exactly the set of `kept` (a bit each). */
static void assert_kept(const struct case_of_sample *c, uint32_t kept) {
    const struct kernels *tables[MOST_TABLES + 1];
    int count = all_tables(tables);
    for (int i = 0; i < count; i++) {
        uint32_t drawn = 0;
        for (int position = 0; position < 300; position++)
            drawn |= 1u << sample_at(tables[i], c, position, NULL);
        if (drawn != kept) fail_msg("%s drew %#x, want %#x", tables[i]->name, drawn, kept);
    }
}

/* Probabilities 0.1, 0.4, 0.2, 0.2, 0.1 */
static float five[5];

static int set_up_five(void **state) {
    (void)state;
    const float p[5] = {0.1f, 0.4f, 0.2f, 0.2f, 0.1f};
    for (int i = 0; i < 5; i++) five[i] = logf(p[i]) + 2.0f;
    five[3] = five[2];
    five[4] = five[0];
    return 0;
}

static void test_cuts(void **state) {
    (void)state;
    struct case_of_sample c = {.params = plain_params, .logits = five, .vocab = 5};
    assert_kept(&c, 0x1f);
    c.params.top_k = 1;
    assert_kept(&c, 0x02);
    c.params.top_k = 2; /* of equals the lower id stays */
    assert_kept(&c, 0x06);
    c.params.top_k = 4;
    assert_kept(&c, 0x0f);
    c.params.top_k = 99;
    assert_kept(&c, 0x1f);
    c.params.top_k = 0;
    c.params.top_p = 0.5f; /* 0.4 does not reach it, 0.6 does */
    assert_kept(&c, 0x06);
    c.params.top_p = 0.7f;
    assert_kept(&c, 0x0e);
    c.params.top_p = 0.0f;
    assert_kept(&c, 0x02);
    c.params.top_k = 3; /* after top-k 0.4 is 0.5 of what is left */
    c.params.top_p = 0.49f;
    assert_kept(&c, 0x02);
    c.params.top_p = 0.51f;
    assert_kept(&c, 0x06);
    c.params.top_k = 0;
    c.params.top_p = 1.0f;
    c.params.min_p = 0.3f; /* 0.1 is a quarter of 0.4 */
    assert_kept(&c, 0x0e);
    c.params.min_p = 1.0f;
    assert_kept(&c, 0x02);
    c.params.min_p = 0.2f;
    c.params.top_k = 2;
    assert_kept(&c, 0x06);
}

static void test_greedy_and_ties(void **state) {
    (void)state;
    const struct kernels *tables[MOST_TABLES + 1];
    int count = all_tables(tables);
    float row[40];
    for (int i = 0; i < 40; i++) row[i] = (float)(i % 7);
    struct case_of_sample c = {.params = plain_params, .logits = row, .vocab = 40};
    c.params.temperature = 0.0f;
    for (int i = 0; i < count; i++) {
        float logprob;
        assert_int_equal(sample_at(tables[i], &c, 3, &logprob), 6);
        double sum = 0.0;
        for (int j = 0; j < 40; j++) sum += exp((double)row[j]);
        assert_true(fabs((double)logprob - (6.0 - log(sum))) <= 1e-6);
        row[33] = NAN;
        assert_int_equal(sample_at(tables[i], &c, 3, &logprob), -1);
        assert_true(logprob == -INFINITY);
        row[33] = INFINITY;
        assert_int_equal(sample_at(tables[i], &c, 3, NULL), -1);
        row[33] = 5.0f;
    }
    float nothing[3] = {-INFINITY, -INFINITY, -INFINITY};
    c.logits = nothing;
    c.vocab = 3;
    for (int i = 0; i < count; i++) assert_int_equal(sample_at(tables[i], &c, 0, NULL), -1);
    nothing[1] = -4.0f; /* the only one left */
    c.params.temperature = 1.0f;
    assert_kept(&c, 0x02);
}

static void test_penalties_and_biases(void **state) {
    (void)state;
    const float logits[4] = {1.0f, 2.0f, -1.0f, 0.5f};
    struct case_of_sample c = {.params = plain_params, .logits = logits, .vocab = 4};
    c.params.temperature = 0.0f;
    assert_kept(&c, 0x02);
    struct sample_seen seen[2] = {{.token = 1, .generated = 3, .anywhere = 1}};
    c.seen = seen;
    c.seen_count = 1;
    c.params.repetition_penalty = 3.0f; /* 2 / 3 < 1 */
    assert_kept(&c, 0x01);
    c.params.repetition_penalty = 1.5f;
    assert_kept(&c, 0x02);
    c.params.repetition_penalty = 1.0f;
    c.params.presence_penalty = 0.9f; /* 1.1: once, not three times */
    assert_kept(&c, 0x02);
    c.params.presence_penalty = 0.0f;
    c.params.frequency_penalty = 0.35f; /* 0.95 */
    assert_kept(&c, 0x01);
    c.params.frequency_penalty = 0.0f;
    seen[1] = (struct sample_seen){.token = 2, .bias = 3.5f};
    c.seen_count = 2;
    assert_kept(&c, 0x04);
    /* A negative logit is pushed down by a repetition, not up: -1 becomes -2, below -1.5. */
    const float low[2] = {-1.0f, -1.5f};
    seen[0] = (struct sample_seen){.token = 0, .anywhere = 1};
    c.logits = low;
    c.vocab = 2;
    c.seen_count = 1;
    c.params.repetition_penalty = 2.0f;
    assert_kept(&c, 0x02);
}

/* 20,000 draws of 12 tokens at temperature 0.7: chi-square with 11 degrees of freedom, whose
 * quantile of 99.9% is 31.3. Seeds are fixed: it passes or fails for ever. */
static void test_distribution(void **state) {
    (void)state;
    enum { TOKENS = 12, DRAWS = 20000 };
    const struct kernels *tables[MOST_TABLES + 1];
    int count = all_tables(tables);
    float logits[TOKENS];
    double p[TOKENS], total = 0.0;
    for (int i = 0; i < TOKENS; i++) logits[i] = 0.3f * (float)(i * 5 % TOKENS);
    for (int i = 0; i < TOKENS; i++) total += p[i] = exp((double)logits[i] / 0.7);
    struct case_of_sample c = {.params = plain_params, .logits = logits, .vocab = TOKENS};
    c.params.temperature = 0.7f;
    for (int t = 0; t < count; t++) {
        for (int by_seed = 0; by_seed < 2; by_seed++) {
            int drawn[TOKENS] = {0};
            for (int i = 0; i < DRAWS; i++) {
                c.params.seed = by_seed ? (uint64_t)i : 42;
                drawn[sample_at(tables[t], &c, by_seed ? 9 : i, NULL)]++;
            }
            double chi = 0.0;
            for (int i = 0; i < TOKENS; i++) {
                double expected = DRAWS * p[i] / total;
                chi += (drawn[i] - expected) * (drawn[i] - expected) / expected;
            }
            if (!(chi <= 31.3)) fail_msg("%s: chi-square %g", tables[t]->name, chi);
        }
    }
}

/* Random rows, many equal logits among them, and random parameters: the same token. */
static void test_tables_match_reference(void **state) {
    (void)state;
    const struct kernels *tables[MOST_TABLES + 1];
    int count = all_tables(tables);
    static float logits[MOST];
    struct random random = {.seed = 12};
    for (int round = 0; round < 400; round++) {
        struct case_of_sample c = {.params = plain_params, .logits = logits};
        c.vocab = random_int(&random, 1, round % 8 ? 300 : MOST);
        bool coarse = random_int(&random, 0, 1);
        float spread = random_int(&random, 0, 1) ? 4.0f : 0.1f;
        for (int i = 0; i < c.vocab; i++) {
            logits[i] = spread * random_normal(&random);
            if (coarse) logits[i] = rintf(logits[i] * 4.0f) / 4.0f;
        }
        c.params.temperature = 0.3f + 0.2f * (float)random_int(&random, 0, 6);
        if (random_int(&random, 0, 1)) c.params.top_k = random_int(&random, 1, 400);
        if (random_int(&random, 0, 1)) c.params.top_p = 0.05f * (float)random_int(&random, 1, 19);
        if (random_int(&random, 0, 1)) c.params.min_p = 0.02f * (float)random_int(&random, 1, 20);
        for (int position = 0; position < 5; position++) {
            float want, got;
            int32_t token = sample_at(tables[0], &c, position, &want);
            for (int t = 1; t < count; t++) {
                assert_int_equal(sample_at(tables[t], &c, position, &got), token);
                assert_true(fabsf(got - want) <= 2e-6f * (1.0f + fabsf(want)));
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_greedy_and_ties),
        cmocka_unit_test(test_penalties_and_biases),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_tables_match_reference),
    };
    return cmocka_run_group_tests(tests, set_up_five, NULL);
}
