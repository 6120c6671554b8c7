#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "core/json_util.h"
#include "core/model_config.h"
#include "core/safetensors_write.h"
#include "kernels/base/printable.h"

/* A file of this header text and so many bytes of zeros; in memory of exactly its size, so that
 * the address sanitizer sees a read past it. */
static unsigned char *build(const char *header, size_t data_bytes, size_t *size) {
    uint64_t length = strlen(header);
    *size = 8 + length + data_bytes;
    unsigned char *bytes = calloc(1, *size);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    return bytes;
}

static enum status open_exact(const void *data, size_t bytes, bool header_only) {
    unsigned char *copy = malloc(bytes ? bytes : 1);
    memcpy(copy, data, bytes);
    struct model_file file;
    enum status status = model_file_open_bytes(&file, copy, bytes, "x.safetensors", header_only);
    float values[256];
    for (int i = 0; status == STATUS_OK && i < file.tensor_count; i++)
        if (file.tensors[i].elements <= 256 && file.tensors[i].data)
            (void)file_tensor_read_f32(&file.tensors[i], 0, file.tensors[i].elements, values);
    if (status == STATUS_OK) model_file_close(&file);
    if (status != STATUS_OK) assert_null(strchr(status_message(), '\n'));
    free(copy);
    return status;
}

static void test_bad_headers_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *reason;
    } cases[] = {
        {"", 0, "not valid JSON"},
        {"[]", 0, "not a JSON object"},
        {"{", 0, "not valid JSON"},
        {"{}x", 0, "not valid JSON"},
        {"{}", 1, "the tensors take 0 bytes, the file has 1"},
        {"{\"a\":1}", 0, "tensor a must be an object"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor a: dtype is missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor a: shape is missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets is missing"},
        {"{\"a\":{\"dtype\":\"Q4_0\",\"shape\":[32],\"data_offsets\":[0,18]}}", 18,
         "dtype Q4_0 is unknown"},
        {"{\"a\\n\":{\"dtype\":\"X\\u001b\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "tensor a\\x0a: dtype X\\x1b is unknown"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "shape[0]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "shape[0]"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
         "9 dimensions"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
         "its shape overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3037000500,3037000500],\"data_offsets\":[0,0]}}", 0,
         "its shape overflows"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "two integers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "reversed"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "negative"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
         "span 8 bytes, its shape needs 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "has a gap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
         6, "tensor b begins at 2, expected 4: the data overlaps"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, "duplicate object key"},
        {"{\"__metadata__\":[]}", 0, "__metadata__ must be an object"},
        {"{\"__metadata__\":{\"n\":1}}", 0, "__metadata__: n must be a string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t size;
        unsigned char *bytes = build(cases[i].header, cases[i].data_bytes, &size);
        if (open_exact(bytes, size, true) == STATUS_OK) fail_msg("accepted %s", cases[i].header);
        if (!strstr(status_message(), cases[i].reason))
            fail_msg("refused with '%s', expected '%s'", status_message(), cases[i].reason);
        assert_non_null(strstr(status_message(), "x.safetensors: "));
        free(bytes);
    }
}

static void test_deep_nesting_is_refused(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    char *header = malloc(2 * DEPTH + 16);
    size_t size, used = (size_t)sprintf(header, "{\"a\":");
    memset(header + used, '[', DEPTH);
    memset(header + used + DEPTH, ']', DEPTH);
    strcpy(header + used + (size_t)2 * DEPTH, "}");
    unsigned char *bytes = build(header, 0, &size);
    assert_int_equal(open_exact(bytes, size, true), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "nested deeper than 128"));
    free(bytes);
    free(header);
    /* brackets inside a string are text */
    json_t *root;
    char text[1024] = "[\"\\\"";
    memset(text + 4, '[', 900);
    strcpy(text + 904, "\"]");
    assert_ok(json_parse_bytes(&root, text, strlen(text), "text", JSON_REJECT_DUPLICATES));
    json_decref(root);
}

static const struct tensor_spec specs[] = {
    {"byte", DTYPE_U8, 1, {3}},
    {"half.weight", DTYPE_F16, 2, {2, 3}},
    {"wide \"\\\n\xc3\xa9", DTYPE_F32, 3, {2, 1, 2}},
    {"none", DTYPE_F32, 2, {4, 0}},
    {"scalar", DTYPE_F64, 0, {0}},
    {"brain", DTYPE_BF16, 1, {5}},
};
enum { SPECS = sizeof specs / sizeof *specs };

