/* Embedding: every layout, every table, bit for bit: rows are only copied, and sums run in token
 * order. */
#define _GNU_SOURCE
#include "tests/kernels_tables.h"

/* The weight is rows [FIRST, FIRST + ROWS) of the table. */
enum { VOCAB = 61, FIRST = 11, ROWS = 37, TOKENS = 300 };

/* Element (row, column) of a layout, written here from the description in kernels/pack.h. */
static size_t place(enum layout layout, int row, int column, int cols) {
    if (layout_is_rows(layout)) return (size_t)(row * cols + column);
    if (layout == LAYOUT_PANEL_BF16) /* pairs of columns */
        return (size_t)((row / 16 * ((cols + 1) / 2) + column / 2) * 32 + row % 16 * 2 +
                        column % 2);
    return (size_t)((row / 16 * cols + column) * 16 + row % 16);
}

static size_t stored(int cols) {
    return (size_t)((ROWS + 15) / 16 * 16 * (cols + 1));
}

static struct weight new_weight(enum layout layout, int cols, const float *values) {
    struct weight w = {layout, ROWS, cols, new_bytes(stored(cols) * 4)};
    memset(w.data, 0, stored(cols) * 4);
    for (int row = 0; row < ROWS; row++) {
        for (int i = 0; i < cols; i++) {
            size_t at = place(layout, row, i, cols);
            if (layout_is_bf16(layout))
                ((uint16_t *)w.data)[at] = f32_to_bf16(values[row * cols + i]);
            else
                ((float *)w.data)[at] = values[row * cols + i];
        }
    }
    return w;
}

static void check_forward(const struct kernels *k, enum layout layout, int cols,
                          const float *values, const int32_t *tokens) {
    struct weight w = new_weight(layout, cols, values);
    char *y = new_bytes(act_bytes(k, (size_t)(TOKENS * cols)));
    struct stream s;
    stream_open_cpu(&s, 3);
    k->embedding_forward(&s, y, tokens, &w, FIRST, VOCAB, TOKENS);
    assert_ok(stream_check(&s));
    for (int t = 0; t < TOKENS; t++) {
        for (int i = 0; i < cols; i++) {
            int row = tokens[t] - FIRST;
            float want = row >= 0 && row < ROWS ? values[row * cols + i] : 0.0f;
            if (layout_is_bf16(layout) || k->act == DTYPE_BF16)
                want = bf16_to_f32(f32_to_bf16(want));
            assert_true(act_at(k, y, (size_t)(t * cols + i)) == want);
        }
    }
    free(w.data);
    free(y);
}

static void check_backward(const struct kernels *k, enum layout layout, int cols,
                           const float *values, const int32_t *tokens, const void *dy) {
    struct weight dw = new_weight(layout, cols, values);
    float *want = new_bytes((size_t)(ROWS * cols) * sizeof *want);
    memcpy(want, values, (size_t)(ROWS * cols) * sizeof *want);
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < cols; i++)
            if (tokens[t] >= FIRST && tokens[t] < FIRST + ROWS)
                want[(tokens[t] - FIRST) * cols + i] += act_at(k, dy, (size_t)(t * cols + i));
    struct stream s;
    stream_open_cpu(&s, 3);
    k->embedding_backward(&s, &dw, tokens, dy, FIRST, TOKENS);
    assert_ok(stream_check(&s));
    for (int row = 0; row < ROWS; row++)
        for (int i = 0; i < cols; i++)
            assert_true(((float *)dw.data)[place(layout, row, i, cols)] == want[row * cols + i]);
    free(dw.data);
    free(want);
}

static void test_every_layout_and_table(void **state) {
    (void)state;
    static const int widths[] = {1, 40, 130, 256};
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < 8 * count; i++) {
        const struct kernels *k = i % 2 ? pairs[i / 8].fast : pairs[i / 8].reference;
        int cols = widths[i / 2 % 4];
        struct random random = {.seed = (uint64_t)i};
        int32_t tokens[TOKENS];
        for (int t = 0; t < TOKENS; t++) tokens[t] = random_int(&random, 0, VOCAB - 1);
        float *values = new_normal(&random, (size_t)(ROWS * cols), 1.0f);
        void *dy = new_normal_act(k, &random, (size_t)(TOKENS * cols), 1.0f);
        for (int layout = 0; layout < LAYOUT_COUNT; layout++) {
            check_forward(k, (enum layout)layout, cols, values, tokens);
            if (!layout_is_bf16((enum layout)layout))
                check_backward(k, (enum layout)layout, cols, values, tokens, dy);
        }
        free(values);
        free(dy);
    }
}

static void test_token_outside_the_vocabulary(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < 2 * count; i++) {
        const struct kernels *k = i % 2 ? pairs[i / 2].fast : pairs[i / 2].reference;
        float values[ROWS] = {0}, y[3];
        struct weight w = {LAYOUT_ROWS_F32, ROWS, 1, values};
        struct stream s;
        stream_open_cpu(&s, 1);
        for (int bad = -1; bad <= VOCAB; bad += VOCAB + 1) {
            k->embedding_forward(&s, y, (const int32_t[]){3, (int32_t)bad, 4}, &w, FIRST, VOCAB, 3);
            assert_int_equal(stream_check(&s), STATUS_SHAPE);
            assert_non_null(strstr(status_message(), "at 1 is not in [0, 61)"));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_layout_and_table),
        cmocka_unit_test(test_token_outside_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
