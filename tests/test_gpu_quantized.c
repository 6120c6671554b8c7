/* Products of quantized weights on a GPU: every type, through the fused kernel (few rows of bf16)
 * and through the workspace, has the bits of the same product with the plain weight that has its
 * values; in fp32, of the reference too. */
#define _GNU_SOURCE
#include "tests/gpu_case.h"

#include "kernels/dequantize.h"
#include "kernels/quantized.h"

static const enum dtype types[] = {DTYPE_COUNT, /* NF4 */
                                   DTYPE_F16,   DTYPE_Q4_0,   DTYPE_Q4_1,  DTYPE_Q5_0, DTYPE_Q5_1,
                                   DTYPE_Q8_0,  DTYPE_Q2_K,   DTYPE_Q3_K,  DTYPE_Q4_K, DTYPE_Q5_K,
                                   DTYPE_Q6_K,  DTYPE_IQ4_NL, DTYPE_IQ4_XS};
enum { TYPES = sizeof types / sizeof *types };

/* Random bytes whose values are finite and no larger than 1000. */
static void random_block(struct random *random, enum dtype type, uint8_t *block) {
    const struct dtype_info *info = dtype_info(type);
    float values[256];
    bool good;
    do {
        for (int i = 0; i < info->block_bytes; i++) block[i] = (uint8_t)random_word(random);
        assert_true(dequantize(values, type, block, (size_t)info->block_elements));
        good = true;
        for (int i = 0; i < info->block_elements; i++) good = good && fabsf(values[i]) <= 1000.0f;
    } while (!good);
}

static void pack_random(struct gpu_case *c, const struct weight *w, enum dtype type) {
    if (type == DTYPE_COUNT) {
        float *values = new_normal(&c->random, (size_t)(w->rows * w->cols), 1.0f);
        weight_pack(w, 0, w->rows, values);
        free(values);
        return;
    }
    const struct dtype_info *info = dtype_info(type);
    size_t bytes = dtype_bytes(type, (size_t)w->cols);
    uint8_t *row = new_bytes(bytes);
    for (int64_t r = 0; r < w->rows; r++) {
        for (size_t at = 0; at < bytes; at += (size_t)info->block_bytes)
            random_block(&c->random, type, row + at);
        weight_pack_stored(w, r, row);
    }
    free(row);
}

struct twins {
    struct weight host, device; /* the quantized one */
    struct weight plain;        /* on the device, of the table's type */
};

static struct twins random_twins(struct gpu_case *c, enum dtype type, int64_t rows, int64_t cols) {
    struct twins t;
    enum layout layout = type == DTYPE_COUNT ? layout_nf4(cols) : layout_stored(type);
    t.host = (struct weight){layout, rows, cols, gpu_bytes(c, weight_bytes(layout, rows, cols))};
    pack_random(c, &t.host, type);
    gpu_send(c, t.host.data);
    t.device = t.host;
    t.device.data = gpu_of(c, t.host.data);
    layout = c->cuda->act == DTYPE_BF16 ? LAYOUT_ROWS_BF16 : LAYOUT_ROWS_F32;
    t.plain = (struct weight){layout, rows, cols, gpu_bytes(c, weight_bytes(layout, rows, cols))};
    float *values = new_bytes((size_t)(rows * cols) * sizeof *values);
    weight_unpack(values, &t.host, 0, rows);
    weight_pack(&t.plain, 0, rows, values);
    free(values);
    gpu_send(c, t.plain.data);
    t.plain.data = gpu_of(c, t.plain.data);
    return t;
}

static void expect_same(struct gpu_case *c, const struct weight *w, void *got, void *want,
                        size_t bytes, int64_t tokens, const char *what) {
    if (memcmp(got, want, bytes) != 0)
        fail_msg("%s: T=%d N=%d K=%d of %s: other bits than the plain weight's (%s, schedule %s)",
                 what, (int)tokens, (int)w->rows, (int)w->cols, layout_name(w->layout),
                 dtype_info(c->cuda->act)->name, c->schedule);
    free(got), free(want);
}

