/* Matrix products: the reference against a float64 product and against differences of the forward,
 * every CPU table against the reference. */
#include "tests/check.h"

#include "kernels/base/rng.h"
#include "kernels/kernels.h"

/* One set of operands: x (T, K), W (N, K), dy (T, N) and what a product starts from. Activations
 * are kept in act's bytes; the fp32 twins hold the same values. */
struct problem {
    enum dtype act;
    int64_t tokens, rows, cols; /* T, N, K */
    struct weight w;
    float *x, *dy, *y0, *dx0, *wide_w, *bias;
    void *x_act, *dy_act;
};

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 64) / 64 * 64);
    assert_non_null(memory);
    return memory;
}

static float random_value(uint64_t stream, int64_t i) {
    return 2.0f * rng_unit(rng_draw(7, RNG_TEST, stream, (uint64_t)i).word[0]) - 1.0f;
}

static float *random_floats(uint64_t stream, int64_t count) {
    float *values = allocate((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = random_value(stream, i);
    return values;
}

/* Rounds values to act where they stand and returns a copy in act's type. */
static void *to_act(enum dtype act, float *values, int64_t count) {
    void *result = allocate((size_t)count * sizeof(float));
    if (act == DTYPE_F32) {
        memcpy(result, values, (size_t)count * sizeof *values);
        return result;
    }
    for (int64_t i = 0; i < count; i++) {
        ((uint16_t *)result)[i] = f32_to_bf16(values[i]);
        values[i] = bf16_to_f32(((uint16_t *)result)[i]);
    }
    return result;
}

static float *from_act(enum dtype act, const void *values, int64_t count) {
    float *result = allocate((size_t)count * sizeof *result);
    for (int64_t i = 0; i < count; i++)
        result[i] = act == DTYPE_F32 ? ((const float *)values)[i]
                                     : bf16_to_f32(((const uint16_t *)values)[i]);
    return result;
}

static struct problem problem_open(enum dtype act, enum layout layout, int64_t tokens, int64_t rows,
                                   int64_t cols) {
    struct problem p = {.act = act, .tokens = tokens, .rows = rows, .cols = cols};
    p.x = random_floats(1, tokens * cols);
    p.dy = random_floats(2, tokens * rows);
    p.y0 = random_floats(3, tokens * rows);
    p.dx0 = random_floats(4, tokens * cols);
    p.wide_w = random_floats(5, rows * cols);
    p.bias = random_floats(6, rows);
    p.x_act = to_act(act, p.x, tokens * cols);
    p.dy_act = to_act(act, p.dy, tokens * rows);
    free(to_act(act, p.y0, tokens * rows));
    free(to_act(act, p.dx0, tokens * cols));
    p.w = (struct weight){layout, rows, cols, allocate(weight_bytes(layout, rows, cols))};
    weight_pack(&p.w, 0, rows, p.wide_w);
    weight_unpack(p.wide_w, &p.w, 0, rows);
    return p;
}

static void problem_close(struct problem *p) {
    free(p->x), free(p->dy), free(p->y0), free(p->dx0), free(p->wide_w), free(p->bias);
    free(p->x_act), free(p->dy_act), free(p->w.data);
}

struct forward_case {
    bool accumulate, y_is_f32, bias;
};

static float *run_forward(const struct kernels *k, int threads, const struct problem *p,
                          struct forward_case how) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    enum dtype type = how.y_is_f32 ? DTYPE_F32 : p->act;
    void *y = to_act(type, p->y0, p->tokens * p->rows);
    k->matmul_forward(&stream, &(struct matmul_forward_args){.y = y,
                                                             .x = p->x_act,
                                                             .w = &p->w,
                                                             .bias = how.bias ? p->bias : NULL,
                                                             .tokens = p->tokens,
                                                             .accumulate = how.accumulate,
                                                             .y_is_f32 = how.y_is_f32});
    assert_ok(stream_check(&stream));
    float *result = from_act(type, y, p->tokens * p->rows);
    free(y);
    return result;
}

static float *run_backward_input(const struct kernels *k, int threads, const struct problem *p,
                                 bool accumulate) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    void *dx = to_act(p->act, p->dx0, p->tokens * p->cols);
    k->matmul_backward_input(
        &stream,
        &(struct matmul_backward_input_args){
            .dx = dx, .dy = p->dy_act, .w = &p->w, .tokens = p->tokens, .accumulate = accumulate});
    assert_ok(stream_check(&stream));
    float *result = from_act(p->act, dx, p->tokens * p->cols);
    free(dx);
    return result;
}