static float value_of(int tensor, int64_t element) {
    return (float)(tensor * 10 + element) * 0.5f;
}

static void write_sample(const char *path, const struct tensor_spec *tensors, int count) {
    static const struct file_note notes[] = {{"format", "pt"}, {"note", "a \"quoted\" line"}};
    struct tensor_sink sink;
    assert_ok(safetensors_create(&sink, path, tensors, count, notes, 2));
    for (int i = 0; i < count; i++) {
        int64_t elements = 1;
        for (int d = 0; d < tensors[i].dims; d++) elements *= tensors[i].shape[d];
        for (int64_t e = 0; e < elements; e++) { /* one at a time: streaming */
            float value = value_of(i, e);
            double wide = (double)value;
            unsigned char byte = (unsigned char)e;
            if (tensors[i].dtype == DTYPE_U8)
                assert_ok(tensor_sink_append(&sink, &byte, 1));
            else if (tensors[i].dtype == DTYPE_F64)
                assert_ok(tensor_sink_append(&sink, &wide, sizeof wide));
            else
                assert_ok(tensor_sink_append_f32(&sink, &value, 1));
        }
    }
    assert_ok(tensor_sink_finish(&sink));
    tensor_sink_close(&sink);
}

static void check_tensor(const struct model_file *file, int i) {
    const struct file_tensor *tensor = model_file_find(file, specs[i].name);
    assert_non_null(tensor);
    assert_int_equal(tensor->dtype, specs[i].dtype);
    assert_int_equal(tensor->dims, specs[i].dims);
    for (int d = 0; d < tensor->dims; d++) assert_int_equal(tensor->shape[d], specs[i].shape[d]);
    if (tensor->dtype == DTYPE_U8) {
        assert_memory_equal(tensor->data, "\0\1\2", 3);
        return;
    }
    float values[8];
    assert_ok(file_tensor_read_f32(tensor, 0, tensor->elements, values));
    for (int64_t e = 0; e < tensor->elements; e++) assert_true(values[e] == value_of(i, e));
}

static void test_what_is_written_reads_back(void **state) {
    (void)state;
    struct temporary folder;
    struct model_file file;
    temporary_open(&folder);
    write_sample(temporary_file(&folder, "model.safetensors"), specs, SPECS);
    assert_int_equal(temporary_count(&folder, 0), 1);
    assert_ok(model_file_open(&file, folder.path, false)); /* the folder finds its model */
    assert_int_equal(file.format, MODEL_SAFETENSORS);
    assert_string_equal(file.directory, folder.path);
    assert_int_equal(file.tensor_count, SPECS);
    for (int i = 0; i < SPECS; i++) check_tensor(&file, i);
    for (int i = 0; i < SPECS; i++) { /* the mapping starts on a page: data is aligned */
        const struct file_tensor *tensor = &file.tensors[i];
        size_t align = (size_t)dtype_info(tensor->dtype)->block_bytes;
        assert_int_equal((uintptr_t)tensor->data % align, 0);
    }
    assert_int_equal(file.note_count, 2);
    assert_string_equal(file.notes[0].key, "format");
    assert_string_equal(file.notes[0].value, "pt");
    assert_string_equal(file.notes[1].value, "a \"quoted\" line");
    float value;
    assert_int_equal(file_tensor_read_f32(model_file_find(&file, "byte"), 0, 1, &value),
                     STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "tensor byte is stored as U8"));
    model_file_close(&file);
    uint64_t header;
    FILE *in = fopen(temporary_file(&folder, "model.safetensors"), "rb");
    assert_int_equal(fread(&header, 8, 1, in), 1);
    fclose(in);
    assert_int_equal(header % 8, 0);
    temporary_close(&folder);
}

