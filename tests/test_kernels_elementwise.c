/* Elementwise ops: SwiGLU's gradient against finite differences of float64, known answers of
 * dropout, the fast tables against the plain loops; the vector exponential against libm. */
#define _GNU_SOURCE
#include "tests/kernels_tables.h"

static double swiglu_f64(double gate, double up) {
    return gate / (1.0 + exp(-gate)) * up;
}

static void test_swiglu_against_float64(void **state) {
    (void)state;
    const struct kernels *kernels;
    assert_ok(kernels_cpu(&kernels, "reference", DTYPE_F32));
    struct stream stream;
    stream_open_cpu(&stream, 1);
    for (int i = -40; i <= 40; i++) {
        float gate = 0.37f * (float)i, up = 0.5f + 0.1f * (float)i, dy = -1.25f, y, dgate, dup;
        kernels->swiglu_forward(&stream, &y, &gate, &up, 1);
        kernels->swiglu_backward(&stream, &dgate, &dup, &dy, &gate, &up, 1);
        double g = (double)gate, u = (double)up, h = 1e-6, scale = 1.0 + fabs(u) * 15.0;
        double slope_gate = -1.25 * (swiglu_f64(g + h, u) - swiglu_f64(g - h, u)) / (2.0 * h);
        double slope_up = -1.25 * (swiglu_f64(g, u + h) - swiglu_f64(g, u - h)) / (2.0 * h);
        assert_true(fabs((double)y - swiglu_f64(g, u)) <= 1e-6 * scale);
        assert_true(fabs((double)dgate - slope_gate) <= 1e-6 * scale);
        assert_true(fabs((double)dup - slope_up) <= 1e-6 * scale);
    }
    float edges[4] = {-INFINITY, -200.0f, 200.0f, NAN}, ones[4] = {1, 1, 1, 1}, y[4];
    kernels->swiglu_forward(&stream, y, edges, ones, 4);
    assert_true(y[1] == 0.0f && y[2] == 200.0f && isnan(y[3]));
}

enum { MOST = 100003 };

static const int64_t lengths[] = {0, 1, 15, 16, 17, 1000, MOST};

/* Runs every binary shape of op on one table; outputs one after the other in out (5, n) act and
 * sums (n) f32. */
static void run_all(const struct kernels *k, int threads, char *out, float *sums, const char *a,
                    const char *b, const char *c, const float *x, int64_t n) {
    struct stream s;
    stream_open_cpu(&s, threads);
    size_t bytes = act_bytes(k, (size_t)n);
    k->add(&s, out, a, b, n);
    k->swiglu_forward(&s, out + bytes, a, b, n);
    memcpy(out + 2 * bytes, a, bytes);
    memcpy(out + 3 * bytes, b, bytes);
    k->swiglu_backward(&s, out + 2 * bytes, out + 3 * bytes, c, out + 2 * bytes, out + 3 * bytes,
                       n);
    memcpy(out + 4 * bytes, c, bytes);
    k->scale(&s, out + 4 * bytes, 0.3f, n);
    k->accumulate_f32(&s, sums, x, n);
    assert_ok(stream_check(&s));
}

static void test_tables_match_reference(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (size_t i = 0; i < (size_t)count * 7; i++) {
        const struct kernels *fast = pairs[i / 7].fast;
        int64_t n = lengths[i % 7];
        size_t elements = (size_t)n, bytes = act_bytes(fast, elements);
        struct random random = {.seed = 40 + i};
        char *in[3], *want = new_bytes(5 * bytes), *got = new_bytes(5 * bytes);
        for (int j = 0; j < 3; j++) in[j] = new_normal_act(fast, &random, elements, 4.0f);
        float *x = new_normal(&random, elements, 1.0f);
        float *sums[2] = {new_normal(&random, elements, 1.0f), new_bytes(elements * sizeof(float))};
        memcpy(sums[1], sums[0], elements * sizeof(float));
        run_all(pairs[i / 7].reference, 1, want, sums[0], in[0], in[1], in[2], x, n);
        run_all(fast, 3, got, sums[1], in[0], in[1], in[2], x, n);
        assert_act_close(fast, got, want, 5 * elements, 2e-6, 2e-6, "elementwise");
        assert_all_close(sums[1], sums[0], elements, 0, 0, "accumulate");
        for (int j = 0; j < 3; j++) free(in[j]);
        free(want);
        free(got);
        free(x);
        free(sums[0]);
        free(sums[1]);
    }
}