/* Starts from W's own values as dw; the result is logical (N, K). */
static float *run_backward_weight(const struct kernels *k, int threads, const struct problem *p) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    enum layout layout = layout_of_gradient(p->w.layout);
    struct weight dw = {layout, p->rows, p->cols, allocate(weight_bytes(layout, p->rows, p->cols))};
    weight_pack(&dw, 0, p->rows, p->wide_w);
    k->matmul_backward_weight(
        &stream, &(struct matmul_backward_weight_args){&dw, p->dy_act, p->x_act, p->tokens});
    assert_ok(stream_check(&stream));
    for (int64_t i = 0; layout == LAYOUT_PANEL_F32 && i < PANEL_ROWS * p->cols; i++) {
        int64_t panel = (p->rows - 1) / PANEL_ROWS;
        if (panel * PANEL_ROWS + i % PANEL_ROWS >= p->rows)
            assert_true(((float *)dw.data)[panel * PANEL_ROWS * p->cols + i] == 0.0f);
    }
    float *result = allocate((size_t)(p->rows * p->cols) * sizeof *result);
    weight_unpack(result, &dw, 0, p->rows);
    free(dw.data);
    return result;
}

/* sum over d of a[d * a_step] b[d * b_step] in float64, and the same of absolute values. */
static double dot(const float *a, int64_t a_step, const float *b, int64_t b_step, int64_t depth,
                  double *magnitude) {
    double sum = 0.0;
    *magnitude = 0.0;
    for (int64_t d = 0; d < depth; d++) {
        double product = (double)a[d * a_step] * (double)b[d * b_step];
        sum += product;
        *magnitude += fabs(product);
    }
    return sum;
}

/* A chain of `depth` fused operations errs by at most depth * 2^-24 of the sum of magnitudes; a
 * bf16 result by 2^-8 of itself. */
static void check_element(float got, double want, double magnitude, int64_t depth, bool bf16,
                          const char *what) {
    double bound = (double)(depth + 2) * 0x1p-24 * magnitude + (bf16 ? 0x1p-8 * fabs(want) : 0.0);
    if (!(fabs((double)got - want) <= bound))
        fail_msg("%s: got %.9g, want %.9g within %.3g", what, (double)got, want, bound);
}

static void check_against_double(const struct kernels *k, const struct problem *p) {
    bool bf16 = p->act == DTYPE_BF16;
    float *y = run_forward(k, 2, p, (struct forward_case){.accumulate = true, .bias = true});
    float *dx = run_backward_input(k, 2, p, true);
    float *dw = run_backward_weight(k, 2, p);
    double magnitude;
    for (int64_t t = 0; t < p->tokens; t++) {
        for (int64_t n = 0; n < p->rows; n++) {
            double start = (double)p->y0[t * p->rows + n] + (double)p->bias[n];
            double sum =
                dot(p->x + t * p->cols, 1, p->wide_w + n * p->cols, 1, p->cols, &magnitude);
            check_element(y[t * p->rows + n], start + sum, magnitude + 2.0, p->cols, bf16, "y");
        }
        for (int64_t c = 0; c < p->cols; c++) {
            double start = (double)p->dx0[t * p->cols + c];
            double sum = dot(p->dy + t * p->rows, 1, p->wide_w + c, p->cols, p->rows, &magnitude);
            check_element(dx[t * p->cols + c], start + sum, magnitude + 1.0, p->rows, bf16, "dx");
        }
    }
    for (int64_t n = 0; n < p->rows; n++) {
        for (int64_t c = 0; c < p->cols; c++) {
            double start = (double)p->wide_w[n * p->cols + c];
            double sum = dot(p->dy + n, p->rows, p->x + c, p->cols, p->tokens, &magnitude);
            check_element(dw[n * p->cols + c], start + sum, magnitude + 1.0, p->tokens, false,
                          "dw");
        }
    }
    free(y), free(dx), free(dw);
}

static const enum dtype acts[] = {DTYPE_F32, DTYPE_BF16};

