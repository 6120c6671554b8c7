#define _GNU_SOURCE
#include "tests/gguf_sample.h"

#include "tests/temporary.h"

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

const struct tensor_spec gguf_sample_specs[GGUF_SAMPLE_TENSORS] = {
    {"first", DTYPE_F32, 2, {3, 5}}, {"empty", DTYPE_F32, 2, {0, 4}},
    {"scalar", DTYPE_F32, 0, {0}},   {"half", DTYPE_F16, 3, {2, 2, 3}},
    {"brain", DTYPE_BF16, 1, {7}},   {"eight", DTYPE_Q8_0, 2, {2, 64}},
};

float gguf_sample_value(int tensor, int64_t element) {
    return (float)(element % 32 == 0 ? 127 : (tensor * 13 + element * 7) % 100 - 50);
}

void gguf_sample_write(const char *path) {
    struct gguf_metadata metadata = {0};
    struct tensor_sink sink;
    put_everything(&metadata);
    assert_ok(gguf_create(&sink, path, &metadata, gguf_sample_specs, GGUF_SAMPLE_TENSORS));
    for (int i = 0; i < GGUF_SAMPLE_TENSORS; i++) {
        int64_t elements = 1;
        for (int d = 0; d < gguf_sample_specs[i].dims; d++)
            elements *= gguf_sample_specs[i].shape[d];
        if (elements == 0) continue;
        assert_string_equal(tensor_sink_current(&sink), gguf_sample_specs[i].name);
        float values[128];
        for (int64_t e = 0; e < elements; e++) values[e] = gguf_sample_value(i, e);
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

void gguf_sample_check_values(const struct model_file *file) {
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

size_t gguf_sample_read(unsigned char *bytes, size_t room) {
    struct temporary folder;
    temporary_open(&folder);
    gguf_sample_write(temporary_file(&folder, "sample.gguf"));
    FILE *in = fopen(folder.file, "rb");
    assert_non_null(in);
    size_t size = fread(bytes, 1, room, in);
    fclose(in);
    temporary_close(&folder);
    assert_true(size < room);
    return size;
}
