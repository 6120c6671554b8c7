#define _GNU_SOURCE
/* Exports against the models they were made from. That other programs read them alike is checked by
 * tests/peers/check_convert.py. */
#include "tests/fixture.h"
#include "tests/temporary.h"

#include "core/adapter.h"
#include "core/export.h"
#include "kernels/dequantize.h"

static const char *const families[] = {
    "llama",         "llama_tied_llama3", "llama_linear", "llama_yarn",
    "llama_dynamic", "mistral",           "qwen2",        "qwen25",
    "qwen3"};
enum { FAMILIES = sizeof families / sizeof *families, TOKENS = 40 };

static void load(struct model *model, const char *path) {
    struct model_file file;
    assert_ok(model_file_open(&file, path, false));
    assert_ok(model_load(model, &file, NULL, LAYOUT_PANEL_F32, 0, 2));
    model_file_close(&file);
}

static void load_fixture(struct model *model, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "tests/fixtures/%s", name);
    load(model, path);
}

static float *logits_of(const struct model *model) {
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++) ids[i] = (int32_t)((i * i + 3 * i + 1) % model->config.vocab);
    return model_logits(model, ids, TOKENS, NULL);
}

/* The largest difference of the logits of two models. */
static double logits_apart(const struct model *a, const struct model *b) {
    float *x = logits_of(a), *y = logits_of(b);
    double worst = 0.0;
    assert_int_equal(a->config.vocab, b->config.vocab);
    for (int64_t i = 0; i < TOKENS * a->config.vocab; i++)
        worst = fmax(worst, fabs((double)x[i] - (double)y[i]));
    free(x);
    free(y);
    return worst;
}

static enum status export_to(const struct model *model, enum export_format format, enum dtype dtype,
                             const char *path) {
    const struct export_request request = {
        .model = model, .format = format, .dtype = dtype, .path = path};
    return export_model(&request);
}

static void test_safetensors_round_trip(void **state) {
    (void)state;
    struct temporary folder;
    temporary_open(&folder);
    for (int i = 0; i < FAMILIES; i++) {
        struct model before, after;
        load_fixture(&before, families[i]);
        assert_ok(export_to(&before, EXPORT_SAFETENSORS, DTYPE_F32, folder.path));
        load(&after, folder.path);
        assert_int_equal(after.config.family, before.config.family);
        assert_memory_equal(&after.config.rope, &before.config.rope, sizeof after.config.rope);
        assert_memory_equal(after.config.sliding, before.config.sliding,
                            sizeof after.config.sliding);
        assert_int_equal(after.config.window, before.config.window);
        assert_int_equal(after.config.tied, before.config.tied);
        assert_int_equal(after.config.eos_count, before.config.eos_count);
        if (logits_apart(&before, &after) != 0.0) fail_msg("%s: other logits", families[i]);
        model_free(&before);
        model_free(&after);
    }
    temporary_close(&folder);
}

/* GGUF keeps Llama 3's divisors in fp32, so its angles are rounded; all else is the same bits. */
static void test_gguf_round_trip(void **state) {
    (void)state;
    struct temporary folder;
    temporary_open(&folder);
    for (int i = 0; i < FAMILIES; i++) {
        struct model before, after, again;
        const char *path = temporary_file(&folder, "model.gguf");
        load_fixture(&before, families[i]);
        if (before.config.rope.scaling == ROPE_SCALING_DYNAMIC) {
            assert_int_equal(export_to(&before, EXPORT_GGUF, DTYPE_F32, path), STATUS_UNSUPPORTED);
            assert_non_null(strstr(status_message(), "dynamic"));
            assert_int_equal(temporary_count(&folder, 0), 0);
            model_free(&before);
            continue;
        }
        double limit = before.config.rope.scaling == ROPE_SCALING_LLAMA3 ? 1e-5 : 0.0;
        assert_ok(export_to(&before, EXPORT_GGUF, DTYPE_F32, path));
        load(&after, path);
        double apart = logits_apart(&before, &after);
        if (!(apart <= limit)) fail_msg("%s: logits are %g apart", families[i], apart);
        /* what was read from GGUF goes into GGUF as it was, divisors included */
        assert_ok(export_to(&after, EXPORT_GGUF, DTYPE_F32, path));
        load(&again, path);
        assert_true(logits_apart(&after, &again) == 0.0);
        assert_int_equal(after.config.window, before.config.window);
        assert_int_equal(after.config.family, before.config.family);
        model_free(&before);
        model_free(&after);
        model_free(&again);
        assert_int_equal(temporary_count(&folder, 1), 1);
    }
    temporary_close(&folder);
}

