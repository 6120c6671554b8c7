#define _GNU_SOURCE
/* Weights that stay quantized: NF4 against its definition, every stored type against dequantize(),
 * and their products against those of a plain panel with the same values. */
#include "tests/kernels_tables.h"

#include "kernels/dequantize.h"
#include "kernels/quantized.h"

/* --- NF4 against its definition ----------------------------------------------------------------
 */

/* The value below which a normal variable stays with probability p. */
static double normal_quantile(double p) {
    double low = -10.0, high = 10.0;
    for (int i = 0; i < 100; i++) {
        double middle = (low + high) / 2.0;
        if (erfc(-middle / sqrt(2.0)) / 2.0 < p)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* QLoRA, section 3: quantiles at evenly spaced probabilities from `offset`, the mean of 1 - 1/32
 * and 1 - 1/30, to 1/2; eight of them positive, seven negative, and zero; divided by the largest.
 */
static void test_levels_are_normal_quantiles(void **state) {
    (void)state;
    double offset = (1.0 - 1.0 / 32.0 + 1.0 - 1.0 / 30.0) / 2.0, largest = normal_quantile(offset);
    for (int i = 0; i < 8; i++) {
        double p = offset + (0.5 - offset) * i / 8.0;
        double want = normal_quantile(p) / largest;
        assert_true(fabs((double)nf4_levels[15 - i] - want) < 1e-6);
    }
    for (int i = 0; i < 7; i++) {
        double p = offset + (0.5 - offset) * i / 7.0;
        double want = -normal_quantile(p) / largest;
        assert_true(fabs((double)nf4_levels[i] - want) < 1e-6);
    }
    assert_true(nf4_levels[7] == 0.0f);
}

static struct weight new_weight(enum layout layout, int64_t rows, int64_t cols) {
    return (struct weight){layout, rows, cols, new_bytes(weight_bytes(layout, rows, cols))};
}

static struct weight quantize_nf4(const float *values, int64_t rows, int64_t cols) {
    struct weight w = new_weight(layout_nf4(cols), rows, cols);
    weight_pack(&w, 0, rows, values);
    return w;
}

static float *read_all(const struct weight *w) {
    float *values = new_bytes((size_t)(w->rows * w->cols) * sizeof *values);
    weight_unpack(values, w, 0, w->rows);
    return values;
}

/* The nearest of `count` values by search; the lower one at a tie. */
static int nearest(double x, const double *values, int count) {
    int best = 0;
    for (int i = 1; i < count; i++)
        if (fabs(x - values[i]) < fabs(x - values[best])) best = i;
    return best;
}

static double largest_of(const float *values, int64_t count) {
    double largest = 0.0;
    for (int64_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)values[i]));
    return largest;
}

/* Values of one block, in float64 from the definition. */
static void check_block(const float *got, const float *src, int64_t width, double scale) {
    double squares[256], levels[16], absmax = largest_of(src, width);
    for (int c = 0; c < 256; c++) squares[c] = c * c / 65025.0;
    for (int i = 0; i < 16; i++) levels[i] = (double)nf4_levels[i];
    double stored = scale > 0.0 ? scale * squares[nearest(absmax / scale, squares, 256)] : 0.0;
    for (int64_t i = 0; i < width; i++) {
        int code = absmax > 0.0 ? nearest((double)src[i] / absmax, levels, 16) : 7;
        double want = levels[code] * stored;
        if (!(fabs((double)got[i] - want) <= 3e-7 * fabs(want)))
            fail_msg("[%d]: %.9g became %.9g, want %.9g", (int)i, (double)src[i], (double)got[i],
                     want);
    }
}

static int group_rows_of(int64_t cols) {
    int64_t blocks = (cols + 63) / 64;
    int rows = 16;
    while (rows > 1 && rows * blocks > 256) rows /= 2;
    return rows;
}

/* Rows of different sizes, a few outliers, a zero row, a zero block. */
static float *new_values(uint64_t seed, int64_t rows, int64_t cols) {
    struct random random = {.seed = seed};
    float *values = new_normal(&random, (size_t)(rows * cols), 0.02f);
    for (int64_t r = 0; r < rows; r++) {
        float by = ldexpf(1.0f, random_int(&random, -6, 0));
        for (int64_t c = 0; c < cols; c++) values[r * cols + c] *= r == 3 ? 0.0f : by;
        if (r % 7 == 5) values[r * cols + random_int(&random, 0, (int)cols - 1)] *= 40.0f;
    }
    for (int64_t c = 0; c < cols && c < 64; c++) values[c] = 0.0f;
    return values;
}

