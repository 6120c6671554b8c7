/* AdamW against PyTorch's numbers, with 8-bit moments against the paper's scheme, and the fast
 * tables against the plain loops; the sum of squares against a long sum, with bits that threads
 * don't change. */
#define _GNU_SOURCE
#include "tests/kernels_tables.h"

#include <stdbool.h>

/* torch 2.15, torch.optim.AdamW([1, -0.5, 0.25, 3], lr=0.1, betas=(0.9, 0.95), eps=1e-8,
 * weight_decay=0.1), gradients [0.3, -0.2, 0, 10] * 0.5 * (1, -0.5, 1, -0.5, 1). */
static const float torch_weights[5][4] = {
    {0.890000045f, -0.395000011f, 0.247500002f, 2.87000012f},
    {0.854263127f, -0.364213079f, 0.245025009f, 2.81446338f},
    {0.787780941f, -0.302631348f, 0.242574766f, 2.72837925f},
    {0.753066182f, -0.27276811f, 0.240149021f, 2.67425871f},
    {0.697344184f, -0.221849069f, 0.237747535f, 2.59932494f},
};
static const float torch_m[4] = {0.0247740019f, -0.016516f, 0.0f, 0.825800002f};
static const float torch_v[4] = {0.0035649566f, 0.0015844251f, 0.0f, 3.96106243f};

static void test_adamw_matches_torch(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < 2 * count; i++) {
        const struct kernels *k = i % 2 ? pairs[i / 2].fast : pairs[i / 2].reference;
        float w[4] = {1.0f, -0.5f, 0.25f, 3.0f}, m[4] = {0}, v[4] = {0};
        const float grad[4] = {0.3f, -0.2f, 0.0f, 10.0f};
        struct stream s;
        stream_open_cpu(&s, 1);
        for (int step = 1; step <= 5; step++) {
            k->adamw(&s, &(struct adamw_args){.w = w,
                                              .m = m,
                                              .v = v,
                                              .grad = grad,
                                              .n = 4,
                                              .lr = 0.1,
                                              .beta1 = 0.9,
                                              .beta2 = 0.95,
                                              .eps = 1e-8,
                                              .decay = 0.1,
                                              .step = step,
                                              .grad_scale = step % 2 ? 0.5f : -0.25f});
            assert_all_close(w, torch_weights[step - 1], 4, 2e-7, 5e-7, "w");
        }
        assert_all_close(m, torch_m, 4, 0, 5e-7, "m");
        assert_all_close(v, torch_v, 4, 0, 5e-7, "v");
    }
}

static const int64_t lengths[] = {0, 1, 17, 64, 1000, 100007};

static void test_adamw_tables_match(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (size_t i = 0; i < (size_t)count * 6; i++) {
        size_t n = (size_t)lengths[i % 6];
        float *x[2][3], *grad = NULL;
        for (int side = 0; side < 2; side++) {
            const struct kernels *k = side ? pairs[i / 6].fast : pairs[i / 6].reference;
            struct random random = {.seed = i};
            for (int j = 0; j < 3; j++) x[side][j] = new_normal(&random, n, 1.0f);
            for (size_t e = 0; e < n; e++) x[side][2][e] = fabsf(x[side][2][e]);
            grad = new_normal(&random, n, 1.0f);
            struct stream s;
            stream_open_cpu(&s, side ? 3 : 1);
            k->adamw(&s, &(struct adamw_args){x[side][0], x[side][1], x[side][2], grad, (int64_t)n,
                                              1e-2, 0.9, 0.999, 1e-8, 0.01, 7, 0.5f});
            free(grad);
        }
        for (int j = 0; j < 3; j++) assert_all_close(x[1][j], x[0][j], n, 1e-6, 1e-6, "adamw");
        for (int j = 0; j < 6; j++) free(x[j / 3][j % 3]);
    }
}