static void test_every_truncation_and_change(void **state) {
    (void)state;
    unsigned char bytes[2048];
    struct temporary folder;
    temporary_open(&folder);
    write_sample(temporary_file(&folder, "x.safetensors"), specs, SPECS);
    FILE *in = fopen(folder.file, "rb");
    size_t size = fread(bytes, 1, sizeof bytes, in), accepted = 0;
    fclose(in);
    temporary_close(&folder);
    uint64_t header;
    memcpy(&header, bytes, 8);
    for (size_t cut = 0; cut < size; cut++) {
        assert_int_not_equal(open_exact(bytes, cut, false), STATUS_OK);
        if (open_exact(bytes, cut, true) != STATUS_OK) continue;
        assert_int_equal(cut, 8 + header);
        accepted++;
    }
    assert_int_equal(accepted, 1);
    static const unsigned char masks[] = {0x01, 0x80, 0xff};
    for (size_t at = 0; at < size; at++)
        for (int m = 0; m < 3; m++) {
            bytes[at] ^= masks[m];
            enum status status = open_exact(bytes, size, false);
            if (at < 8) assert_int_not_equal(status, STATUS_OK);
            bytes[at] ^= masks[m];
        }
    assert_ok(open_exact(bytes, size, false));
}

static void test_the_writer_refuses(void **state) {
    (void)state;
    static const struct {
        struct tensor_spec specs[2];
        const char *reason;
    } cases[] = {
        {{{"t", DTYPE_F32, 1, {2}}, {"t", DTYPE_F32, 1, {2}}}, "tensor t is there twice"},
        {{{"t", DTYPE_F32, 1, {2}}, {"__metadata__", DTYPE_F32, 1, {2}}}, "tensor __metadata__"},
        {{{"t", DTYPE_F32, 1, {2}}, {"\xff", DTYPE_F32, 1, {2}}}, "tensor \\xff"},
        {{{"t", DTYPE_F32, 1, {2}}, {"u", DTYPE_F32, 1, {-2}}}, "tensor u: its shape is negative"},
        {{{"t", DTYPE_F32, 1, {2}}, {"u", DTYPE_Q8_0, 1, {32}}}, "tensor u: dtype Q8_0"},
        {{{"t", DTYPE_F32, 2, {INT64_MAX, 2}}, {"u", DTYPE_F32, 1, {2}}}, "tensor t: its shape"},
    };
    struct temporary folder;
    temporary_open(&folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tensor_sink sink;
        assert_int_not_equal(safetensors_create(&sink, temporary_file(&folder, "x.safetensors"),
                                                cases[i].specs, 2, NULL, 0),
                             STATUS_OK);
        if (!strstr(status_message(), cases[i].reason))
            fail_msg("'%s' does not say '%s'", status_message(), cases[i].reason);
        tensor_sink_close(&sink); /* not needed, and harmless */
    }
    struct tensor_sink sink;
    assert_int_equal(safetensors_create(&sink, "/nonexistent/x.safetensors", specs, 1, NULL, 0),
                     STATUS_IO);
    assert_non_null(strstr(status_message(), "/nonexistent/x.safetensors: can't create it"));
    /* what isn't finished leaves no trace */
    assert_ok(
        safetensors_create(&sink, temporary_file(&folder, "x.safetensors"), specs, 1, NULL, 0));
    tensor_sink_close(&sink);
    assert_int_equal(temporary_count(&folder, 0), 0);
    temporary_close(&folder);
}

static void write_index(struct temporary *folder, const char *map) {
    char index[512];
    int length = snprintf(index, sizeof index,
                          "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {%s}}", map);
    temporary_write(folder, "model.safetensors.index.json", index, (size_t)length);
}

