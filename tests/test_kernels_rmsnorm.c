/* RMSNorm: the plain loops against float64 and its finite differences, the fast tables against the
 * plain loops. */
#define _GNU_SOURCE
#include "tests/kernels_tables.h"

static const float eps = 1e-5f;

static void forward_f64(double *y, const double *x, const double *w, int rows, int width) {
    for (int r = 0; r < rows; r++) {
        double sum = 0.0;
        for (int i = 0; i < width; i++) sum += x[r * width + i] * x[r * width + i];
        double rstd = 1.0 / sqrt(sum / width + (double)eps);
        for (int i = 0; i < width; i++) y[r * width + i] = x[r * width + i] * rstd * w[i];
    }
}

enum { ROWS = 3, WIDTH = 10 };

/* d(sum dy * y) / d value, by central differences with a step of 1e-5. */
static double slope(double *value, const double *x, const double *w, const float *dy) {
    double y[ROWS * WIDTH], loss[2] = {0.0, 0.0}, kept = *value;
    for (int side = 0; side < 2; side++) {
        *value = kept + (side ? 1e-5 : -1e-5);
        forward_f64(y, x, w, ROWS, WIDTH);
        for (int i = 0; i < ROWS * WIDTH; i++) loss[side] += (double)dy[i] * y[i];
    }
    *value = kept;
    return (loss[1] - loss[0]) / 2e-5;
}

static void test_reference_against_float64(void **state) {
    (void)state;
    const struct kernels *kernels;
    assert_ok(kernels_cpu(&kernels, "reference", DTYPE_F32));
    struct stream stream;
    stream_open_cpu(&stream, 1);
    struct random random = {.seed = 1};
    float *x = new_normal(&random, ROWS * WIDTH, 2.0f), *dy = new_normal(&random, ROWS * WIDTH, 1);
    float *w = new_normal(&random, WIDTH, 1.0f), y[ROWS * WIDTH], rstd[ROWS];
    float dx[ROWS * WIDTH], dw[WIDTH];
    double x64[ROWS * WIDTH], w64[WIDTH], y64[ROWS * WIDTH];
    for (int i = 0; i < ROWS * WIDTH; i++) x64[i] = (double)x[i];
    for (int i = 0; i < WIDTH; i++) w64[i] = (double)w[i];
    for (int i = 0; i < WIDTH; i++) dw[i] = 1.0f; /* the gradient is added */
    for (int i = 0; i < ROWS * WIDTH; i++) dx[i] = 2.0f;
    kernels->rmsnorm_forward(&stream, y, rstd, x, w, ROWS, WIDTH, eps);
    forward_f64(y64, x64, w64, ROWS, WIDTH);
    kernels->rmsnorm_backward(
        &stream, &(struct rmsnorm_backward_args){dx, dw, dy, x, w, rstd, ROWS, WIDTH, true});
    for (int i = 0; i < ROWS * WIDTH; i++) {
        assert_true(fabs((double)y[i] - y64[i]) <= 1e-6 * (1.0 + fabs(y64[i])));
        assert_true(fabs((double)dx[i] - 2.0 - slope(&x64[i], x64, w64, dy)) <= 2e-6);
    }
    for (int i = 0; i < WIDTH; i++)
        assert_true(fabs((double)dw[i] - 1.0 - slope(&w64[i], x64, w64, dy)) <= 2e-6);
    free(x);
    free(dy);
    free(w);
}

struct result {
    void *y, *dx;
    float *rstd, *dw;
};

static struct result run(const struct kernels *kernels, int threads, const void *x, const void *dy,
                         const float *w, int rows, int width, bool accumulate) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    size_t count = (size_t)rows * (size_t)width;
    struct result result = {.y = new_bytes(act_bytes(kernels, count)),
                            .dx = new_bytes(act_bytes(kernels, count)),
                            .rstd = new_bytes((size_t)rows * sizeof(float)),
                            .dw = new_bytes((size_t)width * sizeof(float))};
    memcpy(result.dx, dy, act_bytes(kernels, count)); /* dx may alias dy, or accumulates on it */
    for (int i = 0; i < width; i++) result.dw[i] = (float)i;
    kernels->rmsnorm_forward(&stream, result.y, result.rstd, x, w, rows, width, eps);
    kernels->rmsnorm_backward(
        &stream, &(struct rmsnorm_backward_args){result.dx, result.dw, accumulate ? dy : result.dx,
                                                 x, w, result.rstd, rows, width, accumulate});
    assert_ok(stream_check(&stream));
    return result;
}

static void result_free(struct result *result) {
    free(result->y);
    free(result->dx);
    free(result->rstd);
    free(result->dw);
}

