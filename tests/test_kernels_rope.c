/* Rotary embedding: frequencies of each scaling against what Hugging Face transformers 5 computes
 * (ROPE_INIT_FUNCTIONS, head_dim 16, printed with 9 digits) and against properties of the papers;
 * rotation against complex numbers in float64. */
#define _GNU_SOURCE
#include "tests/kernels_tables.h"

#include <complex.h>

enum { DIM = 16 };

struct known {
    const char *name;
    struct rope_config config;
    double factor, frequency[DIM / 2];
};

static const struct known knowns[] = {
    {"none",
     {.theta = 10000.0},
     1.0,
     {1.0, 0.31622776602, 0.1, 0.031622776602, 0.01, 0.0031622776602, 0.001, 0.00031622776602}},
    {"linear",
     {.theta = 10000.0, .scaling = ROPE_SCALING_LINEAR, .factor = 4.0},
     1.0,
     {0.25, 0.079056941, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012,
      7.90569466e-05}},
    {"dynamic",
     {.theta = 10000.0,
      .scaling = ROPE_SCALING_DYNAMIC,
      .factor = 2.0,
      .original_context = 2048,
      .context = 6000},
     1.0,
     {1, 0.252299905, 0.0636552423, 0.0160602108, 0.00405198941, 0.00102231663, 0.000257930369,
      6.50758084e-05}},
    {"llama3",
     {.theta = 500000.0,
      .scaling = ROPE_SCALING_LLAMA3,
      .factor = 32.0,
      .low_frequency_factor = 1.0,
      .high_frequency_factor = 4.0,
      .original_context = 8192},
     1.0,
     {1, 0.193922758, 0.0376060307, 0.00729266508, 0.000429556705, 8.57025589e-06, 1.66196742e-06,
      3.22293289e-07}},
    {"yarn",
     {.theta = 10000.0,
      .scaling = ROPE_SCALING_YARN,
      .factor = 4.0,
      .beta_fast = 32.0,
      .beta_slow = 1.0,
      .original_context = 4096,
      .truncate = true},
     1.138629436111989,
     {1, 0.316227764, 0.100000001, 0.025693506, 0.00624999963, 0.00138349656, 0.000250000012,
      7.90569466e-05}},
    {"yarn with mscale",
     {.theta = 10000.0,
      .scaling = ROPE_SCALING_YARN,
      .factor = 40.0,
      .beta_fast = 32.0,
      .beta_slow = 1.0,
      .mscale = 0.8,
      .mscale_all_dim = 1.0,
      .original_context = 4096,
      .truncate = true},
     0.9461039968029624,
     {1, 0.316227764, 0.100000001, 0.0239147246, 0.00512499968, 0.000849862176, 2.49999994e-05,
      7.90569447e-06}},
    {"yarn without truncation",
     {.theta = 150000.0,
      .scaling = ROPE_SCALING_YARN,
      .factor = 32.0,
      .beta_fast = 32.0,
      .beta_slow = 1.0,
      .original_context = 4096},
     1.3465735902799727,
     {1, 0.225418001, 0.0508132726, 0.00679495931, 0.000456483918, 1.8188337e-05, 4.09997847e-06,
      9.24208962e-07}},
};

/* 1e-6: theirs are fp32, blended from rounded parts. */
static void test_frequencies_match_transformers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof knowns / sizeof *knowns; i++) {
        double frequency[DIM / 2];
        double factor = rope_frequencies(frequency, &knowns[i].config, DIM);
        if (!(fabs(factor - knowns[i].factor) <= 1e-12)) fail_msg("%s", knowns[i].name);
        for (int j = 0; j < DIM / 2; j++) {
            double want = knowns[i].frequency[j];
            if (!(fabs(frequency[j] - want) <= 1e-6 * want))
                fail_msg("%s[%d]: got %.9g, want %.9g", knowns[i].name, j, frequency[j], want);
        }
    }
}

