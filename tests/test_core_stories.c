/* A model that others trained (260 k parameters): what its safetensors and its GGUF files compute,
 * against float64 references. */
#include "tests/fixture.h"
#include "tests/forward_f64.h"

#include "core/json_util.h"

static const double tolerance = 1e-4;

static void open_at(struct model_file *file, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", test_data_or_skip(), name);
    assert_ok(model_file_open(file, path, false));
}

static void load_at(struct model *model, const char *name) {
    struct model_file file;
    open_at(&file, name);
    assert_ok(model_load(model, &file, NULL, LAYOUT_PANEL_F32, 0, 2));
    model_file_close(&file);
}

static float *values_of(const struct model_file *file, const char *name, int64_t *count) {
    const struct file_tensor *tensor = model_file_find(file, name);
    if (!tensor) fail_msg("no tensor %s", name);
    float *values = malloc((size_t)tensor->elements * sizeof *values);
    assert_ok(file_tensor_read_f32(tensor, 0, tensor->elements, values));
    *count = tensor->elements;
    return values;
}

static int32_t *ids_of(const struct model_file *file, const char *name, int64_t *count) {
    const struct file_tensor *tensor = model_file_find(file, name);
    assert_true(tensor && tensor->dtype == DTYPE_I32);
    *count = tensor->elements;
    int32_t *ids = malloc(tensor->bytes);
    memcpy(ids, tensor->data, tensor->bytes);
    return ids;
}

/* What the first layer reads, and what each layer leaves. */
static void check_hidden(const struct model_file *golden, const struct model *model,
                         const int32_t *ids, int64_t count, const float *hidden) {
    int64_t elements, width = model->config.hidden, vocab = model->config.vocab;
    float *want = values_of(golden, "p0.embed", &elements);
    float *table = malloc((size_t)(vocab * width) * sizeof *table);
    assert_int_equal(elements, count * width);
    param_read(table, model_param(model, WEIGHT_EMBED, -1), 0, vocab);
    for (int64_t t = 0; t < count; t++)
        assert_all_close(table + ids[t] * width, want + t * width, (size_t)width, tolerance, 0.0,
                         "embedding");
    free(table);
    free(want);
    for (int layer = 0; layer < model->config.layers; layer++) {
        char name[32];
        snprintf(name, sizeof name, "p0.layer%d", layer);
        want = values_of(golden, name, &elements);
        assert_int_equal(elements, count * width);
        assert_all_close(hidden + layer * elements, want, (size_t)elements, tolerance, 0.0, name);
        free(want);
    }
}

/* The same weights as safetensors and as GGUF, F32 both. */
static const char *const golden_models[] = {"stories260k/hf",
                                            "gguf_stories260k_quantised/stories260K-F32.gguf"};
enum { GOLDEN_MODELS = 2 };

static void check_prompts(const char *name_of_model) {
    struct model model;
    struct model_file golden;
    load_at(&model, name_of_model);
    open_at(&golden, "stories260k/golden/logits.safetensors");
    for (int prompt = 0; prompt < 3; prompt++) {
        char name[32];
        int64_t count, elements;
        snprintf(name, sizeof name, "p%d.ids", prompt);
        int32_t *ids = ids_of(&golden, name, &count);
        snprintf(name, sizeof name, "p%d.logits", prompt);
        float *want = values_of(&golden, name, &elements);
        assert_int_equal(elements, count * model.config.vocab);
        float *hidden =
            malloc((size_t)(model.config.layers * count * model.config.hidden) * sizeof *hidden);
        float *got = model_logits(&model, ids, count, hidden);
        assert_all_close(got, want, (size_t)elements, tolerance, 0.0, name);
        if (prompt == 0) check_hidden(&golden, &model, ids, count, hidden);
        free(hidden);
        free(got);
        free(want);
        free(ids);
    }
    model_file_close(&golden);
    model_free(&model);
}

static void test_logits_and_hidden_states(void **state) {
    (void)state;
    for (int i = 0; i < GOLDEN_MODELS; i++) check_prompts(golden_models[i]);
}

static void test_whole_context(void **state) {
    (void)state;
    struct model model;
    struct model_file golden;
    load_at(&model, "stories260k/hf");
    open_at(&golden, "stories260k/golden/logits.safetensors");
    int64_t count, elements, vocab = model.config.vocab;
    int32_t *ids = ids_of(&golden, "long.ids", &count);
    float *logits = model_logits(&model, ids, count, NULL);
    float *last = values_of(&golden, "long.last_logits", &elements);
    assert_int_equal(elements, vocab);
    assert_all_close(logits + (count - 1) * vocab, last, (size_t)vocab, tolerance, 0.0, "last");
    float *nll = values_of(&golden, "long.nll", &elements);
    assert_int_equal(elements, count - 1);
    for (int64_t t = 0; t + 1 < count; t++) {
        double sum = 0.0;
        for (int64_t v = 0; v < vocab; v++) sum += exp((double)logits[t * vocab + v]);
        float got = (float)(log(sum) - (double)logits[t * vocab + ids[t + 1]]);
        assert_all_close(&got, &nll[t], 1, tolerance, 0.0, "loss of a token");
    }
    free(nll);
    free(last);
    free(logits);
    free(ids);
    model_file_close(&golden);
    model_free(&model);
}

