#include "tests/check.h"

#include "kernels/base/dtype.h"
#include "kernels/pack.h"

enum { ROWS = 45, COLS = 37 };

static float value_at(int64_t row, int64_t col) {
    return (float)(row * 1000 + col) + 0.7f;
}

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(memory);
    memset(memory, 0x7f, bytes); /* neither zero nor what is expected */
    return memory;
}

static struct weight packed(enum layout layout, float *src) {
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t c = 0; c < COLS; c++) src[r * COLS + c] = value_at(r, c);
    struct weight w = {layout, ROWS, COLS, allocate(weight_bytes(layout, ROWS, COLS))};
    weight_pack(&w, 16, ROWS - 16, src + 16 * COLS);
    weight_pack(&w, 0, 16, src);
    return w;
}

static void test_panels_lie_as_described(void **state) {
    (void)state;
    static float src[ROWS * COLS];
    struct weight wide = packed(LAYOUT_PANEL_F32, src), half = packed(LAYOUT_PANEL_BF16, src);
    assert_int_equal(weight_elements(wide.layout, ROWS, COLS), 48 * COLS);
    int64_t even = (COLS + 1) / 2 * 2;
    assert_int_equal(weight_bytes(half.layout, ROWS, COLS), 48 * even * 2);
    for (int64_t r = 0; r < 48; r++) {
        for (int64_t c = 0; c < COLS; c++) {
            int64_t at = (r / 16 * COLS + c) * 16 + r % 16;
            float want = r < ROWS ? value_at(r, c) : 0.0f;
            assert_true(((float *)wide.data)[at] == want);
            assert_int_equal(at, weight_index(wide.layout, COLS, r, c));
            at = (r / 16 * even / 2 + c / 2) * 32 + r % 16 * 2 + c % 2;
            assert_int_equal(((uint16_t *)half.data)[at], f32_to_bf16(want));
            assert_int_equal(at, weight_index(half.layout, COLS, r, c));
        }
    }
    for (int64_t r = 0; even > COLS && r < 48; r++)
        assert_int_equal(
            ((uint16_t *)half.data)[(r / 16 * even / 2 + COLS / 2) * 32 + r % 16 * 2 + 1], 0);
    free(wide.data), free(half.data);
}

static void test_unpack_reverses_pack(void **state) {
    (void)state;
    static float src[ROWS * COLS], out[ROWS * COLS];
    for (enum layout layout = 0; layout < LAYOUT_COUNT; layout++) {
        struct weight w = packed(layout, src);
        for (int64_t first = 0; first < ROWS; first += 7) {
            int64_t count = ROWS - first < 20 ? ROWS - first : 20;
            memset(out, 0x7f, sizeof out);
            weight_unpack(out, &w, first, count);
            for (int64_t i = 0; i < count * COLS; i++) {
                float want = src[first * COLS + i];
                if (layout_is_bf16(layout)) want = bf16_to_f32(f32_to_bf16(want));
                assert_true(out[i] == want);
            }
        }
        free(w.data);
    }
}

static void test_round_refreshes_every_element(void **state) {
    (void)state;
    static float src[ROWS * COLS];
    struct stream stream;
    stream_open_cpu(&stream, 2);
    struct weight master = packed(LAYOUT_PANEL_F32, src), want = packed(LAYOUT_PANEL_BF16, src);
    struct weight to = {LAYOUT_PANEL_BF16, ROWS, COLS,
                        allocate(weight_bytes(LAYOUT_PANEL_BF16, ROWS, COLS))};
    weight_round(&stream, &to, master.data);
    assert_memory_equal(to.data, want.data, weight_bytes(to.layout, ROWS, COLS));
    struct weight same = {LAYOUT_PANEL_F32, ROWS, COLS,
                          allocate(weight_bytes(LAYOUT_PANEL_F32, ROWS, COLS))};
    weight_round(&stream, &same, master.data);
    assert_memory_equal(same.data, master.data, weight_bytes(same.layout, ROWS, COLS));
    struct weight rounded = {LAYOUT_PANEL_F32, ROWS, COLS,
                             allocate(weight_bytes(LAYOUT_PANEL_F32, ROWS, COLS))};
    static float logical[ROWS * COLS], widened[ROWS * COLS];
    weight_widen(&stream, rounded.data, &to);
    weight_unpack(logical, &to, 0, ROWS);
    weight_unpack(widened, &rounded, 0, ROWS);
    assert_memory_equal(widened, logical, sizeof logical);
    free(master.data), free(want.data), free(to.data), free(same.data), free(rounded.data);
}

