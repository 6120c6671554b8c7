#include "tests/check.h"

#include "kernels/base/dtype.h"
#include "kernels/base/median.h"
#include "kernels/base/rng.h"
#include "kernels/base/stream.h"

static void test_half_round_trip(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        float value = f16_to_f32((uint16_t)bits);
        if (isnan(value)) {
            assert_true(isnan(f16_to_f32(f32_to_f16(value))));
        } else {
            assert_int_equal(f32_to_f16(value), bits);
        }
    }
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00); /* rounds up to infinity */
    assert_int_equal(f32_to_f16(0x1p-25f), 0);      /* a tie goes to even */
    assert_int_equal(f32_to_f16(0x1.8p-25f), 1);
}

static void test_bfloat_rounds_to_even(void **state) {
    (void)state;
    assert_int_equal(f32_to_bf16(1.0f), 0x3f80);
    assert_int_equal(f32_to_bf16(1.00390625f), 0x3f80); /* half way, even below */
    assert_int_equal(f32_to_bf16(1.01171875f), 0x3f82); /* half way, even above */
    assert_true(isnan(bf16_to_f32(f32_to_bf16(NAN))));
    assert_true(isinf(bf16_to_f32(f32_to_bf16(INFINITY))));
}

/* Known answers of Random123's kat_vectors for philox4x32-10. */
static void test_philox_known_answers(void **state) {
    (void)state;
    struct rng_block zero = rng_philox(0, 0, 0);
    assert_int_equal(zero.word[0], 0x6627e8d5u);
    struct rng_block ones = rng_philox(~0ull, ~0ull, ~0ull);
    assert_int_equal(ones.word[0], 0x408f276du);
    assert_int_equal(ones.word[1], 0x41c83b0eu);
    assert_int_equal(ones.word[2], 0xa20bc7c6u);
    assert_int_equal(ones.word[3], 0x6d5451fdu);
}

static void test_first_failure_sticks(void **state) {
    (void)state;
    struct stream stream;
    stream_open_cpu(&stream, 1);
    assert_ok(stream_check(&stream));
    stream_fail(&stream, STATUS_SHAPE, "first", "k=%d", 3);
    stream_fail(&stream, STATUS_DEVICE, "second", "later");
    assert_int_equal(stream_check(&stream), STATUS_SHAPE);
    assert_string_equal(status_message(), "op first: k=3");
    assert_ok(stream_check(&stream));
}

/* What a message quotes from a file can't move a terminal's cursor or begin a second line. */
static void test_messages_are_printable(void **state) {
    (void)state;
    assert_int_equal(status_fail(STATUS_FORMAT, "file '%s'", "x\x1b[31m\n\xc3\xa9\xff\xc2\x9b"),
                     STATUS_FORMAT);
    assert_string_equal(status_message(), "file 'x\\x1b[31m\\x0a\xc3\xa9\\xff\\xc2\\x9b'");
    assert_int_equal(status_context(STATUS_IO, "in\t%s", "\x7f"), STATUS_IO);
    assert_string_equal(status_message(),
                        "in\\x09\\x7f: file 'x\\x1b[31m\\x0a\xc3\xa9\\xff\\xc2\\x9b'");
    char most[2000];
    memset(most, '\n', sizeof most - 1);
    most[sizeof most - 1] = '\0';
    status_fail(STATUS_IO, "%s", most);
    assert_true(strlen(status_message()) < 1024);
    assert_null(strchr(status_message(), '\n'));
}

static void test_median(void **state) {
    (void)state;
    double odd[] = {3.0, -1.0, 2.0}, even[] = {4.0, 1.0, 8.0, 2.0}, one[] = {7.0};
    for (int tie = MEDIAN_LOWER; tie <= MEDIAN_UPPER; tie++) {
        assert_true(median(odd, 3, (enum median_tie)tie) == 2.0);
        assert_true(median(one, 1, (enum median_tie)tie) == 7.0);
    }
    assert_true(odd[0] == -1.0 && odd[2] == 3.0);
    assert_true(median(even, 4, MEDIAN_LOWER) == 2.0);
    assert_true(median(even, 4, MEDIAN_MEAN) == 3.0);
    assert_true(median(even, 4, MEDIAN_UPPER) == 4.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_round_trip),        cmocka_unit_test(test_bfloat_rounds_to_even),
        cmocka_unit_test(test_philox_known_answers),   cmocka_unit_test(test_first_failure_sticks),
        cmocka_unit_test(test_messages_are_printable), cmocka_unit_test(test_median),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
