/* Matrix products on a GPU against the reference table: odd sizes and lines that don't begin at
 * multiples of 16 bytes, every tile, every mixture of types. What has an fp32 operand is the
 * contract's chain, bit for bit. */
#define _GNU_SOURCE
#include "tests/gpu_case.h"

struct shape {
    int64_t tokens, rows, cols;
};

/* A GPU gets larger ones too, which would take the emulator minutes. */
static struct shape random_shape(struct gpu_case *c) {
    static const struct shape first[] = {
        {1, 1, 1},     {0, 8, 8},      {1, 64, 128},   {3, 17, 63},     {16, 40, 72},
        {17, 65, 64},  {8, 130, 192},  {130, 136, 80}, {150, 200, 136}, {33, 70, 1},
        {5, 16, 1333}, {200, 160, 16}, {2, 24, 1000},  {130, 130, 320}, {40, 30, 400}};
    enum { FIRST = sizeof first / sizeof *first };
    if (c->number < FIRST) return first[c->number];
    int by = c->gpu.is_emulated ? 1 : 8, eights = c->number % 2 ? 1 : 8;
    return (struct shape){.tokens = random_int(&c->random, 1, 90 * by),
                          .rows = random_int(&c->random, 1, 160 * by / eights) * eights,
                          .cols = random_int(&c->random, 1, 160 * by / eights) * eights};
}

/* The weight of a case: fp32 or bf16 rows. */
static struct weight random_weight(struct gpu_case *c, struct shape shape) {
    enum layout layout = c->number % 4 == 3 ? LAYOUT_ROWS_F32 : LAYOUT_ROWS_BF16;
    if (c->cuda->act == DTYPE_F32) layout = c->number % 4 == 3 ? LAYOUT_ROWS_BF16 : LAYOUT_ROWS_F32;
    struct weight w = {layout, shape.rows, shape.cols,
                       gpu_bytes(c, weight_bytes(layout, shape.rows, shape.cols))};
    float *values = new_normal(&c->random, (size_t)(shape.rows * shape.cols), 1.0f);
    weight_pack(&w, 0, shape.rows, values);
    free(values);
    gpu_send(c, w.data);
    return w;
}

static struct weight on_device(struct gpu_case *c, const struct weight *w) {
    struct weight device = *w;
    device.data = gpu_of(c, w->data);
    return device;
}

/* Do tensor cores compute products with this weight? */
static bool on_tensor_cores(const struct gpu_case *c, const struct weight *w) {
    return c->cuda->act == DTYPE_BF16 && w->layout == LAYOUT_ROWS_BF16;
}

/* Of numbers near 1, sums of up to 1300 products: 80 steps whose sum, below 128, is rounded, or cut
 * off, to 24 bits. A bf16 result may be rounded to the other neighbour. */
static const double SUM = 5e-4, HALF = 0x1p-7;

static void run_forward(struct gpu_case *c, void *context) {
    (void)context;
    struct shape shape = random_shape(c);
    struct weight w = random_weight(c, shape), device = on_device(c, &w);
    size_t count = (size_t)(shape.tokens * shape.rows);
    bool wide = c->number % 3 == 1;
    void *x = gpu_act(c, (size_t)(shape.tokens * shape.cols), 1.0f);
    void *y = wide ? gpu_f32(c, count, 1.0f) : gpu_act(c, count, 1.0f);
    float *bias = c->number % 5 < 2 ? gpu_f32(c, (size_t)shape.rows, 1.0f) : NULL;
    struct matmul_forward_args host = {.y = y,
                                       .x = x,
                                       .w = &w,
                                       .bias = bias,
                                       .tokens = shape.tokens,
                                       .accumulate = c->number % 2,
                                       .y_is_f32 = wide};
    struct matmul_forward_args gpu = host;
    gpu.y = gpu_of(c, y), gpu.x = gpu_of(c, x), gpu.w = &device, gpu.bias = gpu_of(c, bias);
    c->cuda->matmul_forward(&c->stream, &gpu);
    c->reference->matmul_forward(&c->host_stream, &host);
    if (!on_tensor_cores(c, &w))
        gpu_expect_bytes(c, y, "y");
    else if (wide)
        gpu_expect_f32(c, y, SUM, 1e-5, "y");
    else
        gpu_expect_act(c, y, SUM, HALF, "y");
}

static void run_backward_input(struct gpu_case *c, void *context) {
    (void)context;
    struct shape shape = random_shape(c);
    struct weight w = random_weight(c, shape), device = on_device(c, &w);
    c->stream.own_products = c->number % 3 != 0;
    void *dy = gpu_act(c, (size_t)(shape.tokens * shape.rows), 1.0f);
    void *dx = gpu_act(c, (size_t)(shape.tokens * shape.cols), 1.0f);
    struct matmul_backward_input_args host = {dx, dy, &w, shape.tokens, c->number % 2};
    struct matmul_backward_input_args gpu = {gpu_of(c, dx), gpu_of(c, dy), &device, shape.tokens,
                                             c->number % 2};
    c->cuda->matmul_backward_input(&c->stream, &gpu);
    c->reference->matmul_backward_input(&c->host_stream, &host);
    if (on_tensor_cores(c, &w))
        gpu_expect_act(c, dx, SUM, HALF, "dx");
    else
        gpu_expect_bytes(c, dx, "dx");
}