static void test_reference_matches_double(void **state) {
    (void)state;
    for (int a = 0; a < 2; a++) {
        const struct kernels *k;
        assert_ok(kernels_cpu(&k, "reference", acts[a]));
        for (enum layout layout = 0; layout < LAYOUT_COUNT; layout++) {
            struct problem p = problem_open(acts[a], layout, 9, 37, 53);
            check_against_double(k, &p);
            problem_close(&p);
        }
    }
}

static void assert_same_bits(const float *got, const float *want, int64_t count, const char *table,
                             const struct problem *p) {
    for (int64_t i = 0; i < count; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s T=%d N=%d K=%d %s [%d]: got %.9g, want %.9g", table, (int)p->tokens,
                     (int)p->rows, (int)p->cols, layout_name(p->w.layout), (int)i, (double)got[i],
                     (double)want[i]);
}

/* ||got - want|| <= relative * ||want||; NaN never passes. */
static void assert_close_in_norm(const float *got, const float *want, int64_t count,
                                 double relative, const char *what) {
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)got[i] - (double)want[i];
        difference += d * d;
        norm += (double)want[i] * (double)want[i];
    }
    if (!(sqrt(difference) <= relative * sqrt(norm)))
        fail_msg("%s: |difference| %.3g of |want| %.3g", what, sqrt(difference), sqrt(norm));
}

static const char *const fast_tables[] = {"avx2", "avx512", "avx512_bf16"};
enum { FAST_TABLES = sizeof fast_tables / sizeof *fast_tables };

/* A fast table under its own name, or false. */
static bool fast_table(const struct kernels **k, int i, enum dtype act) {
    return kernels_cpu(k, fast_tables[i], act) == STATUS_OK &&
           strcmp((*k)->name, fast_tables[i]) == 0;
}

/* Does its forward multiply pairs, so that its bits are not the reference's? */
static bool multiplies_pairs(const struct kernels *k, const struct problem *p) {
    return strcmp(k->name, "avx512_bf16") == 0 && layout_is_bf16(p->w.layout);
}

/* Every row's bits are those of the row alone on one thread, and all is close to float64. */
static void check_pairs(const struct kernels *k, const struct problem *p) {
    const struct forward_case cases[] = {
        {0}, {.accumulate = true, .bias = true}, {.y_is_f32 = true}};
    check_against_double(k, p);
    for (int c = 0; c < 3; c++) {
        float *all = run_forward(k, 2, p, cases[c]);
        for (int64_t t = 0; t < p->tokens; t += 1 + p->tokens / 8) {
            struct problem one = *p;
            one.tokens = 1;
            one.x_act = (uint16_t *)p->x_act + t * p->cols;
            one.y0 = p->y0 + t * p->rows;
            float *y = run_forward(k, 1, &one, cases[c]);
            assert_same_bits(y, all + t * p->rows, p->rows, k->name, &one);
            free(y);
        }
        free(all);
    }
}

static void check_tables(const struct problem *p) {
    const struct kernels *reference;
    assert_ok(kernels_cpu(&reference, "reference", p->act));
    const struct forward_case cases[] = {
        {0}, {.accumulate = true, .bias = true}, {.y_is_f32 = true}};
    float *y[3];
    for (int c = 0; c < 3; c++) y[c] = run_forward(reference, 1, p, cases[c]);
    float *dx = run_backward_input(reference, 1, p, true);
    float *dw = run_backward_weight(reference, 1, p);
    for (int i = 0; i < FAST_TABLES; i++) {
        const struct kernels *k;
        if (!fast_table(&k, i, p->act)) continue;
        if (multiplies_pairs(k, p)) {
            check_pairs(k, p);
            continue;
        }
        for (int threads = 1; threads <= 5; threads += 2) {
            for (int c = 0; c < 3; c++) {
                float *got = run_forward(k, threads, p, cases[c]);
                assert_same_bits(got, y[c], p->tokens * p->rows, k->name, p);
                free(got);
            }
            double tolerance = p->act == DTYPE_BF16 ? 0x1p-8 : 1e-6;
            float *got_dx = run_backward_input(k, threads, p, true);
            assert_close_in_norm(got_dx, dx, p->tokens * p->cols, tolerance, "dx");
            float *got_dw = run_backward_weight(k, threads, p);
            assert_close_in_norm(got_dw, dw, p->rows * p->cols, 1e-6, "dw");
            free(got_dx), free(got_dw);
        }
    }
    for (int c = 0; c < 3; c++) free(y[c]);
    free(dx), free(dw);
}