/* exp by way of silu would hide its error: cross entropy's sum over one logit 0 and one x gives
 * 1 + e^x, its gradient e^x itself. Within 2 ulp for x in [-87, 88] over 200,000 points. */
/* What one thread writes must not be what another still reads. */
static void test_rounding_in_place(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    struct random random = {.seed = 17};
    for (int i = 0; i < 40 * count; i++) {
        const struct kernels *k = pairs[i % count].fast;
        float *x = new_normal(&random, MOST, 1.0f);
        void *want = new_bytes(act_bytes(k, MOST));
        struct stream s;
        stream_open_cpu(&s, 4);
        k->round_f32(&s, want, x, MOST);
        k->round_f32(&s, x, x, MOST);
        assert_ok(stream_check(&s));
        assert_memory_equal(x, want, act_bytes(k, MOST));
        free(x), free(want);
    }
}

static void test_exponential_within_two_ulp(void **state) {
    (void)state;
    enum { POINTS = 200000 };
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    float *x = new_bytes(POINTS * sizeof *x), *y = new_bytes(POINTS * sizeof *y);
    for (int i = 0; i < POINTS; i++) x[i] = -87.0f + 175.0f * (float)i / (float)POINTS;
    for (int i = 0; i < count; i++) {
        if (pairs[i].fast->act != DTYPE_F32) continue;
        struct stream s;
        stream_open_cpu(&s, 1);
        struct cross_entropy_row row = {0.0f, 1.0f, 0.0f};
        int32_t target = -1;
        float weight = 1.0f;
        pairs[i].fast->cross_entropy_backward(&s, y, x, &row, &target, &weight, 0, 1, POINTS);
        for (int j = 0; j < POINTS; j++) {
            double want = exp((double)x[j]);
            if (!(fabs((double)y[j] - want) <= 2.0 * 0x1p-24 * want)) /* an ulp is 2^-23..2^-24 */
                fail_msg("%s: exp(%.9g) = %.9g, want %.9g", pairs[i].fast->name, (double)x[j],
                         (double)y[j], want);
        }
        float edges[6] = {0.0f, -INFINITY, -100.0f, 90.0f, NAN, INFINITY}, out[6];
        pairs[i].fast->cross_entropy_backward(&s, out, edges, &row, &target, &weight, 0, 1, 6);
        assert_true(out[0] == 1.0f && out[1] == 0.0f && out[2] == 0.0f);
        assert_true(isinf(out[3]) && isnan(out[4]) && isinf(out[5]));
    }
    free(x);
    free(y);
}

static void test_dropout(void **state) {
    (void)state;
    /* Columns of a wider row; neither width is a multiple of a block's four words. */
    enum { ROWS = 37, WIDTH = 70, FIRST = 45, WHOLE = 171 };
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    int64_t row_id[ROWS];
    for (int i = 0; i < ROWS; i++) row_id[i] = (int64_t)i * 12345678901 + 3;
    for (int i = 0; i < 2 * count; i++) {
        const struct kernels *k = i % 2 ? pairs[i / 2].fast : pairs[i / 2].reference;
        struct random random = {.seed = 77};
        void *x = new_normal_act(k, &random, ROWS * WIDTH, 1.0f);
        void *y = new_bytes(act_bytes(k, ROWS * WIDTH));
        struct stream s;
        stream_open_cpu(&s, 2);
        k->dropout(&s,
                   &(struct dropout_args){y, x, row_id, ROWS, WIDTH, FIRST, WHOLE, 5, 6, 0.25f});
        int kept = 0;
        for (int e = 0; e < ROWS * WIDTH; e++) {
            uint64_t index = (uint64_t)row_id[e / WIDTH] * WHOLE + FIRST + (uint64_t)(e % WIDTH);
            struct rng_block block = rng_draw(5, RNG_DROPOUT, 6, index / 4);
            bool keep = rng_unit(block.word[index % 4]) >= 0.25f;
            float want = keep ? act_at(k, x, (size_t)e) / 0.75f : 0.0f;
            float got = act_at(k, y, (size_t)e);
            assert_true(fabsf(got - want) <= fabsf(want) * (k->act == DTYPE_BF16 ? 5e-3f : 2e-7f));
            kept += keep;
        }
        assert_in_range(kept, ROWS * WIDTH * 70 / 100, ROWS * WIDTH * 80 / 100);
        free(x);
        free(y);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_swiglu_against_float64),
        cmocka_unit_test(test_tables_match_reference),
        cmocka_unit_test(test_rounding_in_place),
        cmocka_unit_test(test_exponential_within_two_ulp),
        cmocka_unit_test(test_dropout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