static void test_tables_match_reference(void **state) {
    (void)state;
    static const int shapes[][2] = {{0, 8},    {1, 1},    {3, 17},  {5, 64},
                                    {700, 80}, {33, 768}, {2, 4096}};
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count * 7; i++) {
        const struct kernels *fast = pairs[i / 7].fast;
        int rows = shapes[i % 7][0], width = shapes[i % 7][1];
        size_t elements = (size_t)rows * (size_t)width;
        struct random random = {.seed = (uint64_t)i};
        void *x = new_normal_act(fast, &random, elements, 3.0f);
        void *dy = new_normal_act(fast, &random, elements, 1.0f);
        float *w = new_normal(&random, (size_t)width, 1.0f);
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            struct result want = run(pairs[i / 7].reference, 1, x, dy, w, rows, width, accumulate);
            struct result got = run(fast, 3, x, dy, w, rows, width, accumulate);
            struct result one = run(fast, 1, x, dy, w, rows, width, accumulate);
            assert_act_close(fast, got.y, want.y, elements, 1e-6, 2e-6, "y");
            assert_act_close(fast, got.dx, want.dx, elements, 1e-5, 1e-5, "dx");
            assert_all_close(got.rstd, want.rstd, (size_t)rows, 0, 2e-6, "rstd");
            assert_all_close(got.dw, want.dw, (size_t)width, 1e-4, 1e-5, "dw");
            assert_memory_equal(got.dw, one.dw, (size_t)width * sizeof(float));
            if (elements) assert_memory_equal(got.dx, one.dx, act_bytes(fast, elements));
            result_free(&want);
            result_free(&got);
            result_free(&one);
        }
        free(x);
        free(dy);
        free(w);
    }
}

/* Of 2^20, 2000 times 2^-7 and -2^20 the small ones are left: fp32 loses each beside the first. */
static void check_sum_of_rows(const struct kernels *kernels, struct stream *stream, int width) {
    enum { TERMS = 2002, WIDEST = 200 };
    float *ones = new_bytes(TERMS * WIDEST * sizeof *ones),
          *terms = new_bytes(sizeof(float[TERMS * WIDEST]));
    float w[WIDEST], dw[WIDEST] = {0}, rstd[TERMS];
    size_t count = (size_t)(TERMS * width);
    for (size_t i = 0; i < count; i++) {
        ones[i] = 1.0f;
        terms[i] = i < (size_t)width ? 0x1p20f : i < count - (size_t)width ? 0x1p-7f : -0x1p20f;
    }
    for (int i = 0; i < width; i++) w[i] = 1.0f;
    for (int i = 0; i < TERMS; i++) rstd[i] = 0.5f;
    void *x = new_act(kernels, ones, count), *d = new_act(kernels, terms, count);
    const struct rmsnorm_backward_args args = {
        .dx = d, .dw = dw, .dy = d, .x = x, .w = w, .rstd = rstd, .rows = TERMS, .width = width};
    kernels->rmsnorm_backward(stream, &args);
    for (int i = 0; i < width; i++) assert_float_equal(dw[i], 0.5f * 2000 * 0x1p-7f, 0);
    free(ones), free(terms), free(x), free(d);
}

static void test_gradient_of_weights_keeps_small_terms(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    struct stream stream;
    int count = tables_of_machine(pairs);
    stream_open_cpu(&stream, 2);
    for (int i = 0; i < count; i++)
        for (int width = 8; width <= 200; width += 192) { /* in one block of rows, and in many */
            check_sum_of_rows(pairs[i].fast, &stream, width);
            check_sum_of_rows(pairs[i].reference, &stream, width);
        }
}

static void test_a_row_has_the_same_bits_alone(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) {
        const struct kernels *fast = pairs[i].fast;
        enum { MANY = 40, WIDE = 200 };
        struct random random = {.seed = 9};
        char *x = new_normal_act(fast, &random, MANY * WIDE, 1.0f);
        float *w = new_normal(&random, WIDE, 1.0f);
        struct stream stream;
        stream_open_cpu(&stream, 2);
        size_t bytes = act_bytes(fast, WIDE);
        char *all = new_bytes(MANY * bytes), *alone = new_bytes(bytes);
        fast->rmsnorm_forward(&stream, all, NULL, x, w, MANY, WIDE, eps);
        for (size_t row = 0; row < MANY; row++) {
            fast->rmsnorm_forward(&stream, alone, NULL, x + row * bytes, w, 1, WIDE, eps);
            assert_memory_equal(alone, all + row * bytes, bytes);
        }
        fast->rmsnorm_forward(&stream, x, NULL, x, w, MANY, WIDE, eps); /* y may alias x */
        assert_memory_equal(x, all, MANY * bytes);
        free(x);
        free(w);
        free(all);
        free(alone);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_against_float64),
        cmocka_unit_test(test_tables_match_reference),
        cmocka_unit_test(test_gradient_of_weights_keeps_small_terms),
        cmocka_unit_test(test_a_row_has_the_same_bits_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
