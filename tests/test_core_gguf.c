#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "core/gguf_write.h"
#include "kernels/dequantize.h"
#include <signal.h>
#include <sys/resource.h>

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

static const struct gguf_string words[3] = {{"a", 1}, {"", 0}, {"b\0c", 3}};
static const float floats[3] = {0.5f, -2.0f, 1e9f};

static void put_everything(struct gguf_metadata *metadata) {
    gguf_put_string(metadata, "general.architecture", "llama");
    gguf_put_u32(metadata, "u32", 4000000000u);
    gguf_put_i32(metadata, "i32", -7);
    gguf_put_u64(metadata, "u64", UINT64_MAX);
    gguf_put_f32(metadata, "f32", 0.25f);
    gguf_put_bool(metadata, "bool", true);
    gguf_put_array(metadata, "floats", GGUF_F32, floats, 3);
    gguf_put_strings(metadata, "words", words, 3);
}

static const struct tensor_spec specs[] = {
    {"first", DTYPE_F32, 2, {3, 5}}, {"empty", DTYPE_F32, 2, {0, 4}},
    {"scalar", DTYPE_F32, 0, {0}},   {"half", DTYPE_F16, 3, {2, 2, 3}},
    {"brain", DTYPE_BF16, 1, {7}},   {"eight", DTYPE_Q8_0, 2, {2, 64}},
};
enum { SPECS = sizeof specs / sizeof *specs };

/* Values that each of the four dtypes holds exactly (Q8_0: the largest of a block is 127). */
static float value_of(int tensor, int64_t element) {
    return (float)(element % 32 == 0 ? 127 : (tensor * 13 + element * 7) % 100 - 50);
}

static void write_sample(const char *path) {
    struct gguf_metadata metadata = {0};
    struct tensor_sink sink;
    put_everything(&metadata);
    assert_ok(gguf_create(&sink, path, &metadata, specs, SPECS));
    for (int i = 0; i < SPECS; i++) {
        int64_t elements = 1;
        for (int d = 0; d < specs[i].dims; d++) elements *= specs[i].shape[d];
        if (elements == 0) continue;
        assert_string_equal(tensor_sink_current(&sink), specs[i].name);
        float values[128];
        for (int64_t e = 0; e < elements; e++) values[e] = value_of(i, e);
        int64_t first = elements > 64 ? 64 : 1; /* in two pieces */
        assert_ok(tensor_sink_append_f32(&sink, values, (size_t)first));
        assert_ok(tensor_sink_append_f32(&sink, values + first, (size_t)(elements - first)));
    }
    assert_null(tensor_sink_current(&sink));
    assert_ok(tensor_sink_finish(&sink));
    tensor_sink_close(&sink);
    tensor_sink_close(&sink);
    gguf_metadata_free(&metadata);
}

static void check_values(const struct model_file *file) {
    int64_t integer;
    double real;
    struct gguf_string text;
    assert_int_equal(file->value_count, 8);
    assert_true(gguf_get_string(gguf_find(file, "general.architecture"), &text));
    assert_int_equal(text.bytes, 5);
    assert_memory_equal(text.text, "llama", 5);
    assert_true(gguf_get_i64(gguf_find(file, "u32"), 0, &integer) && integer == 4000000000);
    assert_true(gguf_get_i64(gguf_find(file, "i32"), 0, &integer) && integer == -7);
    assert_true(gguf_get_f64(gguf_find(file, "i32"), 0, &real) && real == -7.0);
    assert_false(gguf_get_i64(gguf_find(file, "i32"), 1, &integer));
    assert_false(gguf_get_i64(gguf_find(file, "u64"), 0, &integer)); /* doesn't fit */
    assert_false(gguf_get_i64(gguf_find(file, "f32"), 0, &integer));
    assert_true(gguf_get_f64(gguf_find(file, "f32"), 0, &real) && real == 0.25);
    assert_true(gguf_get_i64(gguf_find(file, "bool"), 0, &integer) && integer == 1);
    assert_true(gguf_get_f64(gguf_find(file, "floats"), 2, &real) && real == (double)1e9f);
    assert_false(gguf_get_f64(gguf_find(file, "floats"), 3, &real));
    assert_false(gguf_get_string(gguf_find(file, "words"), &text));
    assert_false(gguf_get_i64(gguf_find(file, "words"), 0, &integer));
    struct gguf_string read[3];
    assert_false(gguf_strings(gguf_find(file, "floats"), read));
    assert_true(gguf_strings(gguf_find(file, "words"), read));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(read[i].bytes, words[i].bytes);
        assert_memory_equal(read[i].text, words[i].text, words[i].bytes);
    }
    assert_null(gguf_find(file, "u3"));
    assert_null(gguf_find(file, "u32 "));
}

