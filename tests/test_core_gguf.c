/* GGUF files that lie, are cut, or are not whole; and those that others wrote. */
#define _GNU_SOURCE
#include "tests/gguf_sample.h"

#include "kernels/dequantize.h"

/* A GGUF file put together by hand, so that it can be wrong. */
struct raw {
    unsigned char bytes[4096];
    size_t used;
};

static void put(struct raw *raw, const void *data, size_t bytes) {
    assert_true(raw->used + bytes <= sizeof raw->bytes);
    memcpy(raw->bytes + raw->used, data, bytes);
    raw->used += bytes;
}

static void put_u32(struct raw *raw, uint32_t value) {
    put(raw, &value, sizeof value);
}

static void put_u64(struct raw *raw, uint64_t value) {
    put(raw, &value, sizeof value);
}

static void put_text(struct raw *raw, const char *text) {
    put_u64(raw, strlen(text));
    put(raw, text, strlen(text));
}

static void put_head(struct raw *raw, uint32_t version, uint64_t tensors, uint64_t values) {
    raw->used = 0;
    put(raw, "GGUF", 4);
    put_u32(raw, version);
    put_u64(raw, tensors);
    put_u64(raw, values);
}

static void put_tensor(struct raw *raw, const char *name, uint64_t columns, uint64_t rows,
                       uint32_t type, uint64_t offset) {
    put_text(raw, name);
    put_u32(raw, 2);
    put_u64(raw, columns);
    put_u64(raw, rows);
    put_u32(raw, type);
    put_u64(raw, offset);
}

static void put_padding(struct raw *raw, size_t alignment) {
    while (raw->used % alignment) put(raw, "", 1);
}

/* Opens exactly these bytes, in memory of exactly this size: a read past them is an error that the
 * address sanitizer sees. */
static enum status open_exact(const void *data, size_t bytes, bool header_only) {
    unsigned char *copy = malloc(bytes ? bytes : 1);
    memcpy(copy, data, bytes);
    struct model_file file;
    enum status status =
        model_file_open_bytes(&file, bytes ? copy : (void *)"", bytes, "x.gguf", header_only);
    float values[256];
    for (int i = 0; status == STATUS_OK && i < file.tensor_count; i++) {
        const struct file_tensor *tensor = &file.tensors[i];
        int block = dtype_info(tensor->dtype)->block_elements;
        if (tensor->elements >= block && tensor->elements <= 256 && tensor->data)
            (void)file_tensor_read_f32(tensor, 0, tensor->elements, values);
    }
    if (status == STATUS_OK) model_file_close(&file);
    if (status != STATUS_OK) assert_null(strchr(status_message(), '\n'));
    free(copy);
    return status;
}

static void assert_refused(const struct raw *raw, const char *reason) {
    if (open_exact(raw->bytes, raw->used, true) == STATUS_OK)
        fail_msg("accepted, expected: %s", reason);
    if (!strstr(status_message(), reason))
        fail_msg("refused with '%s', expected: %s", status_message(), reason);
    assert_non_null(strstr(status_message(), "x.gguf: "));
}

/* Cut anywhere, the file is refused for use; inspection takes it only where the header is whole
 * and none of the data is there. */
static void test_every_truncation(void **state) {
    (void)state;
    unsigned char bytes[4096];
    size_t size = gguf_sample_read(bytes, sizeof bytes), accepted = 0, data_bytes = 0;
    struct model_file file;
    assert_ok(model_file_open_bytes(&file, bytes, size, "x.gguf", false));
    for (int i = 0; i < file.tensor_count; i++)
        data_bytes += (file.tensors[i].bytes + 31) / 32 * 32;
    model_file_close(&file);
    for (size_t cut = 0; cut < size; cut++) {
        assert_int_not_equal(open_exact(bytes, cut, false), STATUS_OK);
        bool ok = open_exact(bytes, cut, true) == STATUS_OK;
        accepted += ok;
        if (ok) assert_in_range(cut, size - data_bytes - 31, size - data_bytes);
    }
    assert_in_range(accepted, 1, 32);
    assert_ok(open_exact(bytes, size, false));
}

/* Any verdict will do, as long as nothing is read outside the file. */
static void test_every_byte_changed(void **state) {
    (void)state;
    unsigned char bytes[4096];
    size_t size = gguf_sample_read(bytes, sizeof bytes), refused = 0;
    static const unsigned char masks[] = {0x01, 0x80, 0xff};
    for (size_t at = 0; at < size; at++)
        for (int m = 0; m < 3; m++) {
            bytes[at] ^= masks[m];
            refused += open_exact(bytes, size, false) != STATUS_OK;
            bytes[at] ^= masks[m];
        }
    assert_true(refused > 300);
}

