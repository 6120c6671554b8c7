/* RMSNorm on a GPU against the reference table: random shapes, odd widths, one row, in place. */
#define _GNU_SOURCE
#include "tests/gpu_case.h"

static const float eps = 1e-5f;

/* fp32: sums in another order than the reference's doubles. bf16: one rounding may fall the other
 * way, up to 2^-7 of the value. */
static double tolerance(const struct gpu_case *c) {
    return c->cuda->act == DTYPE_BF16 ? 0x1p-7 : 3e-6;
}

static void random_shape(struct gpu_case *c, int *rows, int *width) {
    static const int widths[] = {1, 2, 31, 64, 127, 256, 300, 768};
    *rows = c->number < 2 ? 1 : random_int(&c->random, 1, c->number % 8 == 3 ? 70 : 12);
    *width = c->number < 8 ? widths[c->number] : random_int(&c->random, 1, 600);
}

static void run_forward(struct gpu_case *c, void *context) {
    (void)context;
    int rows, width;
    random_shape(c, &rows, &width);
    size_t count = (size_t)rows * (size_t)width;
    bool in_place = c->number % 3 == 1;
    void *x = gpu_act(c, count, 3.0f), *y = in_place ? x : gpu_bytes(c, act_bytes(c->cuda, count));
    float *w = gpu_f32(c, (size_t)width, 1.0f);
    float *rstd = c->number % 4 == 3 ? NULL : gpu_bytes(c, (size_t)rows * sizeof *rstd);
    c->cuda->rmsnorm_forward(&c->stream, gpu_of(c, y), gpu_of(c, rstd), gpu_of(c, x), gpu_of(c, w),
                             rows, width, eps);
    c->reference->rmsnorm_forward(&c->host_stream, y, rstd, x, w, rows, width, eps);
    gpu_expect_act(c, y, 1e-6, tolerance(c), "y");
    if (rstd) gpu_expect_f32(c, rstd, 0.0, 3e-6, "rstd");
}

static void run_backward(struct gpu_case *c, void *context) {
    (void)context;
    int rows, width;
    random_shape(c, &rows, &width);
    size_t count = (size_t)rows * (size_t)width;
    bool accumulate = c->number % 2, in_place = !accumulate && c->number % 4 == 0;
    void *x = gpu_act(c, count, 2.0f), *dy = gpu_act(c, count, 1.0f);
    void *dx = in_place ? dy : gpu_act(c, count, 1.0f);
    float *w = gpu_f32(c, (size_t)width, 1.0f), *dw = gpu_f32(c, (size_t)width, 1.0f);
    float *rstd = gpu_bytes(c, (size_t)rows * sizeof *rstd);
    void *y = gpu_bytes(c, act_bytes(c->cuda, count));
    c->reference->rmsnorm_forward(&c->host_stream, y, rstd, x, w, rows, width, eps);
    gpu_send(c, rstd);
    bool frozen = c->number % 5 == 4;
    struct rmsnorm_backward_args host = {dx, dw, dy, x, w, rstd, rows, width, accumulate};
    struct rmsnorm_backward_args gpu = {gpu_of(c, dx), gpu_of(c, dw), gpu_of(c, dy),
                                        gpu_of(c, x),  gpu_of(c, w),  gpu_of(c, rstd),
                                        rows,          width,         accumulate};
    if (frozen) host.dw = gpu.dw = NULL;
    c->cuda->rmsnorm_backward(&c->stream, &gpu);
    c->reference->rmsnorm_backward(&c->host_stream, &host);
    double scale = width == 1 ? 1e-4 : 1e-5; /* dx of one column is all cancellation */
    gpu_expect_act(c, dx, c->cuda->act == DTYPE_BF16 ? 0x1p-8 : scale, tolerance(c), "dx");
    gpu_expect_f32(c, dw, 1e-5, 1e-5, "dw");
}

static void test_forward(void **state) {
    (void)state;
    gpu_each(24, run_forward, NULL);
}

static void test_backward(void **state) {
    (void)state;
    gpu_each(24, run_backward, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward),
                                       cmocka_unit_test(test_backward)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