static void test_what_is_written_reads_back(void **state) {
    (void)state;
    struct temporary folder;
    struct model_file file;
    temporary_open(&folder);
    write_sample(temporary_file(&folder, "sample.gguf"));
    assert_int_equal(temporary_count(&folder, 0), 1);
    assert_ok(model_file_open(&file, folder.file, false));
    assert_int_equal(file.format, MODEL_GGUF);
    assert_int_equal(file.gguf_version, 3);
    assert_int_equal(file.alignment, 32);
    assert_true(file.data_present);
    assert_string_equal(file.directory, folder.path);
    check_values(&file);
    assert_int_equal(file.tensor_count, SPECS);
    for (int i = 0; i < SPECS; i++) {
        const struct file_tensor *tensor = model_file_find(&file, specs[i].name);
        assert_ptr_equal(tensor, &file.tensors[i]);
        assert_int_equal(tensor->dtype, specs[i].dtype);
        assert_int_equal(tensor->dims, specs[i].dims);
        for (int d = 0; d < tensor->dims; d++)
            assert_int_equal(tensor->shape[d], specs[i].shape[d]);
        float values[128];
        assert_ok(file_tensor_read_f32(tensor, 0, tensor->elements, values));
        for (int64_t e = 0; e < tensor->elements; e++) assert_true(values[e] == value_of(i, e));
    }
    assert_null(model_file_find(&file, "fir"));
    float part[32];
    assert_ok(file_tensor_read_f32(model_file_find(&file, "eight"), 96, 32, part));
    assert_true(part[31] == value_of(5, 127));
    model_file_close(&file);
    model_file_close(&file);
    temporary_close(&folder);
}

static size_t read_sample(unsigned char *bytes, size_t room) {
    struct temporary folder;
    temporary_open(&folder);
    write_sample(temporary_file(&folder, "sample.gguf"));
    FILE *in = fopen(folder.file, "rb");
    assert_non_null(in);
    size_t size = fread(bytes, 1, room, in);
    fclose(in);
    temporary_close(&folder);
    assert_true(size < room);
    return size;
}

/* Cut anywhere, the file is refused for use; inspection takes it only where the header is whole
 * and none of the data is there. */
static void test_every_truncation(void **state) {
    (void)state;
    unsigned char bytes[4096];
    size_t size = read_sample(bytes, sizeof bytes), accepted = 0, data_bytes = 0;
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
    size_t size = read_sample(bytes, sizeof bytes), refused = 0;
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

/* Types that nothing here reads can be listed; reading them names them. */
static void test_unread_types_are_named(void **state) {
    (void)state;
    static const enum dtype types[] = {
        DTYPE_Q8_1,   DTYPE_Q8_K,  DTYPE_IQ1_S,   DTYPE_IQ1_M, DTYPE_IQ2_XXS,
        DTYPE_IQ2_XS, DTYPE_IQ2_S, DTYPE_IQ3_XXS, DTYPE_IQ3_S, DTYPE_TQ1_0,
        DTYPE_TQ2_0,  DTYPE_MXFP4, DTYPE_I8,      DTYPE_I64,
    };
    struct temporary folder;
    temporary_open(&folder);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        const char *type = dtype_info(types[i])->name;
        struct tensor_spec spec = {"weight", types[i], 2, {1, 256}};
        struct gguf_metadata metadata = {0};
        struct tensor_sink sink;
        struct model_file file;
        unsigned char bytes[2400] = {0};
        float values[256];
        assert_ok(gguf_create(&sink, temporary_file(&folder, "x.gguf"), &metadata, &spec, 1));
        assert_int_equal(tensor_sink_append_f32(&sink, values, 256), STATUS_UNSUPPORTED);
        assert_ok(tensor_sink_append(&sink, bytes, dtype_bytes(types[i], 256)));
        assert_ok(tensor_sink_finish(&sink));
        tensor_sink_close(&sink);
        assert_ok(model_file_open(&file, folder.file, false));
        assert_int_equal(file.tensors[0].dtype, types[i]);
        assert_int_equal(file_tensor_read_f32(&file.tensors[0], 0, 256, values),
                         STATUS_UNSUPPORTED);
        assert_non_null(strstr(status_message(), type));
        assert_non_null(strstr(status_message(), "tensor weight"));
        model_file_close(&file);
    }
    temporary_close(&folder);
}

static void expect_no_create(struct temporary *folder, const struct gguf_metadata *metadata,
                             const struct tensor_spec *bad, int count, const char *reason) {
    struct tensor_sink sink;
    assert_int_not_equal(gguf_create(&sink, temporary_file(folder, "x.gguf"), metadata, bad, count),
                         STATUS_OK);
    if (!strstr(status_message(), reason))
        fail_msg("'%s' does not say '%s'", status_message(), reason);
    assert_non_null(strstr(status_message(), "x.gguf: "));
    assert_int_equal(temporary_count(folder, 0), 0);
}