static const int64_t shapes[][2] = {{48, 64},  {37, 200},  {16, 1024}, {33, 1088},
                                    {5, 4096}, {18, 5632}, {3, 17000}, {1, 1}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void test_nf4_follows_the_paper(void **state) {
    (void)state;
    for (int s = 0; s < SHAPES; s++) {
        int64_t rows = shapes[s][0], cols = shapes[s][1];
        float *src = new_values((uint64_t)s, rows, cols);
        struct weight w = quantize_nf4(src, rows, cols);
        float *got = read_all(&w);
        int group = group_rows_of(cols);
        for (int64_t r = 0; r < rows; r++) {
            int64_t first = r / group * group, end = first + group < rows ? first + group : rows;
            double scale = largest_of(src + first * cols, (end - first) * cols);
            for (int64_t c = 0; c < cols; c += 64)
                check_block(got + r * cols + c, src + r * cols + c, cols - c < 64 ? cols - c : 64,
                            scale);
        }
        free(src), free(got), free(w.data);
    }
}

static void test_nf4_of_its_own_values_is_itself(void **state) {
    (void)state;
    for (int s = 0; s < SHAPES; s++) {
        int64_t rows = shapes[s][0], cols = shapes[s][1];
        float *src = new_values(100 + (uint64_t)s, rows, cols);
        if (s % 2) /* what is far below a group's largest, or below every float that matters */
            for (int64_t i = 0; i < rows * cols; i++)
                src[i] *= ldexpf(1.0f, (int)(i / 64 % 9) * -16);
        struct weight w = quantize_nf4(src, rows, cols);
        float *values = read_all(&w);
        struct weight again = quantize_nf4(values, rows, cols);
        assert_memory_equal(w.data, again.data, weight_bytes(w.layout, rows, cols));
        free(src), free(values), free(w.data), free(again.data);
    }
}

/* A slice of whole blocks and panels, made from whole rows, has the whole's values. */
static void test_nf4_slices_have_the_same_values(void **state) {
    (void)state;
    enum { ROWS = 80, COLS = 1088, FIRST_ROW = 32, FIRST_COL = 192, WIDTH = 448 };
    float *src = new_values(7, ROWS, COLS);
    struct weight whole = quantize_nf4(src, ROWS, COLS);
    struct weight part = new_weight(layout_nf4(COLS), ROWS - FIRST_ROW, WIDTH);
    struct weight end = new_weight(layout_nf4(COLS), ROWS, COLS - 1024);
    weight_pack_slice(&part, 0, ROWS - FIRST_ROW, src + FIRST_ROW * COLS, COLS, FIRST_COL);
    weight_pack_slice(&end, 0, ROWS, src, COLS, 1024);
    float *values = read_all(&whole), *sliced = read_all(&part), *rest = read_all(&end);
    for (int64_t r = 0; r < ROWS; r++) {
        if (r >= FIRST_ROW)
            assert_memory_equal(sliced + (r - FIRST_ROW) * WIDTH, values + r * COLS + FIRST_COL,
                                WIDTH * sizeof *values);
        assert_memory_equal(rest + r * (COLS - 1024), values + r * COLS + 1024,
                            (COLS - 1024) * sizeof *values);
    }
    free(src), free(values), free(sliced), free(rest);
    free(whole.data), free(part.data), free(end.data);
}

static void test_bytes_are_about_what_is_stored(void **state) {
    (void)state;
    const int64_t sizes[][2] = {
        {4096, 4096}, {11008, 4096}, {4096, 11008}, {768, 768}, {768, 2048}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t rows = sizes[i][0], cols = sizes[i][1];
        double elements = (double)(rows * cols);
        double bits = 8.0 * (double)weight_bytes(layout_nf4(cols), rows, cols) / elements;
        assert_true(bits > 4.1269 && bits < 4.129);
        size_t stored = weight_bytes(layout_stored(DTYPE_Q4_K), rows, cols);
        assert_int_equal(stored, dtype_bytes(DTYPE_Q4_K, (size_t)(rows * cols)));
    }
    assert_int_equal(layout_block(layout_nf4(768)), 64);
    assert_int_equal(layout_block(layout_stored(DTYPE_Q6_K)), 256);
    assert_string_equal(layout_name(layout_nf4(768)), "nf4");
    assert_string_equal(layout_name(layout_stored(DTYPE_Q6_K)), "Q6_K");
}

/* --- stored blocks, and products ---------------------------------------------------------------
 */

static const enum dtype stored_types[] = {
    DTYPE_F16,  DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1,   DTYPE_Q8_0,  DTYPE_Q2_K,
    DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS};
enum { STORED_TYPES = sizeof stored_types / sizeof *stored_types };

/* Random bytes whose values are finite and no larger than 1000. */
static void random_block(struct random *random, enum dtype type, uint8_t *block) {
    const struct dtype_info *info = dtype_info(type);
    float values[256];
    do {
        for (int i = 0; i < info->block_bytes; i++) block[i] = (uint8_t)random_word(random);
        assert_true(dequantize(values, type, block, (size_t)info->block_elements));
    } while (!(largest_of(values, info->block_elements) <= 1000.0) ||
             isnan(values[0] - values[info->block_elements - 1]));
}

/* A weight of stored blocks; *values (rows, cols) are what dequantize() makes of them. */
static struct weight new_stored(enum dtype type, int64_t rows, int64_t cols, float **values) {
    const struct dtype_info *info = dtype_info(type);
    struct random random = {.seed = (uint64_t)type};
    struct weight w = new_weight(layout_stored(type), rows, cols);
    size_t row_bytes = dtype_bytes(type, (size_t)cols);
    uint8_t *row = new_bytes(row_bytes);
    *values = new_bytes((size_t)(rows * cols) * sizeof(float));
    memset(w.data, 0xff, weight_bytes(w.layout, rows, cols));
    for (int64_t r = 0; r < rows; r++) {
        for (size_t at = 0; at < row_bytes; at += (size_t)info->block_bytes)
            random_block(&random, type, row + at);
        weight_pack_stored(&w, r, row);
        assert_true(dequantize(*values + r * cols, type, row, (size_t)cols));
    }
    free(row);
    return w;
}

static void test_stored_blocks_keep_their_values(void **state) {
    (void)state;
    for (int i = 0; i < STORED_TYPES; i++) {
        float *want;
        struct weight w = new_stored(stored_types[i], 37, 768, &want);
        float *got = read_all(&w), part[300];
        assert_memory_equal(got, want, 37 * 768 * sizeof *got);
        weight_read(part, &w, 21, 256, 300);
        assert_memory_equal(part, want + 21 * 768 + 256, sizeof part);
        free(want), free(got), free(w.data);
    }
}

/* What a quantized weight stands for on a table. */
static struct weight plain_twin(const struct kernels *k, const struct weight *w) {
    enum layout layout = k->act == DTYPE_BF16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32;
    struct weight plain = new_weight(layout, w->rows, w->cols);
    float *values = read_all(w);
    weight_pack(&plain, 0, w->rows, values);
    free(values);
    return plain;
}

struct problem {
    const struct kernels *k;
    int64_t tokens;
    void *x, *dy;
};

static void *run_forward(const struct problem *p, const struct weight *w, int threads,
                         bool y_is_f32, bool accumulate) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    void *y = new_bytes((size_t)(p->tokens * w->rows) * sizeof(float));
    memset(y, 0, (size_t)(p->tokens * w->rows) * sizeof(float));
    const struct matmul_forward_args args = {.y = y,
                                             .x = p->x,
                                             .w = w,
                                             .tokens = p->tokens,
                                             .y_is_f32 = y_is_f32,
                                             .accumulate = accumulate};
    p->k->matmul_forward(&stream, &args);
    assert_ok(stream_check(&stream));
    return y;
}