/* The paper's update in numpy, fp32, with the nearest of the levels of bitsandbytes 0.50.2
 * (create_dynamic_map): blocks of 256, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, ten
 * steps from weight() with gradients slope(): elements 0, 31, 62 ... of 512. (bitsandbytes's own
 * CPU code does not always take the nearest level.) */
enum { PEER_ELEMENTS = 512, PEER_STEPS = 10, PEER_SAMPLES = 17 };
static const float peer_weights[PEER_SAMPLES] = {
    -0.87302375f, -0.23819777f, 0.31980750f, -0.67358750f, -0.09742518f, 0.42438763f,
    -0.58167446f, 0.04115276f,  0.57820255f, -0.49012592f, 0.11571500f,  0.71522158f,
    -0.34674335f, 0.20880747f,  0.76034600f, -0.20227706f, 0.29933396f};
static const float peer_m[PEER_SAMPLES] = {
    6.51321530e-01f,  8.34505656e-04f,  -6.14684774e-04f, -3.03271576e-03f, 4.13182098e-03f,
    -3.58226856e-07f, -3.76545265e-03f, -3.12430784e-02f, 2.29997886e-03f,  4.86455765e-03f,
    -3.39908455e-03f, -4.49818932e-03f, 7.42913643e-03f,  -3.76545265e-03f, 1.47565035e-02f,
    6.14684774e-04f,  1.93361077e-03f};
static const float peer_v[PEER_SAMPLES] = {
    4.01263088e-01f, 3.22264445e-04f, 3.22264445e-04f, 2.77122337e-04f, 2.54551269e-04f,
    3.22264445e-04f, 3.44835484e-04f, 6.69294223e-02f, 2.54551269e-04f, 3.67406523e-04f,
    2.99693376e-04f, 2.31980230e-04f, 3.22264445e-04f, 3.44835484e-04f, 7.82149583e-02f,
    2.09409191e-04f, 3.44835484e-04f};

static float weight(int i) {
    return (float)(i * 37 % 101 - 50) / 64.0f;
}
static float slope(int i, int step) {
    if (i % MOMENT8_BLOCK == 0) return 1.0f;
    return (float)((i * 29 + step * 17) % 97 - 48) / 1024.0f * (i % 7 == 0 ? 16.0f : 1.0f);
}

/* The largest magnitude of a block is positive, and no other one is near it: there the lists of
 * levels differ. */
static void test_adamw8_matches_the_paper(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    static struct moment8_map first, second;
    moment8_map_create(&first, true);
    moment8_map_create(&second, false);
    for (int i = 0; i < 2 * count; i++) {
        const struct kernels *k = i % 2 ? pairs[i / 2].fast : pairs[i / 2].reference;
        struct moment8 m[2] = {0}, v[2] = {0};
        float w[PEER_ELEMENTS], grad[PEER_ELEMENTS], wide_m[PEER_ELEMENTS], wide_v[PEER_ELEMENTS];
        struct stream s;
        stream_open_cpu(&s, 1);
        for (int e = 0; e < PEER_ELEMENTS; e++) w[e] = weight(e);
        for (int step = 1; step <= PEER_STEPS; step++) {
            for (int e = 0; e < PEER_ELEMENTS; e++) grad[e] = slope(e, step);
            const struct adamw_args args = {.w = w,
                                            .grad = grad,
                                            .n = PEER_ELEMENTS,
                                            .lr = 0.01,
                                            .beta1 = 0.9,
                                            .beta2 = 0.95,
                                            .eps = 1e-8,
                                            .decay = 0.1,
                                            .step = step,
                                            .grad_scale = 1.0f};
            k->adamw8(&s, &args, m, v);
        }
        for (int b = 0; b < 2; b++) {
            moment8_unpack(wide_m + b * MOMENT8_BLOCK, &m[b], &first);
            moment8_unpack(wide_v + b * MOMENT8_BLOCK, &v[b], &second);
        }
        for (size_t j = 0; j < PEER_SAMPLES; j++) {
            assert_all_close(&w[31 * j], &peer_weights[j], 1, 1e-6, 0, "w");
            assert_all_close(&wide_m[31 * j], &peer_m[j], 1, 1e-8, 2e-6, "m");
            assert_all_close(&wide_v[31 * j], &peer_v[j], 1, 0, 2e-6, "v");
        }
    }
}