static int32_t largest(const float *row, int64_t vocab) {
    int32_t best = 0;
    for (int32_t v = 1; v < vocab; v++)
        if (row[v] > row[best]) best = v;
    return best;
}

/* Greedy text: each token is the argmax after those before it, which one forward over the whole
 * expected text asks at once. */
static void check_greedy(const struct model *model, const json_t *entry) {
    const json_t *list = json_object_get(entry, "ids");
    size_t prompt = json_array_size(json_object_get(entry, "prompt_ids"));
    size_t count = json_array_size(list);
    int32_t *ids = malloc(count * sizeof *ids);
    assert_true(prompt > 0 && count > prompt);
    for (size_t i = 0; i < count; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    float *logits = model_logits(model, ids, (int64_t)count, NULL);
    for (size_t i = prompt; i < count; i++)
        assert_int_equal(
            largest(logits + (int64_t)(i - 1) * model->config.vocab, model->config.vocab), ids[i]);
    free(logits);
    free(ids);
}

static void test_greedy_text(void **state) {
    (void)state;
    char path[1024];
    struct model model;
    json_t *root, *entry;
    size_t i;
    snprintf(path, sizeof path, "%s/stories260k/golden/greedy.json", test_data_or_skip());
    assert_ok(json_parse_file(&root, path));
    assert_int_equal(json_array_size(root), 6);
    for (int m = 0; m < GOLDEN_MODELS; m++) {
        load_at(&model, golden_models[m]);
        json_array_foreach(root, i, entry) check_greedy(&model, entry);
        model_free(&model);
    }
    json_decref(root);
}

static void assert_near(const float *got, const double *want, int64_t count, const char *what) {
    for (int64_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - want[i]) <= tolerance))
            fail_msg("%s[%lld]: got %.9g, want %.9g", what, (long long)i, (double)got[i], want[i]);
}

static void check_gguf(const char *name, const int32_t *ids, int count) {
    struct model_file file;
    struct model model;
    struct network_f64 network;
    char what[256];
    open_at(&file, name);
    network_f64_read_gguf(&network, &file);
    int64_t logits = (int64_t)count * network.vocab;
    int64_t streams = (int64_t)network.layers * count * network.width;
    double *want_hidden = malloc((size_t)streams * sizeof *want_hidden);
    double *want = network_f64_logits(&network, ids, count, want_hidden);
    assert_ok(model_load(&model, &file, NULL, LAYOUT_PANEL_F32, 0, 2));
    assert_int_equal(model.config.vocab, network.vocab);
    float *hidden = malloc((size_t)streams * sizeof *hidden);
    float *got = model_logits(&model, ids, count, hidden);
    snprintf(what, sizeof what, "%s: hidden", name);
    assert_near(hidden, want_hidden, streams, what);
    assert_near(got, want, logits, name);
    free(hidden);
    free(got);
    free(want);
    free(want_hidden);
    network_f64_free(&network);
    model_free(&model);
    model_file_close(&file);
}

static void test_gguf_files_against_float64(void **state) {
    (void)state;
    static const char *const names[] = {
        "F32",         "F16",         "Q4_K_M_fallback", "pad192-BF16", "pad192-Q8_0",
        "pad192-Q4_0", "pad192-Q4_1", "pad192-Q5_0",     "pad192-Q5_1", "pad192-IQ4_NL"};
    struct model_file golden;
    int64_t count;
    open_at(&golden, "stories260k/golden/logits.safetensors");
    int32_t *ids = ids_of(&golden, "p0.ids", &count);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[128];
        snprintf(name, sizeof name, "gguf_stories260k_quantised/stories260K-%s.gguf", names[i]);
        check_gguf(name, ids, (int)count);
    }
    check_gguf("gguf_stories260k_quantised/random256-Q4_K_M.gguf", ids, 24);
    check_gguf("llama2_tiny_random_gguf/llama-2-tiny-random.gguf", ids, 24);
    free(ids);
    model_file_close(&golden);
}

/* The float64 forward is a reference itself: on the file in F32 it gives the golden logits. */
static void test_float64_forward_is_the_golden_one(void **state) {
    (void)state;
    struct model_file golden, file;
    struct network_f64 network;
    int64_t count, elements;
    open_at(&golden, "stories260k/golden/logits.safetensors");
    open_at(&file, "gguf_stories260k_quantised/stories260K-F32.gguf");
    int32_t *ids = ids_of(&golden, "p1.ids", &count);
    float *want = values_of(&golden, "p1.logits", &elements);
    network_f64_read_gguf(&network, &file);
    double *got = network_f64_logits(&network, ids, (int)count, NULL);
    for (int64_t i = 0; i < elements; i++)
        assert_true(fabs(got[i] - (double)want[i]) <= 2e-6 * (1.0 + fabs(got[i])));
    free(got);
    free(want);
    free(ids);
    network_f64_free(&network);
    model_file_close(&file);
    model_file_close(&golden);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_and_hidden_states),
        cmocka_unit_test(test_whole_context),
        cmocka_unit_test(test_greedy_text),
        cmocka_unit_test(test_float64_forward_is_the_golden_one),
        cmocka_unit_test(test_gguf_files_against_float64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