static void *run_backward(const struct problem *p, const struct weight *w, int threads) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    void *dx = new_bytes(act_bytes(p->k, (size_t)(p->tokens * w->cols)));
    const struct matmul_backward_input_args args = {
        .dx = dx, .dy = p->dy, .w = w, .tokens = p->tokens};
    p->k->matmul_backward_input(&stream, &args);
    assert_ok(stream_check(&stream));
    return dx;
}

static void assert_same_bytes(const void *got, const void *want, size_t bytes, const char *what,
                              const struct problem *p, const struct weight *w) {
    if (memcmp(got, want, bytes) != 0)
        fail_msg("%s on %s, T=%d N=%d K=%d of %s: other bits than the panel's", what, p->k->name,
                 (int)p->tokens, (int)w->rows, (int)w->cols, layout_name(w->layout));
}

/* ||got - want|| <= 1e-6 ||want||, 2^-8 where results are bf16. */
static void assert_close(const void *got, const void *want, size_t count, const struct problem *p) {
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < count; i++) {
        double g = (double)act_at(p->k, got, i), w = (double)act_at(p->k, want, i);
        difference += (g - w) * (g - w);
        norm += w * w;
    }
    if (!(sqrt(difference) <= (p->k->act == DTYPE_BF16 ? 0x1p-8 : 1e-6) * sqrt(norm)))
        fail_msg("%s: |difference| %.3g of %.3g", p->k->name, sqrt(difference), sqrt(norm));
}