static void test_bad_headers_are_refused(void **state) {
    (void)state;
    struct raw raw = {0};
    put(&raw, "FUGG", 4);
    assert_refused(&raw, "not a GGUF file");
    put_head(&raw, 1, 0, 0);
    assert_refused(&raw, "version 1");
    put_head(&raw, __builtin_bswap32(3), 0, 0);
    assert_refused(&raw, "big-endian");
    put_head(&raw, 3, 0, UINT64_MAX);
    assert_refused(&raw, "18446744073709551615 metadata values");
    put_head(&raw, 3, UINT64_MAX, 0);
    assert_refused(&raw, "18446744073709551615 tensors");
    put_head(&raw, 2, 0, 0);
    assert_ok(open_exact(raw.bytes, raw.used, false));
}

static void test_bad_values_are_refused(void **state) {
    (void)state;
    struct raw raw = {0};
    put_head(&raw, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_text(&raw, "same\nkey");
        put_u32(&raw, GGUF_U32);
        put_u32(&raw, 1);
    }
    assert_refused(&raw, "metadata key same\\x0akey is there twice");
    put_head(&raw, 3, 0, 1);
    put_text(&raw, "k");
    put_u32(&raw, 13);
    assert_refused(&raw, "metadata key k: value type 13");
    put_head(&raw, 3, 0, 1);
    put_text(&raw, "k");
    put_u32(&raw, GGUF_ARRAY);
    put_u32(&raw, GGUF_ARRAY);
    put_u64(&raw, 1);
    assert_refused(&raw, "array of arrays");
    put_head(&raw, 3, 0, 1);
    put_text(&raw, "k");
    put_u32(&raw, GGUF_ARRAY);
    put_u32(&raw, GGUF_STRING);
    put_u64(&raw, (uint64_t)1 << 61); /* times 8 is 0 */
    assert_refused(&raw, "elements don't fit");
    put_head(&raw, 3, 0, 1);
    put_text(&raw, "k");
    put_u32(&raw, GGUF_STRING);
    put_u64(&raw, UINT64_MAX - 7);
    put_u64(&raw, 0);
    assert_refused(&raw, "claims 18446744073709551608 bytes");
    put_head(&raw, 3, 0, 1);
    put_u64(&raw, 3);
    put(&raw, "a\0b", 3);
    put_u32(&raw, GGUF_U32);
    put_u32(&raw, 1);
    assert_refused(&raw, "NUL");
    for (uint32_t alignment = 0; alignment < 50; alignment += 12) {
        put_head(&raw, 3, 0, 1);
        put_text(&raw, "general.alignment");
        put_u32(&raw, GGUF_U32);
        put_u32(&raw, alignment);
        assert_refused(&raw, "not a power of two");
    }
    put_head(&raw, 3, 0, 1);
    put_text(&raw, "general.alignment");
    put_u32(&raw, GGUF_I32);
    put_u32(&raw, 32);
    assert_refused(&raw, "general.alignment is not a u32");
}

static void one_tensor(struct raw *raw, const char *name, uint64_t columns, uint64_t rows,
                       uint32_t type, uint64_t offset) {
    put_head(raw, 3, 1, 0);
    put_tensor(raw, name, columns, rows, type, offset);
}

static void test_bad_tensors_are_refused(void **state) {
    (void)state;
    struct raw raw = {0};
    char long_name[80] = {0};
    memset(long_name, 'n', 65);
    one_tensor(&raw, long_name, 4, 4, 0, 0);
    assert_refused(&raw, "its name has 65 bytes");
    one_tensor(&raw, "t", (uint64_t)1 << 32, (uint64_t)1 << 32, 0, 0);
    assert_refused(&raw, "overflows");
    one_tensor(&raw, "t", UINT64_MAX, 1, 0, 0);
    assert_refused(&raw, "dimension 0 is 18446744073709551615");
    one_tensor(&raw, "t", 1, (uint64_t)1 << 62, 0, 0); /* elements fit, bytes don't */
    assert_refused(&raw, "overflows");
    one_tensor(&raw, "t", 33, 2, 8, 0);
    assert_refused(&raw, "rows of 33 are not whole blocks of Q8_0");
    one_tensor(&raw, "t", 4, 4, 4, 0);
    assert_refused(&raw, "tensor type 4 is unknown");
    one_tensor(&raw, "t", 4, 4, 0, 32);
    assert_refused(&raw, "its offset is 32, expected 0");
    put_head(&raw, 3, 1, 0);
    put_text(&raw, "t");
    put_u32(&raw, 5);
    for (int i = 0; i < 8; i++) put_u64(&raw, 1);
    assert_refused(&raw, "5 dimensions");
    put_head(&raw, 3, 2, 0);
    put_tensor(&raw, "t", 4, 4, 0, 0);
    put_tensor(&raw, "t", 4, 4, 0, 64);
    assert_refused(&raw, "tensor t is there twice");
    put_head(&raw, 3, 2, 0);
    put_tensor(&raw, "t", 4, 4, 0, 0);
    put_tensor(&raw, "u", 4, 4, 0, 32); /* inside t */
    assert_refused(&raw, "tensor u: its offset is 32, expected 64");
}