static void test_tables_match_reference(void **state) {
    (void)state;
    static const int64_t tokens[] = {0, 1, 2, 3, 7, 8, 12, 13, 31, 32, 33};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        for (int shape = 0; shape < 4; shape++) {
            uint32_t draw = rng_draw(11, RNG_TEST, i, (uint64_t)shape).word[0];
            int64_t rows = 1 + draw % 150, cols = 1 + (draw >> 16) % 90;
            struct problem p =
                problem_open(acts[shape & 1], (enum layout)((shape + (int)i) % LAYOUT_COUNT),
                             tokens[i], rows, cols);
            check_tables(&p);
            problem_close(&p);
        }
    }
}

/* Several chunks of rows, of columns and of depth, and ragged ends of each. */
static void test_tables_match_reference_large(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {
        {512, 33, 97},  {17, 100, 4099}, {1, 70, 1031},  {241, 640, 24}, {5, 16, 16},
        {63, 98, 2110}, {130, 70, 1701}, {81, 1600, 37}, {65, 2500, 51}, {700, 45, 800}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (int a = 0; a < 2; a++) {
            enum layout layout = (enum layout)((i + (size_t)a) % LAYOUT_COUNT);
            struct problem p =
                problem_open(acts[a], layout, shapes[i][0], shapes[i][1], shapes[i][2]);
            check_tables(&p);
            problem_close(&p);
        }
    }
}

/* A row's bits are its own: 33 rows at once or one by one. */
static void test_rows_do_not_depend_on_batch(void **state) {
    (void)state;
    const struct kernels *k;
    assert_ok(kernels_cpu(&k, NULL, DTYPE_F32));
    struct problem p = problem_open(DTYPE_F32, LAYOUT_PANEL_BF16, 133, 70, 450);
    float *all = run_forward(k, 2, &p, (struct forward_case){.bias = true});
    for (int64_t t = 0; t < p.tokens; t++) {
        struct problem one = p;
        one.tokens = 1;
        one.x_act = (float *)p.x_act + t * p.cols;
        float *y = run_forward(k, 2, &one, (struct forward_case){.bias = true});
        assert_same_bits(y, all + t * p.rows, p.rows, k->name, &one);
        free(y);
    }
    free(all);
    problem_close(&p);
}

/* The product is bilinear, so a central difference of L = sum dy . y is exact but for rounding. */
static double loss(const struct kernels *k, const struct problem *p) {
    float *y = run_forward(k, 1, p, (struct forward_case){0});
    double sum = 0.0;
    for (int64_t i = 0; i < p->tokens * p->rows; i++) sum += (double)p->dy[i] * (double)y[i];
    free(y);
    return sum;
}

static double difference(const struct kernels *k, struct problem *p, float *element,
                         const float *repack) {
    float kept = *element;
    double high, low;
    *element = kept + 0.5f;
    if (repack) weight_pack(&p->w, 0, p->rows, repack);
    high = loss(k, p);
    *element = kept - 0.5f;
    if (repack) weight_pack(&p->w, 0, p->rows, repack);
    low = loss(k, p);
    *element = kept;
    if (repack) weight_pack(&p->w, 0, p->rows, repack);
    return high - low;
}

static void check_differences(const struct kernels *k) {
    struct problem p = problem_open(DTYPE_F32, LAYOUT_PANEL_F32, 5, 19, 7);
    float *dx = run_backward_input(k, 1, &p, false);
    for (int64_t i = 0; i < p.tokens * p.cols; i++) {
        double want = difference(k, &p, (float *)p.x_act + i, NULL);
        if (!(fabs((double)dx[i] - want) <= 2e-5)) fail_msg("dx[%d]", (int)i);
    }
    float *dw = run_backward_weight(k, 1, &p); /* starts from W */
    for (int64_t i = 0; i < p.rows * p.cols; i++) {
        double want = difference(k, &p, &p.wide_w[i], p.wide_w) + (double)p.wide_w[i];
        if (!(fabs((double)dw[i] - want) <= 2e-5)) fail_msg("dw[%d]", (int)i);
    }
    free(dx), free(dw);
    problem_close(&p);
}

static void test_gradients_match_differences(void **state) {
    (void)state;
    const struct kernels *k;
    assert_ok(kernels_cpu(&k, "reference", DTYPE_F32));
    check_differences(k);
    assert_ok(kernels_cpu(&k, NULL, DTYPE_F32));
    check_differences(k);
}