/* Every element of every tensor, as the dtype rounds it. */
static void check_rounded(const struct model *before, const struct model *after,
                          const struct model_file *file, enum dtype dtype) {
    for (int i = 0; i < before->param_count; i++) {
        const struct param *x = &before->params[i], *y = &after->params[i];
        char name[WEIGHT_NAME_BYTES];
        if (!x->w.data) continue;
        bool gguf = file->format == MODEL_GGUF, vector = weight_is_vector(x->id);
        if (gguf)
            weight_name_gguf(name, x->id, x->layer);
        else
            weight_name_hf(name, x->id, x->layer);
        const struct file_tensor *tensor = model_file_find(file, name);
        assert_non_null(tensor);
        bool whole = x->w.cols % dtype_info(dtype)->block_elements == 0;
        enum dtype stored = gguf && vector ? DTYPE_F32 : whole ? dtype : DTYPE_F16;
        assert_int_equal(tensor->dtype, stored);
        size_t cols = (size_t)x->w.cols;
        float *want = malloc(2 * cols * sizeof *want), *got = want + cols;
        void *packed = malloc(dtype_bytes(stored, cols));
        for (int64_t row = 0; row < x->w.rows; row++) {
            param_read(want, x, row, 1);
            param_read(got, y, row, 1);
            assert_true(quantize(packed, stored, want, cols));
            assert_true(dequantize(want, stored, packed, cols));
            assert_memory_equal(got, want, cols * sizeof *want);
        }
        free(packed);
        free(want);
    }
}

static void check_dtype(const char *name, enum export_format format, enum dtype dtype) {
    struct temporary folder;
    struct model before, after;
    struct model_file file;
    temporary_open(&folder);
    const char *path = format == EXPORT_GGUF ? temporary_file(&folder, "model.gguf") : folder.path;
    load_fixture(&before, name);
    assert_ok(export_to(&before, format, dtype, path));
    assert_ok(model_file_open(&file, path, false));
    assert_ok(model_load(&after, &file, NULL, LAYOUT_PANEL_F32, 0, 1));
    check_rounded(&before, &after, &file, dtype);
    if (format == EXPORT_SAFETENSORS) assert_int_equal(after.config.dtype, dtype);
    model_file_close(&file);
    model_free(&before);
    model_free(&after);
    temporary_close(&folder);
}

static void test_dtypes(void **state) {
    (void)state;
    static const char *const names[] = {"llama", "mistral", "qwen2"}; /* rows of 32, 40, 32 */
    for (int i = 0; i < 3; i++) {
        check_dtype(names[i], EXPORT_SAFETENSORS, DTYPE_F16);
        check_dtype(names[i], EXPORT_SAFETENSORS, DTYPE_BF16);
        check_dtype(names[i], EXPORT_GGUF, DTYPE_F16);
        check_dtype(names[i], EXPORT_GGUF, DTYPE_BF16);
        check_dtype(names[i], EXPORT_GGUF, DTYPE_Q8_0);
    }
}

