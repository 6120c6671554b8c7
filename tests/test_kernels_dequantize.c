#include "tests/check.h"

#include "core/model_file.h"
#include "kernels/base/rng.h"
#include "kernels/dequantize.h"

/* What a half means, by the definition of IEEE 754. */
static double half_value(uint16_t bits) {
    int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, -24);
    return sign * ldexp(1024 + mantissa, exponent - 25);
}

static void test_f16_reads_every_value(void **state) {
    (void)state;
    uint16_t *bits = malloc(65536 * sizeof *bits);
    float *got = malloc(65536 * sizeof *got);
    for (int i = 0; i < 65536; i++) bits[i] = (uint16_t)i;
    assert_true(dequantize(got, DTYPE_F16, bits, 65536));
    for (int i = 0; i < 65536; i++) {
        double want = half_value((uint16_t)i);
        if (isnan(want)) {
            assert_true(isnan(got[i]));
        } else {
            assert_true((double)got[i] == want);
            assert_int_equal(signbit(got[i]) != 0, i >= 32768);
        }
    }
    free(bits);
    free(got);
}

/* The nearest half is found among neighbours; a tie must take the one whose last bit is even. */
static void check_half_is_nearest(float value, uint16_t got) {
    double distance = fabs(half_value(got) - (double)value);
    for (int step = -1; step <= 1; step += 2) {
        if ((got & 0x7fff) == 0 && step < 0) continue;
        uint16_t other = (uint16_t)(got + step);
        double apart = fabs(half_value(other) - (double)value);
        if (isnan(apart)) continue;
        if (!(distance < apart || (distance == apart && got % 2 == 0)))
            fail_msg("%a became half %04x, but %04x is nearer", (double)value, got, other);
    }
}

static void test_f16_rounds_to_nearest_even(void **state) {
    (void)state;
    enum { COUNT = 200000 };
    float *values = malloc(COUNT * sizeof *values);
    uint16_t *got = malloc(COUNT * sizeof *got);
    for (int i = 0; i < COUNT; i++) {
        struct rng_block draw = rng_draw(7, RNG_TEST, 0, (uint64_t)i);
        float tie = (float)(half_value((uint16_t)(draw.word[0] % 31743)) / 2 +
                            half_value((uint16_t)(draw.word[0] % 31743 + 1)) / 2);
        float spread = ldexpf(rng_unit(draw.word[1]) + 1.0f, (int)(draw.word[2] % 45) - 28);
        values[i] = draw.word[3] & 1 ? tie : fminf(spread, 65504.0f);
        if (draw.word[3] & 2) values[i] = -values[i];
    }
    assert_true(quantize(got, DTYPE_F16, values, COUNT));
    for (int i = 0; i < COUNT; i++) check_half_is_nearest(values[i], got[i]);
    float special[4] = {NAN, INFINITY, 1e6f, -65520.0f};
    assert_true(quantize(got, DTYPE_F16, special, 4));
    assert_true((got[0] & 0x7c00) == 0x7c00 && (got[0] & 0x3ff) != 0);
    assert_int_equal(got[1], 0x7c00);
    assert_int_equal(got[2], 0x7c00);
    assert_int_equal(got[3], 0xfc00);
    free(values);
    free(got);
}

static void test_bf16_keeps_its_own_values(void **state) {
    (void)state;
    uint16_t bits[4] = {0x3f80, 0xc2f7, 0x0001, 0xff80}, again[4];
    float values[4];
    assert_true(dequantize(values, DTYPE_BF16, bits, 4));
    assert_true(values[0] == 1.0f && values[1] == -123.5f);
    assert_true(quantize(again, DTYPE_BF16, values, 4));
    assert_memory_equal(again, bits, sizeof bits);
}

static void test_q8_0_is_within_half_a_step(void **state) {
    (void)state;
    float values[64], back[64];
    unsigned char blocks[68 + 1];
    for (int i = 0; i < 64; i++)
        values[i] = rng_normal(rng_draw(3, RNG_TEST, 1, (uint64_t)i).word[0], 0x12345678u);
    assert_true(quantize(blocks + 1, DTYPE_Q8_0, values, 64)); /* unaligned on purpose */
    assert_true(dequantize(back, DTYPE_Q8_0, blocks + 1, 64));
    for (int block = 0; block < 2; block++) {
        float largest = 0;
        for (int i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(values[32 * block + i]));
        /* half a step, and what rounding the scale to f16 (relative 2^-11) moves 127 steps by */
        double bound = (double)largest * (0.5 / 127 + 0x1p-11);
        assert_all_close(back + 32 * block, values + 32 * block, 32, bound, 0, "q8_0");
    }
}

