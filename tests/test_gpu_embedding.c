/* Token embedding on a GPU against the reference table, bit for bit: rows and frozen weights, a
 * rank's part of the table, tokens that come again. */
#define _GNU_SOURCE
#include "tests/gpu_case.h"

#include "kernels/quantized.h"

static const enum layout frozen[] = {LAYOUT_NF4, LAYOUT_STORED + DTYPE_F16,
                                     LAYOUT_STORED + DTYPE_Q8_0};

static struct weight random_table(struct gpu_case *c, int rows, int cols) {
    enum layout layout = c->number % 2 ? LAYOUT_ROWS_BF16 : LAYOUT_ROWS_F32;
    if (c->number % 3 == 2) layout = frozen[c->number / 3 % 3];
    if (layout == LAYOUT_NF4) layout = layout_nf4(cols);
    struct weight w = {layout, rows, cols, gpu_bytes(c, weight_bytes(layout, rows, cols))};
    float *values = new_normal(&c->random, (size_t)(rows * cols), 1.0f);
    if (layout < LAYOUT_STORED) {
        weight_pack(&w, 0, rows, values);
    } else {
        size_t bytes = dtype_bytes(layout_stored_type(layout), (size_t)cols);
        uint8_t *row = new_bytes(bytes);
        for (int r = 0; r < rows; r++) {
            for (size_t i = 0; i < bytes; i++) /* any bytes but those of NaN and infinity */
                row[i] = (uint8_t)(random_word(&c->random) & 0x3f);
            weight_pack_stored(&w, r, row);
        }
        free(row);
    }
    free(values);
    gpu_send(c, w.data);
    return w;
}

static int32_t *random_tokens(struct gpu_case *c, int count, int vocab) {
    int32_t *tokens = gpu_shared_bytes(c, (size_t)count * sizeof *tokens);
    for (int t = 0; t < count; t++) {
        bool again = t > 0 && random_int(&c->random, 0, 2) == 0;
        tokens[t] =
            again ? tokens[random_int(&c->random, 0, t - 1)] : random_int(&c->random, 0, vocab - 1);
    }
    return tokens;
}

/* A third of the cases hold a part of the rows. cols: of frozen weights a multiple of a block. */
static void random_shape(struct gpu_case *c, int *vocab, int *first, int *rows, int *cols) {
    *vocab = random_int(&c->random, 1, 60);
    *first = c->number % 3 == 1 ? random_int(&c->random, 0, *vocab - 1) : 0;
    *rows = c->number % 3 == 1 ? random_int(&c->random, 1, *vocab - *first) : *vocab;
    *cols = c->number % 3 == 2 ? 32 * random_int(&c->random, 1, 12)
                               : random_int(&c->random, 1, c->number == 3 ? 2100 : 300);
}

static void run_forward(struct gpu_case *c, void *context) {
    (void)context;
    int vocab, first, rows, cols, count = random_int(&c->random, 1, 20);
    random_shape(c, &vocab, &first, &rows, &cols);
    struct weight w = random_table(c, rows, cols), gpu = w;
    gpu.data = gpu_of(c, w.data);
    int32_t *tokens = random_tokens(c, count, vocab);
    void *y = gpu_bytes(c, act_bytes(c->cuda, (size_t)(count * cols)));
    c->cuda->embedding_forward(&c->stream, gpu_of(c, y), tokens, &gpu, first, vocab, count);
    c->reference->embedding_forward(&c->host_stream, y, tokens, &w, first, vocab, count);
    gpu_expect_bytes(c, y, "y");
    tokens[count / 2] = c->number % 2 ? vocab : -1;
    c->cuda->embedding_forward(&c->stream, gpu_of(c, y), tokens, &gpu, first, vocab, count);
    assert_int_equal(stream_check(&c->stream), STATUS_SHAPE);
}

static void run_backward(struct gpu_case *c, void *context) {
    (void)context;
    int vocab, first, rows, cols, count = random_int(&c->random, 1, c->number == 5 ? 700 : 40);
    random_shape(c, &vocab, &first, &rows, &cols);
    if (count > 40) cols = 9;
    int32_t *tokens = random_tokens(c, count, vocab);
    tokens[count / 2] = c->number % 2 ? -1 : tokens[count / 2];
    void *dy = gpu_act(c, (size_t)(count * cols), 1.0f);
    struct weight dw = {LAYOUT_ROWS_F32, rows, cols, gpu_f32(c, (size_t)(rows * cols), 1.0f)};
    struct weight gpu = dw;
    gpu.data = gpu_of(c, dw.data);
    c->cuda->embedding_backward(&c->stream, &gpu, tokens, gpu_of(c, dy), first, count);
    c->reference->embedding_backward(&c->host_stream, &dw, tokens, dy, first, count);
    gpu_expect_bytes(c, dw.data, "dw");
}

static void test_forward(void **state) {
    (void)state;
    gpu_each(24, run_forward, NULL);
}

static void test_backward(void **state) {
    (void)state;
    gpu_each(20, run_backward, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward),
                                       cmocka_unit_test(test_backward)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