static void test_shards(void **state) {
    (void)state;
    struct temporary folder;
    struct model_file file;
    temporary_open(&folder);
    write_sample(temporary_file(&folder, "model-1.safetensors"), specs, 2);
    write_sample(temporary_file(&folder, "model-2.safetensors"), specs, 3);
    write_index(&folder, "\"half.weight\": \"model-1.safetensors\", \"byte\": "
                         "\"model-1.safetensors\", \"wide \\\"\\\\\\n\xc3\xa9\": "
                         "\"model-2.safetensors\"");
    assert_ok(model_file_open(&file, folder.path, false));
    assert_int_equal(file.tensor_count, 3); /* what the index doesn't name isn't there */
    for (int i = 0; i < 3; i++) check_tensor(&file, i);
    assert_non_null(strstr(model_file_find(&file, "byte")->file, "/model-1.safetensors"));
    assert_non_null(strstr(model_file_find(&file, specs[2].name)->file, "/model-2.safetensors"));
    model_file_close(&file);
    static const struct {
        const char *map, *reason;
    } bad[] = {
        {"\"byte\": \"model-1.safetensors\", \"lost\": \"model-2.safetensors\"",
         "weight_map: tensor lost is not in model-2.safetensors"},
        {"\"byte\": \"../model-1.safetensors\"", "not the name of a file beside it"},
        {"\"byte\": \"/etc/passwd\"", "not the name of a file beside it"},
        {"\"byte\": \"model-3.safetensors\"", "model-3.safetensors: No such file"},
        {"\"byte\": 3", "weight_map: byte must be a file name"},
        {"\"byte\": \"model.safetensors.index.json\"", "not a safetensors file"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_index(&folder, bad[i].map);
        assert_int_not_equal(model_file_open(&file, folder.path, false), STATUS_OK);
        if (!strstr(status_message(), bad[i].reason))
            fail_msg("'%s' does not say '%s'", status_message(), bad[i].reason);
        assert_non_null(strstr(status_message(), "model.safetensors.index.json: "));
        assert_null(file.internal);
    }
    temporary_write(&folder, "model.safetensors.index.json", "{}", 2);
    assert_int_equal(model_file_open(&file, folder.path, false), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "weight_map is missing"));
    temporary_close(&folder);
}

/* What people give for a model, and what they are told to give. */
static void test_what_is_no_model(void **state) {
    (void)state;
    static const struct {
        const char *text, *reason;
        size_t bytes;
    } files[] = {
        {"\x89HDF\r\n\x1a\n", "an HDF5 file; strata inspect shows", 8},
        {"PK\3\4....", "save the model as safetensors", 8},
        {"version https://git-lfs.github.com", "git lfs pull", 34},
        {"# A title", "neither a GGUF nor a safetensors file", 9},
        {"", "neither a GGUF nor a safetensors file", 0},
    };
    static const char adapter[] = "{\"base_model_name_or_path\": \"some/model\"}";
    struct temporary folder;
    struct model_file file;
    struct model_config config;
    temporary_open(&folder);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        temporary_write(&folder, "file", files[i].text, files[i].bytes);
        const char *path = temporary_file(&folder, "file");
        assert_int_equal(model_file_open(&file, path, true), STATUS_FORMAT);
        if (!strstr(status_message(), files[i].reason)) fail_msg("%s", status_message());
        assert_non_null(strstr(status_message(), path));
    }
    remove(temporary_file(&folder, "file"));
    temporary_write(&folder, "adapter_config.json", adapter, sizeof adapter - 1);
    write_sample(temporary_file(&folder, "adapter_model.safetensors"), specs, 1);
    assert_ok(model_file_open(&file, folder.path, false));
    assert_int_equal(model_config_read(&config, &file), STATUS_IO);
    assert_non_null(strstr(status_message(), "an adapter, not a model"));
    assert_non_null(strstr(status_message(), "some/model"));
    model_file_close(&file);
    temporary_close(&folder);
}

static void test_directories(void **state) {
    (void)state;
    struct temporary folder;
    struct model_file file;
    temporary_open(&folder);
    assert_int_equal(model_file_open(&file, folder.path, false), STATUS_IO);
    assert_non_null(strstr(status_message(), "holds no .safetensors or .gguf file"));
    temporary_write(&folder, "index.h5", "", 0);
    assert_int_equal(model_file_open(&file, folder.path, false), STATUS_IO);
    assert_non_null(strstr(status_message(), "a checkpoint, not a model"));
    remove(temporary_file(&folder, "index.h5"));
    write_sample(temporary_file(&folder, "one.safetensors"), specs, 1);
    temporary_write(&folder, "config.json", "{}", 2);
    assert_ok(model_file_open(&file, folder.path, false));
    assert_int_equal(file.tensor_count, 1);
    model_file_close(&file);
    write_sample(temporary_file(&folder, "two.safetensors"), specs, 2);
    assert_int_equal(model_file_open(&file, folder.path, false), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "holds 2 model files"));
    write_sample(temporary_file(&folder, "adapter_model.safetensors"), specs, 3);
    assert_ok(model_file_open(&file, folder.path, false));
    assert_int_equal(file.tensor_count, 3);
    model_file_close(&file);
    assert_int_equal(model_file_open(&file, "/dev/null", true), STATUS_IO);
    assert_non_null(strstr(status_message(), "/dev/null: not a regular file"));
    assert_int_equal(model_file_open(&file, temporary_file(&folder, "absent"), true), STATUS_IO);
    assert_non_null(strstr(status_message(), "absent: No such file"));
    temporary_close(&folder);
}