static void check_nan_stays_in_its_row(const struct kernels *k) {
    struct problem p = problem_open(DTYPE_F32, LAYOUT_PANEL_F32, 15, 37, 41);
    float *clean = run_forward(k, 2, &p, (struct forward_case){0});
    enum { ROW = 6 };
    ((float *)p.x_act)[ROW * p.cols + 40] = NAN;
    float *y = run_forward(k, 2, &p, (struct forward_case){0});
    for (int64_t n = 0; n < p.rows; n++) assert_true(isnan(y[ROW * p.rows + n]));
    assert_same_bits(y, clean, ROW * p.rows, k->name, &p);
    assert_same_bits(y + (ROW + 1) * p.rows, clean + (ROW + 1) * p.rows,
                     (p.tokens - ROW - 1) * p.rows, k->name, &p);
    /* Column 40 of dw and nothing else; run_backward_weight checks that the padding stays zero. */
    float *dw = run_backward_weight(k, 2, &p);
    for (int64_t i = 0; i < p.rows * p.cols; i++)
        assert_int_equal(isnan(dw[i]) != 0, i % p.cols == 40);
    free(clean), free(y), free(dw);
    problem_close(&p);
}

static void test_nan_stays_in_its_row(void **state) {
    (void)state;
    const struct kernels *k;
    assert_ok(kernels_cpu(&k, "reference", DTYPE_F32));
    check_nan_stays_in_its_row(k);
    for (int i = 0; i < FAST_TABLES; i++)
        if (fast_table(&k, i, DTYPE_F32)) check_nan_stays_in_its_row(k);
}

static void check_bias(const struct kernels *k) {
    struct problem p = problem_open(k->act, LAYOUT_PANEL_F32, 21, 300, 1);
    float *dbias = allocate((size_t)p.rows * sizeof *dbias);
    memcpy(dbias, p.bias, (size_t)p.rows * sizeof *dbias);
    struct stream stream;
    stream_open_cpu(&stream, 2);
    k->bias_backward(&stream, dbias, p.dy_act, p.tokens, p.rows);
    for (int64_t n = 0; n < p.rows; n++) {
        double want = (double)p.bias[n], magnitude = fabs(want);
        for (int64_t t = 0; t < p.tokens; t++) {
            want += (double)p.dy[t * p.rows + n];
            magnitude += fabs((double)p.dy[t * p.rows + n]);
        }
        check_element(dbias[n], want, magnitude, p.tokens, false, "dbias");
    }
    free(dbias);
    problem_close(&p);
}

/* fp32 loses each of the small ones beside the first. */
static void check_small_terms(const struct kernels *k) {
    enum { TERMS = 2002, WIDTH = 300 };
    float *terms = allocate(TERMS * WIDTH * sizeof *terms), sum[WIDTH] = {0};
    for (int i = 0; i < TERMS * WIDTH; i++)
        terms[i] = i < WIDTH ? 0x1p20f : i < (TERMS - 1) * WIDTH ? 0x1p-7f : -0x1p20f;
    uint16_t *narrow = allocate(TERMS * WIDTH * sizeof *narrow);
    for (int i = 0; i < TERMS * WIDTH; i++) narrow[i] = f32_to_bf16(terms[i]);
    struct stream stream;
    stream_open_cpu(&stream, 2);
    const void *dy = k->act == DTYPE_BF16 ? (const void *)narrow : terms;
    k->bias_backward(&stream, sum, dy, TERMS, WIDTH);
    for (int n = 0; n < WIDTH; n++) assert_float_equal(sum[n], 2000 * 0x1p-7f, 0);
    free(terms), free(narrow);
}

static void test_bias_gradient(void **state) {
    (void)state;
    static const char *const tables[] = {"reference", "avx2", "avx512", "avx512_bf16"};
    for (int i = 0; i < 8; i++) {
        const struct kernels *k;
        if (kernels_cpu(&k, tables[i / 2], acts[i % 2]) != STATUS_OK) continue;
        check_bias(k);
        check_small_terms(k);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_matches_double),
        cmocka_unit_test(test_tables_match_reference),
        cmocka_unit_test(test_tables_match_reference_large),
        cmocka_unit_test(test_rows_do_not_depend_on_batch),
        cmocka_unit_test(test_gradients_match_differences),
        cmocka_unit_test(test_nan_stays_in_its_row),
        cmocka_unit_test(test_bias_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