/* A header alone is looked at; a part of the data is damage. */
static void test_header_only_files(void **state) {
    (void)state;
    struct raw raw = {0};
    struct model_file file;
    one_tensor(&raw, "t", 4, 4, 0, 0);
    put_padding(&raw, 32);
    assert_int_equal(open_exact(raw.bytes, raw.used, false), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "only a header"));
    assert_ok(model_file_open_bytes(&file, raw.bytes, raw.used, "x.gguf", true));
    assert_false(file.data_present);
    assert_null(file.tensors[0].data);
    float value;
    assert_int_equal(file_tensor_read_f32(&file.tensors[0], 0, 1, &value), STATUS_FORMAT);
    model_file_close(&file);
    put(&raw, "x", 1);
    assert_refused(&raw, "cut off: 64 bytes are needed, 1 are there");
}

static void test_a_part_of_a_split_model(void **state) {
    (void)state;
    struct raw raw = {0};
    put_head(&raw, 3, 0, 1);
    put_text(&raw, "split.count");
    put_u32(&raw, GGUF_U16);
    put(&raw, "\2\0", 2);
    assert_ok(open_exact(raw.bytes, raw.used, true));
    assert_int_equal(open_exact(raw.bytes, raw.used, false), STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "one of the 2 parts"));
}

/* Relative squared error of one file's tensor against another's; the format decides the bound. */
static double error_against(const struct file_tensor *tensor, const struct file_tensor *exact) {
    size_t bytes = (size_t)tensor->elements * sizeof(float);
    float *got = malloc(bytes), *want = malloc(bytes);
    double error = 0, norm = 1e-30;
    assert_int_equal(tensor->elements, exact->elements);
    assert_ok(file_tensor_read_f32(tensor, 0, tensor->elements, got));
    assert_ok(file_tensor_read_f32(exact, 0, exact->elements, want));
    for (int64_t i = 0; i < tensor->elements; i++) {
        error += pow((double)got[i] - (double)want[i], 2);
        norm += pow((double)want[i], 2);
    }
    free(got);
    free(want);
    return error / norm;
}

static void test_real_files_hold_the_same_weights(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double bound;
    } files[] = {
        {"F16", 1e-7},         {"Q4_K_M_fallback", 3e-3}, {"pad192-BF16", 4e-6},
        {"pad192-Q8_0", 1e-4}, {"pad192-Q4_0", 1.5e-2},   {"pad192-Q4_1", 1.2e-2},
        {"pad192-Q5_0", 3e-3}, {"pad192-Q5_1", 3e-3},     {"pad192-IQ4_NL", 1.2e-2},
    };
    const char *folder = test_data_or_skip();
    char path[512];
    struct model_file exact, file;
    snprintf(path, sizeof path, "%s/gguf_stories260k_quantised/stories260K-F32.gguf", folder);
    assert_ok(model_file_open(&exact, path, false));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/gguf_stories260k_quantised/stories260K-%s.gguf", folder,
                 files[i].name);
        assert_ok(model_file_open(&file, path, false));
        assert_int_equal(file.tensor_count, exact.tensor_count);
        for (int t = 0; t < file.tensor_count; t++) {
            const struct file_tensor *tensor = &file.tensors[t];
            const struct file_tensor *want = model_file_find(&exact, tensor->name);
            assert_non_null(want);
            if (want->elements != tensor->elements) continue; /* padded */
            double error = error_against(tensor, want);
            if (!(error <= files[i].bound))
                fail_msg("%s %s: relative squared error %g", files[i].name, tensor->name, error);
        }
        model_file_close(&file);
    }
    model_file_close(&exact);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_byte_changed),
        cmocka_unit_test(test_bad_headers_are_refused),
        cmocka_unit_test(test_bad_values_are_refused),
        cmocka_unit_test(test_bad_tensors_are_refused),
        cmocka_unit_test(test_header_only_files),
        cmocka_unit_test(test_a_part_of_a_split_model),
        cmocka_unit_test(test_real_files_hold_the_same_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
