/* GGUF files as they are written: what reads back, what is refused, what stays when a disk is full.
 */
#define _GNU_SOURCE
#include "tests/gguf_sample.h"
#include "tests/temporary.h"

#include <signal.h>
#include <sys/resource.h>

static void test_what_is_written_reads_back(void **state) {
    (void)state;
    struct temporary folder;
    struct model_file file;
    temporary_open(&folder);
    gguf_sample_write(temporary_file(&folder, "sample.gguf"));
    assert_int_equal(temporary_count(&folder, 0), 1);
    assert_ok(model_file_open(&file, folder.file, false));
    assert_int_equal(file.format, MODEL_GGUF);
    assert_int_equal(file.gguf_version, 3);
    assert_int_equal(file.alignment, 32);
    assert_true(file.data_present);
    assert_string_equal(file.directory, folder.path);
    gguf_sample_check_values(&file);
    assert_int_equal(file.tensor_count, GGUF_SAMPLE_TENSORS);
    for (int i = 0; i < GGUF_SAMPLE_TENSORS; i++) {
        const struct file_tensor *tensor = model_file_find(&file, gguf_sample_specs[i].name);
        assert_ptr_equal(tensor, &file.tensors[i]);
        assert_int_equal(tensor->dtype, gguf_sample_specs[i].dtype);
        assert_int_equal(tensor->dims, gguf_sample_specs[i].dims);
        for (int d = 0; d < tensor->dims; d++)
            assert_int_equal(tensor->shape[d], gguf_sample_specs[i].shape[d]);
        float values[128];
        assert_ok(file_tensor_read_f32(tensor, 0, tensor->elements, values));
        for (int64_t e = 0; e < tensor->elements; e++)
            assert_true(values[e] == gguf_sample_value(i, e));
    }
    assert_null(model_file_find(&file, "fir"));
    float part[32];
    assert_ok(file_tensor_read_f32(model_file_find(&file, "eight"), 96, 32, part));
    assert_true(part[31] == gguf_sample_value(5, 127));
    model_file_close(&file);
    model_file_close(&file);
    temporary_close(&folder);
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
    size_t size = gguf_sample_read(bytes, sizeof bytes);
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
    gguf_sample_check_values(&copy);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_reads_back),
        cmocka_unit_test(test_unread_types_are_named),
        cmocka_unit_test(test_the_writer_refuses),
        cmocka_unit_test(test_values_are_copied),
        cmocka_unit_test(test_a_full_disk_leaves_the_old_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