/* Codes are the same but where the last bit of a sum decides between two. */
static void test_adamw8_tables_match(void **state) {
    (void)state;
    enum { BLOCKS = 300, N = BLOCKS * MOMENT8_BLOCK };
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        float *w[2];
        struct moment8 *m[2], *v[2];
        for (int side = 0; side < 2; side++) {
            const struct kernels *k = side ? pairs[i].fast : pairs[i].reference;
            struct random random = {.seed = (uint64_t)i};
            w[side] = new_normal(&random, N, 1.0f);
            m[side] = new_bytes(BLOCKS * sizeof *m[side]);
            v[side] = new_bytes(BLOCKS * sizeof *v[side]);
            memset(m[side], 0, BLOCKS * sizeof *m[side]);
            memset(v[side], 0, BLOCKS * sizeof *v[side]);
            struct stream s;
            stream_open_cpu(&s, side ? 3 : 1);
            for (int step = 1; step <= 3; step++) {
                float *grad = new_normal(&random, N, 1.0f);
                const struct adamw_args args = {w[side], NULL, NULL, grad, N,    1e-2,
                                                0.9,     0.99, 1e-8, 0.01, step, 0.5f};
                k->adamw8(&s, &args, m[side], v[side]);
                free(grad);
            }
        }
        int other = 0;
        for (int b = 0; b < BLOCKS; b++) {
            assert_all_close(&m[1][b].scale, &m[0][b].scale, 1, 0, 1e-2, "scale of m");
            assert_all_close(&v[1][b].scale, &v[0][b].scale, 1, 0, 1e-2, "scale of v");
            for (int e = 0; e < MOMENT8_BLOCK; e++) {
                int dm = abs(m[1][b].codes[e] - m[0][b].codes[e]);
                int dv = abs(v[1][b].codes[e] - v[0][b].codes[e]);
                assert_in_range(dm > 1 || dv > 1 ? 2 : 0, 0, 1);
                other += dm || dv;
            }
        }
        assert_true(other <= N / 1000);
        assert_all_close(w[1], w[0], N, 2e-3, 0, "w");
        for (int side = 0; side < 2; side++) free(w[side]), free(m[side]), free(v[side]);
    }
}

static void test_sum_of_squares(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (size_t i = 0; i < (size_t)count * 12; i++) {
        const struct kernels *k = i % 2 ? pairs[i / 12].fast : pairs[i / 12].reference;
        int64_t n = lengths[i / 2 % 6];
        struct random random = {.seed = i};
        float *x = new_normal(&random, (size_t)n, 1e18f); /* squares beyond fp32's range */
        long double want = 3.0L;
        for (int64_t e = 0; e < n; e++) want += (long double)x[e] * (long double)x[e];
        double sums[4];
        for (int threads = 1; threads <= 4; threads++) {
            struct stream s;
            stream_open_cpu(&s, threads);
            sums[threads - 1] = 3.0;
            k->sum_squares(&s, &sums[threads - 1], x, n);
            assert_true(sums[threads - 1] == sums[0]);
        }
        assert_true(fabs(sums[0] - (double)want) <= 1e-13 * (double)want);
        if (n > 0) {
            struct stream s;
            stream_open_cpu(&s, 2);
            x[n - 1] = NAN;
            k->sum_squares(&s, &sums[0], x, n);
            assert_true(isnan(sums[0]));
        }
        free(x);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw_matches_torch),      cmocka_unit_test(test_adamw_tables_match),
        cmocka_unit_test(test_adamw8_matches_the_paper), cmocka_unit_test(test_adamw8_tables_match),
        cmocka_unit_test(test_sum_of_squares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