/* The formulas' own promises. */
static void test_scalings_keep_their_promises(void **state) {
    (void)state;
    enum { WIDE = 128 };
    double plain[WIDE / 2], scaled[WIDE / 2];
    struct rope_config config = {.theta = 10000.0};
    rope_frequencies(plain, &config, WIDE);
    /* NTK: the fastest pair stays, the slowest is interpolated by exactly the grown factor. */
    config = (struct rope_config){.theta = 10000.0,
                                  .scaling = ROPE_SCALING_DYNAMIC,
                                  .factor = 1.0,
                                  .original_context = 1000,
                                  .context = 4000};
    rope_frequencies(scaled, &config, WIDE);
    assert_true(scaled[0] == plain[0]);
    assert_true(fabs(scaled[63] * 4.0 / plain[63] - 1.0) <= 1e-12);
    config.context = 1000; /* within the original context nothing changes */
    rope_frequencies(scaled, &config, WIDE);
    assert_memory_equal(scaled, plain, sizeof plain);
    /* Llama 3: wavelengths below original / high are kept, above original / low divided. */
    config = (struct rope_config){.theta = 10000.0,
                                  .scaling = ROPE_SCALING_LLAMA3,
                                  .factor = 8.0,
                                  .low_frequency_factor = 1.0,
                                  .high_frequency_factor = 4.0,
                                  .original_context = 8192};
    rope_frequencies(scaled, &config, WIDE);
    for (int i = 0; i < WIDE / 2; i++) {
        double wavelength = 2.0 * 3.14159265358979 / plain[i];
        if (wavelength < 8192.0 / 4.0) assert_true(scaled[i] == plain[i]);
        if (wavelength > 8192.0) assert_true(fabs(scaled[i] * 8.0 / plain[i] - 1.0) <= 1e-12);
        assert_true(scaled[i] <= plain[i] && scaled[i] * 8.0 >= plain[i] * (1.0 - 1e-12));
    }
    /* YaRN: an explicit attention factor is taken as it is. */
    config = knowns[4].config;
    config.attention_factor = 1.5;
    assert_true(rope_frequencies(scaled, &config, DIM) == 1.5);
}

/* A pair is a complex number that is turned by e^(i * angle) * factor. */
static void check_rotation(const struct kernels *k, struct rope_args args, struct random *random) {
    enum { TOKENS = 9 };
    int pairs = args.rotary_dim / 2;
    size_t count = (size_t)(TOKENS * args.heads * args.head_dim);
    double frequency[256];
    struct rope_config config = {.theta = 10000.0};
    rope_frequencies(frequency, &config, args.rotary_dim);
    int32_t positions[TOKENS] = {0, 1, 2, 3, 100, 4095, 131071, 7, 5};
    float *table = new_bytes((size_t)(TOKENS * args.rotary_dim) * sizeof *table);
    void *x = new_normal_act(k, random, count, 1.0f), *before = new_bytes(act_bytes(k, count));
    memcpy(before, x, act_bytes(k, count));
    struct stream s;
    stream_open_cpu(&s, 2);
    k->rope_table(&s, table, positions, frequency, 1.25, TOKENS, args.rotary_dim);
    args.x = x;
    args.table = table;
    args.tokens = TOKENS;
    k->rope(&s, &args);
    double tolerance = k->act == DTYPE_BF16 ? 0x1p-6 : 2e-6;
    for (int row = 0; row < TOKENS * args.heads; row++) {
        size_t base = (size_t)(row * args.head_dim);
        double sign = args.backward ? -1.0 : 1.0, position = positions[row / args.heads];
        for (int i = 0; i < pairs; i++) {
            size_t a = base + (size_t)(args.style == ROPE_INTERLEAVED ? 2 * i : i);
            size_t b = a + (size_t)(args.style == ROPE_INTERLEAVED ? 1 : pairs);
            double complex in = (double)act_at(k, before, a) + I * (double)act_at(k, before, b);
            double complex want = in * 1.25 * cexp(I * sign * position * frequency[i]);
            assert_true(fabs((double)act_at(k, x, a) - creal(want)) <= tolerance * (1 + cabs(in)));
            assert_true(fabs((double)act_at(k, x, b) - cimag(want)) <= tolerance * (1 + cabs(in)));
        }
        for (int i = args.rotary_dim; i < args.head_dim; i++) /* the rest stays */
            assert_true(act_at(k, x, base + (size_t)i) == act_at(k, before, base + (size_t)i));
    }
    free(table);
    free(x);
    free(before);
}

static void test_rotation(void **state) {
    (void)state;
    static const int dims[][2] = {{2, 2},    {4, 4},   {64, 64},  {80, 80},
                                  {128, 64}, {96, 20}, {256, 256}};
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    struct random random = {.seed = 4};
    for (int i = 0; i < 2 * count; i++) {
        const struct kernels *k = i % 2 ? pairs[i / 2].fast : pairs[i / 2].reference;
        for (int d = 0; d < 7 * 4; d++)
            check_rotation(k,
                           (struct rope_args){.heads = 3,
                                              .head_dim = dims[d / 4][0],
                                              .rotary_dim = dims[d / 4][1],
                                              .style = d % 2 ? ROPE_INTERLEAVED : ROPE_HALF_SPLIT,
                                              .backward = d / 2 % 2},
                           &random);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frequencies_match_transformers),
        cmocka_unit_test(test_scalings_keep_their_promises),
        cmocka_unit_test(test_rotation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