static void check_forward(struct gpu_case *c, const struct twins *t, int64_t tokens, int how) {
    size_t count = (size_t)(tokens * t->host.rows);
    bool wide = how == 1;
    void *x = gpu_act(c, (size_t)(tokens * t->host.cols), 1.0f);
    void *y = wide ? gpu_f32(c, count, 1.0f) : gpu_act(c, count, 1.0f);
    size_t bytes = count * dtype_bytes(wide ? DTYPE_F32 : c->cuda->act, 1);
    void *plain_y = gpu_bytes(c, bytes);
    memcpy(plain_y, y, bytes);
    gpu_send(c, plain_y);
    float *bias = how == 2 ? gpu_f32(c, (size_t)t->host.rows, 1.0f) : NULL;
    struct matmul_forward_args args = {.y = gpu_of(c, y),
                                       .x = gpu_of(c, x),
                                       .w = &t->device,
                                       .bias = gpu_of(c, bias),
                                       .tokens = tokens,
                                       .accumulate = how > 0,
                                       .y_is_f32 = wide};
    c->cuda->matmul_forward(&c->stream, &args);
    args.y = gpu_of(c, plain_y), args.w = &t->plain;
    c->cuda->matmul_forward(&c->stream, &args);
    expect_same(c, &t->host, gpu_fetch(c, y), gpu_fetch(c, plain_y), bytes, tokens, "y");
    if (c->cuda->act == DTYPE_BF16) return;
    args.y = y, args.x = x, args.w = &t->host, args.bias = bias;
    c->reference->matmul_forward(&c->host_stream, &args);
    gpu_expect_bytes(c, y, "y of the reference");
}

static void check_backward(struct gpu_case *c, const struct twins *t, int64_t tokens) {
    size_t count = (size_t)(tokens * t->host.cols);
    void *dy = gpu_act(c, (size_t)(tokens * t->host.rows), 1.0f);
    void *dx = gpu_act(c, count, 1.0f), *plain_dx = gpu_bytes(c, act_bytes(c->cuda, count));
    struct matmul_backward_input_args args = {
        .dx = gpu_of(c, dx), .dy = gpu_of(c, dy), .w = &t->device, .tokens = tokens};
    c->cuda->matmul_backward_input(&c->stream, &args);
    args.dx = gpu_of(c, plain_dx), args.w = &t->plain;
    c->cuda->matmul_backward_input(&c->stream, &args);
    expect_same(c, &t->host, gpu_fetch(c, dx), gpu_fetch(c, plain_dx), act_bytes(c->cuda, count),
                tokens, "dx");
}

/* Every type twice: a chunk of columns and several; a part of a panel and pieces of a workspace. */
static void run_type(struct gpu_case *c, void *context) {
    (void)context;
    c->stream.own_products = true;
    enum dtype type = types[c->number % TYPES];
    int64_t block = type == DTYPE_COUNT ? 1 : dtype_info(type)->block_elements;
    bool several = c->number >= TYPES;
    int64_t cols = several ? 2 * 256 + random_int(&c->random, 1, (int)(256 / block)) * block
                           : random_int(&c->random, 1, (int)(256 / block)) * block;
    int64_t rows = random_int(&c->random, 1, several ? 50 : 20);
    struct twins t = random_twins(c, type, rows, cols);
    int64_t few = random_int(&c->random, 1, 16), many = random_int(&c->random, 17, 30);
    check_forward(c, &t, several ? 1 : few, c->number % 3);
    check_forward(c, &t, several ? many : 16, (c->number + 1) % 3);
    check_backward(c, &t, several ? few : 3);
}

/* More chunks than the fused kernel's ring holds. */
static void run_long_rows(struct gpu_case *c, void *context) {
    (void)context;
    static const enum dtype some[] = {DTYPE_Q4_K, DTYPE_COUNT, DTYPE_F16, DTYPE_Q6_K, DTYPE_Q8_0};
    struct twins t = random_twins(c, some[c->number], 18, 11 * 256);
    check_forward(c, &t, random_int(&c->random, 1, 16), 0);
}

static void test_every_type(void **state) {
    (void)state;
    gpu_each(2 * TYPES, run_type, NULL);
}

static void test_long_rows(void **state) {
    (void)state;
    gpu_each(5, run_long_rows, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_type),
                                       cmocka_unit_test(test_long_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
