/* Optimizer steps on a GPU: the bits of the reference table, over several steps; the sum of squares
 * to a rounding of double, and the same every time. */
#define _GNU_SOURCE
#include "tests/gpu_case.h"

enum { STEPS = 3 };

static struct adamw_args random_args(struct gpu_case *c, int64_t n, float *w, float *grad) {
    return (struct adamw_args){.w = w,
                               .grad = grad,
                               .n = n,
                               .lr = 1e-2 * random_int(&c->random, 1, 9),
                               .beta1 = 0.9,
                               .beta2 = 0.95,
                               .eps = 1e-8,
                               .decay = c->number % 2 ? 0.1 : 0.0,
                               .grad_scale = c->number % 3 ? 0.37f : 1.0f};
}

static void new_gradient(struct gpu_case *c, float *grad, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        grad[i] = random_normal(&c->random) * powf(10.0f, (float)random_int(&c->random, -6, 0));
    gpu_send(c, grad);
}

static void *gpu_zeros(struct gpu_case *c, size_t bytes) {
    void *zeros = gpu_bytes(c, bytes);
    memset(zeros, 0, bytes);
    gpu_send(c, zeros);
    return zeros;
}

static void run_adamw(struct gpu_case *c, void *context) {
    (void)context;
    static const int counts[] = {1, 3, 4, 1023, 1024, 1029};
    int n = c->number < 6 ? counts[c->number] : random_int(&c->random, 1, 3000);
    size_t bytes = (size_t)n * sizeof(float);
    float *w = gpu_f32(c, (size_t)n, 1.0f), *grad = gpu_bytes(c, bytes);
    float *m = gpu_zeros(c, bytes), *v = gpu_zeros(c, bytes);
    struct adamw_args host = random_args(c, n, w, grad);
    host.m = m, host.v = v;
    struct adamw_args gpu = host;
    gpu.w = gpu_of(c, w), gpu.grad = gpu_of(c, grad), gpu.m = gpu_of(c, m), gpu.v = gpu_of(c, v);
    for (host.step = gpu.step = 1; host.step <= STEPS; host.step++, gpu.step++) {
        new_gradient(c, grad, n);
        c->cuda->adamw(&c->stream, &gpu);
        c->reference->adamw(&c->host_stream, &host);
    }
    gpu_expect_bytes(c, w, "w");
    gpu_expect_bytes(c, m, "m");
    gpu_expect_bytes(c, v, "v");
}

static void run_adamw8(struct gpu_case *c, void *context) {
    (void)context;
    int blocks = random_int(&c->random, 1, 5), n = blocks * MOMENT8_BLOCK;
    size_t bytes = (size_t)blocks * sizeof(struct moment8);
    float *w = gpu_f32(c, (size_t)n, 1.0f), *grad = gpu_bytes(c, (size_t)n * sizeof *grad);
    struct moment8 *m = gpu_zeros(c, bytes), *v = gpu_zeros(c, bytes);
    struct adamw_args host = random_args(c, n, w, grad), gpu = host;
    gpu.w = gpu_of(c, w), gpu.grad = gpu_of(c, grad);
    for (host.step = gpu.step = 1; host.step <= STEPS; host.step++, gpu.step++) {
        new_gradient(c, grad, n);
        if (c->number % 4 == 3) /* a block whose moments become zeros, and one of NaN */
            memset(grad, 0, MOMENT8_BLOCK * sizeof *grad), grad[n - 1] = blocks > 1 ? NAN : 0.0f;
        gpu_send(c, grad);
        c->cuda->adamw8(&c->stream, &gpu, gpu_of(c, m), gpu_of(c, v));
        c->reference->adamw8(&c->host_stream, &host, m, v);
        gpu_expect_bytes(c, m, "m");
        gpu_expect_bytes(c, v, "v");
    }
    if (c->number % 4 != 3) gpu_expect_bytes(c, w, "w"); /* of NaN the sign is anyone's */
}

static void run_squares(struct gpu_case *c, void *context) {
    (void)context;
    static const int counts[] = {1, 5, 1024, 4097};
    int n = c->number < 4 ? counts[c->number] : random_int(&c->random, 1, 9000);
    size_t skip = c->number % 2; /* unaligned */
    float *x = gpu_f32(c, (size_t)n + skip, 3.0f);
    double *sums = gpu_shared_bytes(c, 2 * sizeof *sums), want = 0.25;
    sums[0] = sums[1] = want;
    c->reference->sum_squares(&c->host_stream, &want, x + skip, n);
    const float *device = (const float *)gpu_of(c, x) + skip;
    for (int i = 0; i < 2; i++) c->cuda->sum_squares(&c->stream, &sums[i], device, n);
    assert_ok(stream_check(&c->stream));
    assert_true(fabs(sums[0] - want) <= 1e-13 * want);
    assert_true(sums[0] == sums[1]);
    x[skip + (size_t)(n / 2)] = c->number % 2 ? NAN : INFINITY;
    gpu_send(c, x);
    c->cuda->sum_squares(&c->stream, &sums[0], device, n);
    assert_ok(stream_check(&c->stream));
    assert_false(isfinite(sums[0]));
}

static void test_adamw(void **state) {
    (void)state;
    gpu_each(20, run_adamw, NULL);
}

static void test_adamw8(void **state) {
    (void)state;
    gpu_each(20, run_adamw8, NULL);
}

static void test_sum_squares(void **state) {
    (void)state;
    gpu_each(20, run_squares, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_adamw), cmocka_unit_test(test_adamw8),
                                       cmocka_unit_test(test_sum_squares)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