static void check_products(const struct kernels *k, const struct weight *w, int64_t tokens) {
    struct random random = {.seed = 11};
    struct problem p = {.k = k, .tokens = tokens};
    p.x = new_normal_act(k, &random, (size_t)(tokens * w->cols), 1.0f);
    p.dy = new_normal_act(k, &random, (size_t)(tokens * w->rows), 1.0f);
    struct weight plain = plain_twin(k, w);
    for (int how = 0; how < 2; how++) {
        size_t bytes = (size_t)(tokens * w->rows) * sizeof(float);
        void *want = run_forward(&p, &plain, 1, how == 1, how == 1);
        void *got = run_forward(&p, w, 1 + how, how == 1, how == 1);
        assert_same_bytes(got, want, bytes, "forward", &p, w);
        free(want), free(got);
    }
    void *want = run_backward(&p, &plain, 1), *got = run_backward(&p, w, 2);
    assert_close(got, want, (size_t)(tokens * w->cols), &p);
    free(want), free(got), free(p.x), free(p.dy), free(plain.data);
}

static void check_on_all_tables(const struct weight *w, int64_t tokens) {
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    for (int i = 0; i < count; i++) check_products(pairs[i].fast, w, tokens);
}

static void test_products_are_those_of_the_panel(void **state) {
    (void)state;
    const int64_t sizes[][3] = {
        {1, 37, 200},  {7, 16, 64},    {70, 133, 1088}, {1, 300, 2309},
        {19, 600, 77}, {130, 40, 832}, {3, 1100, 512},
    };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        float *src = new_values(s, sizes[s][1], sizes[s][2]);
        struct weight w = quantize_nf4(src, sizes[s][1], sizes[s][2]);
        check_on_all_tables(&w, sizes[s][0]);
        free(src), free(w.data);
    }
    for (int i = 0; i < STORED_TYPES; i++) {
        float *values;
        int64_t block = dtype_info(stored_types[i])->block_elements;
        struct weight w = new_stored(stored_types[i], 69, block == 256 ? 1280 : 864, &values);
        check_on_all_tables(&w, 1 + i * 9);
        free(values), free(w.data);
    }
}