static void test_q8_0_edges(void **state) {
    (void)state;
    float zero[32] = {0}, back[32];
    unsigned char block[34];
    assert_true(quantize(block, DTYPE_Q8_0, zero, 32));
    assert_true(dequantize(back, DTYPE_Q8_0, block, 32));
    assert_memory_equal(back, zero, sizeof zero);
    zero[5] = 1e-44f; /* subnormal: 1 / scale would be infinite */
    assert_true(quantize(block, DTYPE_Q8_0, zero, 32));
    assert_true(dequantize(back, DTYPE_Q8_0, block, 32));
    for (int i = 0; i < 32; i++) assert_true(back[i] == 0.0f);
    float ties[32] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f};
    assert_true(quantize(block, DTYPE_Q8_0, ties, 32)); /* scale 1: to nearest even */
    const signed char want[6] = {127, 0, 2, 2, 0, -2};
    assert_memory_equal(block + 2, want, sizeof want);
    ties[31] = NAN;
    assert_true(quantize(block, DTYPE_Q8_0, ties, 32));
    assert_true(dequantize(back, DTYPE_Q8_0, block, 32));
    for (int i = 0; i < 32; i++) assert_true(isnan(back[i]));
}

static void test_others_are_refused(void **state) {
    (void)state;
    unsigned char data[2048] = {0};
    float out[256];
    const enum dtype refused[] = {DTYPE_I8,      DTYPE_I32,   DTYPE_BOOL,  DTYPE_U64, DTYPE_F8_E4M3,
                                  DTYPE_IQ2_XXS, DTYPE_TQ2_0, DTYPE_MXFP4, DTYPE_Q8_K};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_false(dequantize(out, refused[i], data, 256));
    assert_false(quantize(data, DTYPE_Q4_K, out, 256));
    double wide[2] = {0.1, -1e300};
    assert_true(dequantize(out, DTYPE_F64, wide, 2));
    assert_true(out[0] == 0.1f && isinf(out[1]));
}

/* Types by the names that a file of goldens gives them. */
static const struct golden {
    const char *name;
    enum dtype type;
} goldens[] = {
    {"f16", DTYPE_F16},       {"bf16", DTYPE_BF16},     {"q4_0", DTYPE_Q4_0}, {"q4_1", DTYPE_Q4_1},
    {"q5_0", DTYPE_Q5_0},     {"q5_1", DTYPE_Q5_1},     {"q8_0", DTYPE_Q8_0}, {"q2_K", DTYPE_Q2_K},
    {"q3_K", DTYPE_Q3_K},     {"q4_K", DTYPE_Q4_K},     {"q5_K", DTYPE_Q5_K}, {"q6_K", DTYPE_Q6_K},
    {"iq4_nl", DTYPE_IQ4_NL}, {"iq4_xs", DTYPE_IQ4_XS},
};
enum { GOLDENS = sizeof goldens / sizeof *goldens };

/* NAME.bytes dequantize to NAME.`values`, bit for bit. */
static void check_golden(const struct model_file *file, const char *name, const char *values,
                         enum dtype type) {
    char tensor[64];
    snprintf(tensor, sizeof tensor, "%s.bytes", name);
    const struct file_tensor *bytes = model_file_find(file, tensor);
    snprintf(tensor, sizeof tensor, "%s.%s", name, values);
    const struct file_tensor *want = model_file_find(file, tensor);
    if (!bytes || !want || want->elements == 0) fail_msg("no golden %s", name);
    assert_int_equal(bytes->bytes, dtype_bytes(type, (size_t)want->elements));
    float *got = malloc(want->bytes);
    assert_true(dequantize(got, type, bytes->data, (size_t)want->elements));
    if (memcmp(got, want->data, want->bytes) != 0) fail_msg("%s differs", name);
    free(got);
}

/* Blocks and their values as ggml's reference code reads them. */
static void test_goldens_bit_for_bit(void **state) {
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s/quant_goldens_ggml/quant_goldens.safetensors",
             test_data_or_skip());
    struct model_file file;
    assert_ok(model_file_open(&file, path, false));
    for (int i = 0; i < GOLDENS; i++)
        check_golden(&file, goldens[i].name, "dequant", goldens[i].type);
    model_file_close(&file);
}

/* Blocks of random bytes and their values as PyPI's `gguf` package reads them (tests/peers). */
static void test_blocks_as_the_gguf_package_reads_them(void **state) {
    (void)state;
    struct model_file file;
    assert_ok(model_file_open(&file, "tests/fixtures/vectors/blocks.safetensors", false));
    assert_int_equal(file.tensor_count, 2 * GOLDENS);
    for (int i = 0; i < GOLDENS; i++)
        check_golden(&file, dtype_info(goldens[i].type)->name, "values", goldens[i].type);
    model_file_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_reads_every_value),
        cmocka_unit_test(test_f16_rounds_to_nearest_even),
        cmocka_unit_test(test_bf16_keeps_its_own_values),
        cmocka_unit_test(test_q8_0_is_within_half_a_step),
        cmocka_unit_test(test_q8_0_edges),
        cmocka_unit_test(test_others_are_refused),
        cmocka_unit_test(test_blocks_as_the_gguf_package_reads_them),
        cmocka_unit_test(test_goldens_bit_for_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