static void test_the_writer_refuses(void **state) {
    (void)state;
    struct temporary folder;
    struct gguf_metadata metadata = {0}, none = {0};
    temporary_open(&folder);
    gguf_put_u32(&metadata, "key", 1);
    gguf_put_u32(&metadata, "key", 2);
    expect_no_create(&folder, &metadata, NULL, 0, "metadata key key is there twice");
    gguf_metadata_free(&metadata);
    gguf_put_u32(&metadata, "general.alignment", 64);
    expect_no_create(&folder, &metadata, NULL, 0, "general.alignment must not be set");
    struct tensor_spec same[2] = {{"t", DTYPE_F32, 1, {8}}, {"t", DTYPE_F32, 1, {8}}};
    expect_no_create(&folder, &none, same, 2, "tensor t is there twice");
    struct tensor_spec odd = {"t", DTYPE_Q8_0, 2, {2, 48}};
    expect_no_create(&folder, &none, &odd, 1, "rows of 48 elements can't be stored as Q8_0");
    struct tensor_spec foreign = {"t", DTYPE_F8_E4M3, 1, {8}};
    expect_no_create(&folder, &none, &foreign, 1, "GGUF has no F8_E4M3");
    struct tensor_spec huge = {"t", DTYPE_F32, 2, {INT64_MAX, 2}};
    expect_no_create(&folder, &none, &huge, 1, "overflows");
    gguf_metadata_free(&metadata);
    temporary_close(&folder);
}

/* A value copied from file to file is the same value. */
static void test_values_are_copied(void **state) {
    (void)state;
    unsigned char bytes[4096];
    size_t size = read_sample(bytes, sizeof bytes);
    struct model_file file, copy;
    struct temporary folder;
    struct gguf_metadata metadata = {0};
    struct tensor_sink sink;
    temporary_open(&folder);
    assert_ok(model_file_open_bytes(&file, bytes, size, "x.gguf", false));
    for (int i = 0; i < file.value_count; i++) gguf_put_value(&metadata, &file.values[i]);
    struct gguf_value alignment = {.key = {"general.alignment", 17},
                                   .type = GGUF_U32,
                                   .element_type = GGUF_U32,
                                   .count = 1,
                                   .data = "\100\0\0"};
    gguf_put_value(&metadata, &alignment); /* dropped */
    assert_ok(gguf_create(&sink, temporary_file(&folder, "copy.gguf"), &metadata, NULL, 0));
    assert_ok(tensor_sink_finish(&sink));
    tensor_sink_close(&sink);
    assert_ok(model_file_open(&copy, folder.file, false));
    check_values(&copy);
    model_file_close(&copy);
    model_file_close(&file);
    gguf_metadata_free(&metadata);
    temporary_close(&folder);
}

/* The system's limit on file sizes stands for a full disk. */
static void test_a_full_disk_leaves_the_old_file(void **state) {
    (void)state;
    struct temporary folder;
    struct rlimit before, limit;
    temporary_open(&folder);
    temporary_write(&folder, "x.gguf", "old", 3);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 65536;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    struct tensor_spec large = {"t", DTYPE_F32, 1, {1 << 20}};
    struct gguf_metadata none = {0};
    struct tensor_sink sink;
    enum status status = gguf_create(&sink, temporary_file(&folder, "x.gguf"), &none, &large, 1);
    char reserving[1024];
    snprintf(reserving, sizeof reserving, "%s", status_message());
    struct atomic_file file;
    static const char zeros[70000];
    assert_ok(atomic_file_create(&file, folder.file, 0));
    enum status writing = atomic_file_write(&file, 0, zeros, sizeof zeros);
    atomic_file_close(&file);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, STATUS_IO);
    assert_non_null(strstr(reserving, "x.gguf: can't reserve its "));
    assert_int_equal(writing, STATUS_IO);
    assert_non_null(strstr(status_message(), "x.gguf: can't write it: "));
    assert_int_equal(temporary_count(&folder, 0), 1);
    FILE *in = fopen(temporary_file(&folder, "x.gguf"), "rb");
    char old[8] = {0};
    assert_int_equal(fread(old, 1, sizeof old, in), 3);
    assert_string_equal(old, "old");
    fclose(in);
    temporary_close(&folder);
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
        cmocka_unit_test(test_what_is_written_reads_back),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_byte_changed),
        cmocka_unit_test(test_bad_headers_are_refused),
        cmocka_unit_test(test_bad_values_are_refused),
        cmocka_unit_test(test_bad_tensors_are_refused),
        cmocka_unit_test(test_header_only_files),
        cmocka_unit_test(test_a_part_of_a_split_model),
        cmocka_unit_test(test_unread_types_are_named),
        cmocka_unit_test(test_the_writer_refuses),
        cmocka_unit_test(test_values_are_copied),
        cmocka_unit_test(test_a_full_disk_leaves_the_old_file),
        cmocka_unit_test(test_real_files_hold_the_same_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