/* The plain loops against products in float64. */
static void test_reference_is_a_product_of_the_values(void **state) {
    (void)state;
    const struct kernels *k;
    enum { TOKENS = 3, ROWS = 21, COLS = 512 };
    assert_ok(kernels_cpu(&k, "reference", DTYPE_F32));
    struct random random = {.seed = 5};
    float *values;
    struct weight w = new_stored(DTYPE_Q4_K, ROWS, COLS, &values);
    struct problem p = {.k = k, .tokens = TOKENS};
    float *x = p.x = new_normal(&random, TOKENS * COLS, 1.0f);
    float *dy = p.dy = new_normal(&random, TOKENS * ROWS, 1.0f);
    float *y = run_forward(&p, &w, 1, true, false), *dx = run_backward(&p, &w, 1);
    for (int t = 0; t < TOKENS; t++) {
        for (int n = 0; n < ROWS; n++) {
            double sum = 0.0, size = 0.0;
            for (int c = 0; c < COLS; c++) {
                double term = (double)x[t * COLS + c] * (double)values[n * COLS + c];
                sum += term;
                size += fabs(term);
            }
            assert_true(fabs((double)y[t * ROWS + n] - sum) <= 3e-5 * size);
        }
        for (int c = 0; c < COLS; c++) {
            double sum = 0.0, size = 0.0;
            for (int n = 0; n < ROWS; n++) {
                double term = (double)dy[t * ROWS + n] * (double)values[n * COLS + c];
                sum += term;
                size += fabs(term);
            }
            assert_true(fabs((double)dx[t * COLS + c] - sum) <= 2e-6 * size);
        }
    }
    check_products(k, &w, TOKENS);
    free(values), free(w.data), free(x), free(dy), free(y), free(dx);
}

/* A row of a product does not depend on those beside it, nor on threads. */
static void test_bits_do_not_depend_on_the_batch(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    enum { TOKENS = 150, ROWS = 200, COLS = 1088 };
    float *src = new_values(1, ROWS, COLS);
    struct weight w = quantize_nf4(src, ROWS, COLS);
    for (int i = 0; i < count; i++) {
        struct random random = {.seed = 3};
        struct problem all = {.k = pairs[i].fast, .tokens = TOKENS},
                       one = {.k = pairs[i].fast, .tokens = 1};
        all.x = new_normal_act(all.k, &random, TOKENS * COLS, 1.0f);
        void *want = run_forward(&all, &w, 2, false, false);
        for (size_t t = 0; t < TOKENS; t += 37) {
            one.x = (char *)all.x + act_bytes(one.k, t * COLS);
            void *got = run_forward(&one, &w, 1, false, false);
            assert_same_bytes(got, (char *)want + act_bytes(one.k, t * ROWS),
                              act_bytes(one.k, ROWS), "a row", &one, &w);
            free(got);
        }
        free(all.x), free(want);
    }
    free(src), free(w.data);
}

static void check_embedding(const struct kernels *k, const struct weight *w) {
    static const int32_t tokens[] = {36, 0, 5, 5, 17};
    struct stream stream;
    stream_open_cpu(&stream, 2);
    float *values = read_all(w);
    void *y = new_bytes(act_bytes(k, (size_t)(5 * w->cols)));
    k->embedding_forward(&stream, y, tokens, w, 0, w->rows, 5);
    assert_ok(stream_check(&stream));
    for (int t = 0; t < 5; t++) {
        void *want = new_act(k, values + tokens[t] * w->cols, (size_t)w->cols);
        assert_memory_equal((char *)y + act_bytes(k, (size_t)(t * w->cols)), want,
                            act_bytes(k, (size_t)w->cols));
        free(want);
    }
    free(values), free(y);
}

static void test_embedding_reads_quantized_rows(void **state) {
    (void)state;
    struct table_pair pairs[MOST_TABLES];
    int count = tables_of_machine(pairs);
    float *values, *src = new_values(2, 37, 330);
    struct weight stored = new_stored(DTYPE_Q5_0, 37, 288, &values),
                  nf4 = quantize_nf4(src, 37, 330);
    for (int i = 0; i < count; i++) {
        check_embedding(pairs[i].fast, &stored);
        check_embedding(pairs[i].reference, &stored);
        check_embedding(pairs[i].fast, &nf4);
        check_embedding(pairs[i].reference, &nf4);
    }
    free(values), free(src), free(stored.data), free(nf4.data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels_are_normal_quantiles),
        cmocka_unit_test(test_nf4_follows_the_paper),
        cmocka_unit_test(test_nf4_of_its_own_values_is_itself),
        cmocka_unit_test(test_nf4_slices_have_the_same_values),
        cmocka_unit_test(test_bytes_are_about_what_is_stored),
        cmocka_unit_test(test_stored_blocks_keep_their_values),
        cmocka_unit_test(test_products_are_those_of_the_panel),
        cmocka_unit_test(test_reference_is_a_product_of_the_values),
        cmocka_unit_test(test_bits_do_not_depend_on_the_batch),
        cmocka_unit_test(test_embedding_reads_quantized_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