static void test_what_cannot_be_written(void **state) {
    (void)state;
    struct temporary folder;
    struct model model;
    temporary_open(&folder);
    load_fixture(&model, "llama");
    assert_int_equal(export_to(&model, EXPORT_SAFETENSORS, DTYPE_Q8_0, folder.path),
                     STATUS_UNSUPPORTED);
    float row[32];
    struct param *param = model_param(&model, WEIGHT_UP, 1);
    assert_int_equal(param->w.cols, 32);
    float rows[16 * 32];
    param_read(rows, param, 16, 16);
    memcpy(row, rows, sizeof row);
    rows[7] = 70000.0f;
    weight_pack(&param->w, 16, 16, rows);
    assert_int_equal(export_to(&model, EXPORT_SAFETENSORS, DTYPE_F16, folder.path), STATUS_NUMERIC);
    assert_non_null(strstr(status_message(), param->name));
    assert_int_equal(temporary_count(&folder, 0), 0); /* no half of a file */
    assert_ok(export_to(&model, EXPORT_SAFETENSORS, DTYPE_BF16, folder.path));
    model.config.window = 8;
    model.config.sliding[0] = true;
    assert_int_equal(
        export_to(&model, EXPORT_GGUF, DTYPE_F32, temporary_file(&folder, "model.gguf")),
        STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "1 of 2 layers"));
    model_free(&model);
    temporary_close(&folder);
}

static void test_companions_come_along(void **state) {
    (void)state;
    struct temporary from, to;
    struct model model;
    temporary_open(&from);
    temporary_open(&to);
    load_fixture(&model, "qwen3");
    temporary_write(&from, "tokenizer.json", "{}", 2);
    temporary_write(&from, "generation_config.json", "[]", 2);
    temporary_write(&from, "x.tiktoken", "", 0);
    temporary_write(&from, "config.json", "old", 3);
    temporary_write(&from, "notes.txt", "mine", 4);
    const struct export_request request = {.model = &model,
                                           .format = EXPORT_SAFETENSORS,
                                           .dtype = DTYPE_F32,
                                           .path = to.path,
                                           .companions = from.path};
    assert_ok(export_model(&request));
    assert_int_equal(temporary_count(&to, 0), 5); /* those three, the weights, config.json */
    FILE *in = fopen(temporary_file(&to, "generation_config.json"), "rb");
    char text[4] = {0};
    assert_non_null(in);
    assert_int_equal(fread(text, 1, sizeof text, in), 2);
    assert_memory_equal(text, "[]", 2);
    fclose(in);
    model_free(&model);
    temporary_close(&from);
    temporary_close(&to);
}

/* Merging equals what PEFT merges, and the export holds it. */
static void test_merged_adapter(void **state) {
    (void)state;
    struct temporary folder;
    struct model model, merged;
    struct adapter adapter;
    struct model_file expected;
    int checked = 0;
    temporary_open(&folder);
    load_fixture(&model, "llama");
    assert_ok(adapter_load(&adapter, "test", &model, "tests/fixtures/lora_llama_qv_rslora"));
    assert_ok(adapter_merge(&adapter, &model));
    assert_ok(export_to(&model, EXPORT_SAFETENSORS, DTYPE_F32, folder.path));
    load(&merged, folder.path);
    assert_ok(model_file_open(&expected, "tests/fixtures/lora_llama_qv_rslora/expected.safetensors",
                              false));
    for (int i = 0; i < merged.param_count; i++) {
        const struct param *param = &merged.params[i];
        char name[sizeof param->name + 16];
        snprintf(name, sizeof name, "merged.%s", param->name);
        const struct file_tensor *tensor = param->w.data ? model_file_find(&expected, name) : NULL;
        if (!tensor) continue;
        float *want = malloc(2 * (size_t)tensor->elements * sizeof *want);
        float *got = want + tensor->elements;
        assert_ok(file_tensor_read_f32(tensor, 0, tensor->elements, want));
        param_read(got, param, 0, param->w.rows);
        assert_all_close(got, want, (size_t)tensor->elements, 1e-6, 1e-6, name);
        free(want);
        checked++;
    }
    assert_int_equal(checked, 4); /* q and v of two layers */
    model_file_close(&expected);
    adapter_free(&adapter);
    model_free(&model);
    model_free(&merged);
    temporary_close(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safetensors_round_trip),
        cmocka_unit_test(test_gguf_round_trip),
        cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_what_cannot_be_written),
        cmocka_unit_test(test_companions_come_along),
        cmocka_unit_test(test_merged_adapter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