static void run_backward_weight(struct gpu_case *c, void *context) {
    (void)context;
    struct shape shape = random_shape(c);
    c->stream.own_products = c->number % 3 != 0;
    void *dy = gpu_act(c, (size_t)(shape.tokens * shape.rows), 1.0f);
    void *x = gpu_act(c, (size_t)(shape.tokens * shape.cols), 1.0f);
    float *dw = gpu_f32(c, (size_t)(shape.rows * shape.cols), 1.0f);
    struct weight w = {LAYOUT_ROWS_F32, shape.rows, shape.cols, dw}, device = on_device(c, &w);
    c->cuda->matmul_backward_weight(
        &c->stream,
        &(struct matmul_backward_weight_args){&device, gpu_of(c, dy), gpu_of(c, x), shape.tokens});
    c->reference->matmul_backward_weight(
        &c->host_stream, &(struct matmul_backward_weight_args){&w, dy, x, shape.tokens});
    if (c->cuda->act == DTYPE_BF16)
        gpu_expect_f32(c, dw, SUM, 1e-5, "dw");
    else
        gpu_expect_bytes(c, dw, "dw");
}

static void run_bias(struct gpu_case *c, void *context) {
    (void)context;
    struct shape shape = random_shape(c);
    void *dy = gpu_act(c, (size_t)(shape.tokens * shape.rows), 1.0f);
    float *dbias = gpu_f32(c, (size_t)shape.rows, 1.0f);
    c->cuda->bias_backward(&c->stream, gpu_of(c, dbias), gpu_of(c, dy), shape.tokens, shape.rows);
    c->reference->bias_backward(&c->host_stream, dbias, dy, shape.tokens, shape.rows);
    gpu_expect_f32(c, dbias, 2e-5, 1e-5, "dbias");
}

/* y of the first `tokens` rows alone, from the same y. */
static void *forward_of(struct gpu_case *c, const struct weight *w, const void *x, int64_t tokens,
                        int64_t offset) {
    size_t element = dtype_bytes(c->cuda->act, 1);
    void *y = gpu_bytes(c, (size_t)(tokens * w->rows) * element);
    struct matmul_forward_args args = {.y = gpu_of(c, y),
                                       .x = (char *)gpu_of(c, x) +
                                            (size_t)(offset * w->cols) * element,
                                       .w = w,
                                       .tokens = tokens};
    c->cuda->matmul_forward(&c->stream, &args);
    return gpu_fetch(c, y);
}

/* A row has the same bits alone, among 16 (the decoding tile), among 40 and among all: through
 * every tile, and through copies of lines that are aligned and that are not. */
static void run_alone(struct gpu_case *c, void *context) {
    (void)context;
    static const int64_t parts[] = {1, 5, 16, 17, 40, 100};
    struct shape shape = {.tokens = c->gpu.is_emulated ? 140 : 2000,
                          .rows = c->gpu.is_emulated ? 150 : 1500,
                          .cols = c->number % 2 ? 333 : 840};
    struct weight w = random_weight(c, shape), device = on_device(c, &w);
    void *x = gpu_act(c, (size_t)(shape.tokens * shape.cols), 1.0f);
    size_t row = dtype_bytes(c->cuda->act, (size_t)shape.rows);
    char *all = forward_of(c, &device, x, shape.tokens, 0);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        int64_t first = random_int(&c->random, 0, (int)(shape.tokens - parts[i]));
        void *some = forward_of(c, &device, x, parts[i], first);
        if (memcmp(some, all + (size_t)first * row, (size_t)parts[i] * row) != 0)
            fail_msg("%d rows from %d on have other bits than among %d (K=%d, %s, schedule %s)",
                     (int)parts[i], (int)first, (int)shape.tokens, (int)shape.cols,
                     layout_name(w.layout), c->schedule);
        free(some);
    }
    free(all);
}

/* NaN and infinity reach what depends on them, and nothing else: no padding takes part. */
static void run_damage(struct gpu_case *c, void *context) {
    (void)context;
    struct shape shape = {.tokens = 21, .rows = 30, .cols = 45};
    struct weight w = random_weight(c, shape), device = on_device(c, &w);
    void *x = gpu_act(c, (size_t)(shape.tokens * shape.cols), 1.0f);
    size_t bad = (size_t)(6 * shape.cols + 44);
    if (c->cuda->act == DTYPE_BF16)
        ((uint16_t *)x)[bad] = 0x7fc0;
    else
        ((float *)x)[bad] = NAN;
    gpu_send(c, x);
    void *y = forward_of(c, &device, x, shape.tokens, 0);
    for (int64_t i = 0; i < shape.tokens * shape.rows; i++)
        assert_int_equal(isnan(act_at(c->cuda, y, (size_t)i)) != 0, i / shape.rows == 6);
    free(y);
}

static void test_forward(void **state) {
    (void)state;
    gpu_each(26, run_forward, NULL);
}

static void test_backward_input(void **state) {
    (void)state;
    gpu_each(26, run_backward_input, NULL);
}

static void test_backward_weight(void **state) {
    (void)state;
    gpu_each(26, run_backward_weight, NULL);
}

static void test_bias_backward(void **state) {
    (void)state;
    gpu_each(20, run_bias, NULL);
}

static void test_rows_do_not_depend_on_batch(void **state) {
    (void)state;
    gpu_each(2, run_alone, NULL);
}

static void test_nan_stays_in_its_row(void **state) {
    (void)state;
    gpu_each(4, run_damage, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_backward_input),
        cmocka_unit_test(test_backward_weight),
        cmocka_unit_test(test_bias_backward),
        cmocka_unit_test(test_rows_do_not_depend_on_batch),
        cmocka_unit_test(test_nan_stays_in_its_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