static void test_json_fields(void **state) {
    (void)state;
    static const char text[] = "{\"i\": 5, \"f\": 0.5, \"b\": true, \"s\": \"x\", \"n\": null, "
                               "\"o\": {}, \"a\": [1], \"i\": 6}";
    json_t *root, *value = NULL;
    int64_t integer = 0;
    double real = 0;
    bool flag = false;
    const char *string = "default";
    assert_int_equal(json_parse_bytes(&root, text, strlen(text), "c.json", JSON_REJECT_DUPLICATES),
                     STATUS_FORMAT);
    assert_null(root);
    assert_ok(json_parse_bytes(&root, text, strlen(text), "c.json", 0));
    assert_ok(json_field_i64(root, "c.json", "i", JSON_REQUIRED, 0, 10, &integer));
    assert_int_equal(integer, 6);
    assert_ok(json_field_f64(root, "c.json", "i", JSON_REQUIRED, &real));
    assert_true(real == 6.0);
    assert_ok(json_field_bool(root, "c.json", "b", JSON_REQUIRED, &flag));
    assert_true(flag);
    assert_ok(json_field_string(root, "c.json", "n", JSON_OPTIONAL, &string));
    assert_ok(json_field_string(root, "c.json", "absent", JSON_OPTIONAL, &string));
    assert_string_equal(string, "default");
    assert_ok(json_field_object(root, "c.json", "o", JSON_REQUIRED, &value));
    assert_ok(json_field_array(root, "c.json", "a", JSON_REQUIRED, &value));
    assert_int_equal(json_array_size(value), 1);
    assert_int_equal(json_field_i64(root, "c.json", "i", JSON_REQUIRED, 7, 9, &integer),
                     STATUS_FORMAT);
    assert_string_equal(status_message(), "c.json: i is 6, must be from 7 to 9");
    assert_int_equal(json_field_i64(root, "c.json", "f", JSON_OPTIONAL, 0, 9, &integer),
                     STATUS_FORMAT);
    assert_string_equal(status_message(), "c.json: f must be an integer");
    assert_int_equal(json_field_string(root, "c.json", "n", JSON_REQUIRED, &string), STATUS_FORMAT);
    assert_string_equal(status_message(), "c.json: n is missing (a string)");
    json_decref(root);
}

static void test_printable(void **state) {
    (void)state;
    char out[16];
    assert_string_equal(printable(out, sizeof out, "a\nb\xff", 4), "a\\x0ab\\xff");
    assert_string_equal(printable(out, sizeof out, "\xc3\xa9\xc2\x9b", 4), "\xc3\xa9\\xc2\\x9b");
    assert_string_equal(printable(out, sizeof out, "abcdefghijklmnop", 16), "abcdefghijkl...");
    static const char *const invalid[] = {"\xc0\x80",     "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                          "\xe0\x80\x80", "\xe2\x82",     "\x80"};
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++)
        assert_int_equal(utf8_character(invalid[i], strlen(invalid[i])), 0);
    assert_int_equal(utf8_character("\xf0\x9f\xa6\x99", 4), 4);
    size_t length;
    char *clean = utf8_clean("a\xff\0b", 4, &length);
    assert_int_equal(length, 6);
    assert_memory_equal(clean, "a\xef\xbf\xbd\0b", 7);
    free(clean);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_headers_are_refused),
        cmocka_unit_test(test_deep_nesting_is_refused),
        cmocka_unit_test(test_what_is_written_reads_back),
        cmocka_unit_test(test_every_truncation_and_change),
        cmocka_unit_test(test_the_writer_refuses),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_what_is_no_model),
        cmocka_unit_test(test_json_fields),
        cmocka_unit_test(test_printable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
