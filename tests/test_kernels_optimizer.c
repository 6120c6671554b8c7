/* AdamW against PyTorch's numbers and the fast tables against the plain loops; the sum of squares
 * against a long sum, with bits that threads don't change. */
#define _GNU_SOURCE
#include "tests/kernels_tables.h"

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
        cmocka_unit_test(test_adamw_matches_torch),
        cmocka_unit_test(test_adamw_tables_match),
        cmocka_unit_test(test_sum_of_squares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