static void test_rows_of_bf16(void **state) {
    (void)state;
    static float src[ROWS * COLS], wide[ROWS * COLS], some[COLS];
    struct stream stream;
    stream_open_cpu(&stream, 2);
    struct weight master = packed(LAYOUT_ROWS_F32, src), want = packed(LAYOUT_ROWS_BF16, src);
    assert_int_equal(weight_bytes(LAYOUT_ROWS_BF16, ROWS, COLS), ROWS * COLS * 2);
    for (int64_t i = 0; i < ROWS * COLS; i++) {
        assert_int_equal(weight_index(LAYOUT_ROWS_BF16, COLS, i / COLS, i % COLS), i);
        assert_int_equal(((uint16_t *)want.data)[i], f32_to_bf16(src[i]));
    }
    struct weight to = {LAYOUT_ROWS_BF16, ROWS, COLS,
                        allocate(weight_bytes(LAYOUT_ROWS_BF16, ROWS, COLS))};
    weight_round(&stream, &to, master.data);
    assert_memory_equal(to.data, want.data, weight_bytes(to.layout, ROWS, COLS));
    weight_widen(&stream, wide, &to);
    weight_read(some, &to, 3, 0, COLS);
    for (int64_t i = 0; i < ROWS * COLS; i++)
        assert_true(wide[i] == bf16_to_f32(f32_to_bf16(src[i])));
    assert_memory_equal(some, wide + 3 * COLS, sizeof some);
    free(master.data), free(want.data), free(to.data);
}

/* Every way to cut a matrix at multiples of 16 elements: each element is in one part, where its
 * view says. */
static void test_parts_are_rectangles(void **state) {
    (void)state;
    static float src[ROWS * COLS], out[ROWS * COLS];
    const enum layout layouts[] = {LAYOUT_ROWS_F32, LAYOUT_PANEL_F32};
    for (int l = 0; l < 2; l++) {
        struct weight w = packed(layouts[l], src);
        int64_t elements = weight_elements(w.layout, ROWS, COLS) / 16 * 16, most = 0;
        for (int64_t first = 0; first < elements; first += 48)
            for (int64_t count = 16; first + count <= elements; count += 112) {
                struct weight_part parts[WEIGHT_PARTS];
                int made = weight_parts(parts, &w, first, count);
                int64_t seen = 0, inside = 0;
                for (int i = 0; i < made; i++) {
                    const struct weight_part *p = &parts[i];
                    const struct weight view = {w.layout, p->rows, p->cols,
                                                (float *)w.data + first + p->at};
                    assert_in_range(p->first_row + p->rows, 1, ROWS);
                    assert_in_range(p->first_col + p->cols, 1, COLS);
                    weight_unpack(out, &view, 0, p->rows);
                    for (int64_t r = 0; r < p->rows; r++)
                        for (int64_t c = 0; c < p->cols; c++)
                            assert_true(out[r * p->cols + c] ==
                                        value_at(p->first_row + r, p->first_col + c));
                    seen += p->rows * p->cols;
                }
                for (int64_t i = 0; i < ROWS * COLS; i++) {
                    int64_t at = weight_index(w.layout, COLS, i / COLS, i % COLS);
                    inside += at >= first && at < first + count;
                }
                assert_int_equal(seen, inside);
                most = made > most ? made : most;
            }
        assert_int_equal(most, WEIGHT_PARTS);
        free(w.data);
    }
}

static void test_layouts_have_names_and_gradients(void **state) {
    (void)state;
    assert_string_equal(layout_name(LAYOUT_ROWS_F32), "rows_f32");
    assert_string_equal(layout_name(LAYOUT_PANEL_BF16), "panel_bf16");
    assert_string_equal(layout_name(LAYOUT_ROWS_BF16), "rows_bf16");
    assert_int_equal(layout_of_gradient(LAYOUT_PANEL_BF16), LAYOUT_PANEL_F32);
    assert_int_equal(layout_of_gradient(LAYOUT_PANEL_F32), LAYOUT_PANEL_F32);
    assert_int_equal(layout_of_gradient(LAYOUT_ROWS_F32), LAYOUT_ROWS_F32);
    assert_int_equal(layout_of_gradient(LAYOUT_ROWS_BF16), LAYOUT_ROWS_F32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_panels_lie_as_described),
        cmocka_unit_test(test_unpack_reverses_pack),
        cmocka_unit_test(test_round_refreshes_every_element),
        cmocka_unit_test(test_rows_of_bf16),
        cmocka_unit_test(test_parts_are_rectangles),
        cmocka_unit_test(test_layouts_have_names_and_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
