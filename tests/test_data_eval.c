#define _GNU_SOURCE
/* Evaluation of whole sequences: what it writes, and what of its input it refuses. That the numbers
 * are transformers' is checked with gradients by tests/peers/check_eval.py, here for one family. */
#include "tests/fixture.h"
#include "tests/temporary.h"

#include "core/options.h"
#include "data/evaluate.h"
#include "data/token_file.h"

/* The sequences of a fixture as evaluate wants them. */
static void take_lines(struct token_lines *lines, const struct fixture *f,
                       struct temporary *folder) {
    char text[4096];
    size_t used = 0;
    const struct batch *batch = &f->packed.batch;
    for (int i = 0; i < f->sequences; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "{\"tokens\": [");
        for (int32_t t = batch->segments.start[i]; t < batch->segments.start[i + 1]; t++)
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%d",
                                     t > batch->segments.start[i] ? ", " : "", batch->ids[t]);
        used += (size_t)snprintf(text + used, sizeof text - used, "]}\n\n");
    }
    temporary_write(folder, "tokens.jsonl", text, used);
    assert_ok(
        token_lines_read(lines, temporary_file(folder, "tokens.jsonl"), f->model.config.vocab, 48));
    assert_int_equal(lines->count, f->sequences);
    assert_int_equal(lines->ids.count, batch->tokens);
}

static void check_tensor(const struct model_file *found, const char *name, const struct fixture *f,
                         const char *expected) {
    int64_t count;
    float *want = fixture_expected(f, expected, &count);
    const struct file_tensor *tensor = model_file_find(found, name);
    if (!tensor) fail_msg("no tensor %s", name);
    assert_int_equal(tensor->dtype, DTYPE_F32);
    assert_int_equal(tensor->elements, count);
    float *got = malloc((size_t)count * sizeof *got);
    assert_ok(file_tensor_read_f32(tensor, 0, count, got));
    assert_all_close(got, want, (size_t)count, 1e-4, 1e-4, name);
    free(got);
    free(want);
}

static void check_files(const struct fixture *f, struct temporary *folder, int trained) {
    struct model_file found;
    int gradients = 0;
    assert_ok(model_file_open(&found, temporary_file(folder, "logits.safetensors"), false));
    assert_int_equal(found.tensor_count, f->sequences + 1);
    for (int i = 0; i < f->sequences; i++) {
        char name[32];
        snprintf(name, sizeof name, "logits.%d", i);
        check_tensor(&found, name, f, name);
    }
    check_tensor(&found, "loss", f, "loss");
    model_file_close(&found);
    assert_ok(model_file_open(&found, temporary_file(folder, "gradients.safetensors"), false));
    for (int i = 0; i < f->expected.tensor_count; i++) {
        const char *name = f->expected.tensors[i].name;
        if (strncmp(name, "grad.", 5) != 0) continue;
        check_tensor(&found, name + 5, f, name);
        gradients++;
    }
    check_tensor(&found, "loss", f, "loss");
    assert_int_equal(gradients, trained);
    assert_int_equal(found.tensor_count, gradients + 1);
    model_file_close(&found);
}

static void check_fixture(const char *name, const char *base, int trained) {
    struct fixture f;
    struct temporary folder;
    struct adapter adapter = {0};
    struct token_lines lines = {0};
    struct evaluate_result result;
    bool adapted = strcmp(name, base) != 0;
    char path[256], logits[512], gradients[512];
    temporary_open(&folder);
    fixture_open(&f, name, base, "auto");
    take_lines(&lines, &f, &folder);
    snprintf(path, sizeof path, "tests/fixtures/%s", name);
    if (adapted) assert_ok(adapter_load(&adapter, "test", &f.model, path));
    snprintf(logits, sizeof logits, "%s/logits.safetensors", folder.path);
    snprintf(gradients, sizeof gradients, "%s/gradients.safetensors", folder.path);
    const struct evaluate_request request = {.model = &f.model,
                                             .adapter = adapted ? &adapter : NULL,
                                             .kernels = f.ws.exec.k,
                                             .threads = 2,
                                             .lines = &lines,
                                             .logits = logits,
                                             .gradients = gradients};
    assert_ok(evaluate(&request, &result));
    assert_int_equal(result.tokens, 89);
    assert_int_equal(result.predicted, 85);
    check_files(&f, &folder, trained);
    for (int i = 0; i < f.model.param_count; i++) assert_null(f.model.params[i].grad.data);
    adapter_free(&adapter);
    token_lines_free(&lines);
    fixture_close(&f);
    temporary_close(&folder);
}

static void test_matches_transformers_and_peft(void **state) {
    (void)state;
    check_fixture("qwen2", "qwen2", 26);
    check_fixture("lora_llama_qv_rslora", "llama", 8);
}

/* One token predicts nothing: logits, but no loss and no gradients. */
static void test_nothing_to_predict(void **state) {
    (void)state;
    struct fixture f;
    struct temporary folder;
    struct token_lines lines = {0};
    struct evaluate_result result;
    struct model_file found;
    char logits[512];
    temporary_open(&folder);
    fixture_open(&f, "llama", "llama", "auto");
    temporary_write(&folder, "tokens.jsonl", "{\"tokens\": [3]}", 15);
    assert_ok(token_lines_read(&lines, temporary_file(&folder, "tokens.jsonl"), 96, 48));
    snprintf(logits, sizeof logits, "%s/logits.safetensors", folder.path);
    struct evaluate_request request = {
        .model = &f.model, .kernels = f.ws.exec.k, .threads = 1, .lines = &lines, .logits = logits};
    assert_ok(evaluate(&request, &result));
    assert_true(isnan(result.loss));
    assert_ok(model_file_open(&found, logits, false));
    assert_int_equal(found.tensor_count, 1);
    model_file_close(&found);
    request.gradients = "nowhere";
    assert_int_equal(evaluate(&request, &result), STATUS_CONFIG);
    token_lines_free(&lines);
    fixture_close(&f);
    temporary_close(&folder);
}

/* More than fits into one batch gives each sequence the logits it has alone. */
static void test_batches_do_not_show(void **state) {
    (void)state;
    enum { SEQUENCES = 90, LENGTH = 48 };
    struct fixture f;
    struct temporary folder;
    struct token_lines lines = {0};
    struct evaluate_result result;
    struct model_file found;
    char logits[512];
    static char text[SEQUENCES * LENGTH * 8];
    size_t used = 0;
    for (int i = 0; i < SEQUENCES; i++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "{\"tokens\": [%d", i);
        for (int t = 1; t < LENGTH; t++)
            used += (size_t)snprintf(text + used, sizeof text - used, ",%d", (i * t + t) % 96);
        used += (size_t)snprintf(text + used, sizeof text - used, "]}\n");
    }
    temporary_open(&folder);
    fixture_open(&f, "llama", "llama", "auto");
    temporary_write(&folder, "tokens.jsonl", text, used);
    assert_ok(token_lines_read(&lines, temporary_file(&folder, "tokens.jsonl"), 96, 48));
    snprintf(logits, sizeof logits, "%s/logits.safetensors", folder.path);
    const struct evaluate_request request = {
        .model = &f.model, .kernels = f.ws.exec.k, .threads = 2, .lines = &lines, .logits = logits};
    assert_ok(evaluate(&request, &result));
    assert_int_equal(result.tokens, SEQUENCES * LENGTH);
    assert_ok(model_file_open(&found, logits, false));
    for (int i = 0; i < SEQUENCES; i += 11) {
        char name[32];
        snprintf(name, sizeof name, "logits.%d", i);
        const struct file_tensor *tensor = model_file_find(&found, name);
        float *alone = model_logits(&f.model, lines.ids.ids + lines.start[i], LENGTH, NULL);
        assert_non_null(tensor);
        assert_memory_equal(alone, tensor->data, tensor->bytes);
        free(alone);
    }
    model_file_close(&found);
    token_lines_free(&lines);
    fixture_close(&f);
    temporary_close(&folder);
}

static void test_lines_that_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"", "no line"},
        {"\n \n", "no line"},
        {"{\"tokens\": [1]}\n{\"tokens\": [1, 96]}\n", "line 2: token 96"},
        {"{\"tokens\": [-1]}", "line 1: token -1"},
        {"\n\n{\"tokens\": [1, 2, 3, 4, 5]}", "line 3: 5 tokens are more than the context of 4"},
        {"{\"tokens\": [1, 2}", "line 1: not valid JSON at column"},
        {NESTED_JSON, "line 1: JSON is nested deeper than 128"},
        {"{\"tokens\": []}", "line 1: it has no tokens"},
        {"{\"tokens\": [1.5]}", "line 1: tokens[0]"},
        {"{\"tokens\": 7}", "line 1: it is not"},
        {"[1, 2]", "line 1: it is not"},
        {"{\"tokens\": [99999999999999999999]}", "line 1"},
        {"{\"id\": [1]}", "line 1: it is not"},
        {"{\"ids\": [1, \"a\"]}", "line 1: ids[1]"},
        {"{\"ids\": [1], \"tokens\": [1]}", "line 1: it has both"},
    };
    struct temporary folder;
    temporary_open(&folder);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct token_lines lines = {0};
        temporary_write(&folder, "x.jsonl", cases[i].text, strlen(cases[i].text));
        assert_int_equal(token_lines_read(&lines, temporary_file(&folder, "x.jsonl"), 96, 4),
                         STATUS_FORMAT);
        assert_non_null(strstr(status_message(), "x.jsonl"));
        if (!strstr(status_message(), cases[i].word))
            fail_msg("'%s' lacks '%s'", status_message(), cases[i].word);
        token_lines_free(&lines);
    }
    struct token_lines lines = {0};
    assert_int_equal(token_lines_read(&lines, "/nowhere/x.jsonl", 96, 4), STATUS_IO);
    temporary_close(&folder);
}

/* Documents as sequences: a long one in pieces that share a token, so that each target stays one,
 * and the mean is by the file's weights. */
static void test_token_file(void **state) {
    (void)state;
    static const int32_t ids[] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3};
    static const float weights[] = {1, 2, 0, 1, 3, 1, 1, 0, 1, 2};
    static const struct token_file_info info = {.vocabulary = 96};
    struct fixture f;
    struct temporary folder;
    struct token_writer *writer;
    struct token_lines lines = {0};
    struct evaluate_result result;
    temporary_open(&folder);
    fixture_open(&f, "llama", "llama", "auto");
    assert_ok(token_writer_create(&writer, temporary_file(&folder, "t.h5"), &info));
    assert_ok(token_writer_append(writer, ids, weights, 10));
    assert_ok(token_writer_append(writer, NULL, NULL, 0));
    assert_ok(token_writer_append(writer, ids, NULL, 4)); /* fits */
    assert_ok(token_writer_finish(writer));
    const char *path = temporary_file(&folder, "t.h5");
    assert_ok(token_lines_read_token_file(&lines, path, NULL, NULL, 96, 4));
    static const int64_t start[] = {0, 4, 8, 12, 16}, first[] = {0, 3, 6, 0};
    assert_int_equal(lines.count, 4);
    assert_memory_equal(lines.start, start, sizeof start);
    double sum = 0.0, weight = 0.0;
    int64_t targets = 0;
    for (int i = 0; i < 4; i++) {
        assert_memory_equal(lines.ids.ids + 4 * i, ids + first[i], 4 * sizeof *ids);
        float *logits = model_logits(&f.model, ids + first[i], 4, NULL);
        for (int t = 0; t < 3; t++) {
            double w = i < 3 ? (double)weights[first[i] + t + 1] : 1.0, total = 0.0;
            const float *row = logits + t * 96;
            for (int v = 0; v < 96; v++) total += exp((double)row[v]);
            sum += w * (log(total) - (double)row[ids[first[i] + t + 1]]);
            weight += w;
            targets += w > 0.0;
        }
        free(logits);
    }
    const struct evaluate_request request = {
        .model = &f.model, .kernels = f.ws.exec.k, .threads = 1, .lines = &lines};
    assert_ok(evaluate(&request, &result));
    assert_int_equal(result.predicted, targets);
    assert_true(fabs(result.loss - sum / weight) < 1e-5);
    token_lines_free(&lines);
    assert_int_equal(token_lines_read_token_file(&lines, path, NULL, NULL, 9, 4), STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "t.h5: token 9 is not in the vocabulary of 9"));
    token_lines_free(&lines);
    fixture_close(&f);
    temporary_close(&folder);
}

/* A text in pieces: all its ids once, BOS before each piece. */
static void test_text_in_pieces(void **state) {
    (void)state;
    char path[1024];
    struct tokenizer *tokenizer;
    struct temporary folder;
    struct token_lines lines = {0};
    struct token_list all = {0};
    const char *text = "Once upon a time, there was a little girl named Lily.";
    snprintf(path, sizeof path, "%s/gguf_stories260k_quantised/stories260K-F32.gguf",
             test_data_or_skip());
    assert_ok(tokenizer_open(&tokenizer, path));
    temporary_open(&folder);
    temporary_write(&folder, "text", text, strlen(text));
    assert_ok(token_lines_read_text(&lines, temporary_file(&folder, "text"), tokenizer, 512, 8));
    assert_ok(tokenizer_encode(tokenizer, text, strlen(text), TOKENIZER_PLAIN, &all));
    assert_int_equal(lines.count, (all.count + 6) / 7);
    assert_int_equal(lines.ids.count, all.count + lines.count);
    for (size_t i = 0; i < all.count; i++) {
        if (i % 7 == 0) assert_int_equal(lines.ids.ids[i / 7 * 8], 1);
        assert_int_equal(lines.ids.ids[i / 7 * 8 + i % 7 + 1], all.ids[i]);
    }
    temporary_write(&folder, "text", "", 0);
    assert_int_equal(
        token_lines_read_text(&lines, temporary_file(&folder, "text"), tokenizer, 512, 8),
        STATUS_FORMAT);
    temporary_write(&folder, "text", "caf\xe9 au lait", 12);
    assert_int_equal(
        token_lines_read_text(&lines, temporary_file(&folder, "text"), tokenizer, 512, 8),
        STATUS_FORMAT);
    assert_non_null(strstr(status_message(), "byte 3 is 0xE9"));
    token_list_free(&all);
    token_lines_free(&lines);
    tokenizer_close(tokenizer);
    temporary_close(&folder);
}

static void test_options(void **state) {
    (void)state;
    const char *model = NULL, *out = NULL;
    bool flag = false;
    int64_t count = 5;
    struct option_list list = {0};
    const struct option_row rows[] = {{NULL, OPTION_TEXT, &model, true, 0, 0},
                                      {"--out", OPTION_TEXT, &out, false, 0, 0},
                                      {"--flag", OPTION_FLAG, &flag, false, 0, 0},
                                      {"--count", OPTION_INTEGER, &count, false, 1, 9},
                                      {"--list", OPTION_LIST, &list, false, 0, 0}};
    char *good[] = {"x", "--list", "a", "b", "--flag", "m", "--count", "7"};
    assert_ok(options_parse(rows, 5, 8, good));
    assert_string_equal(model, "m");
    assert_null(out);
    assert_true(flag && count == 7 && list.count == 2 && strcmp(list.items[1], "b") == 0);
    char *last[] = {"x", "--list", "a", "b", "m"}; /* what is missing is the list's last item */
    flag = false;
    assert_ok(options_parse(rows, 5, 5, last));
    assert_true(!flag && strcmp(model, "m") == 0 && list.count == 2);
    assert_string_equal(list.items[1], "b");
    char *bad[][5] = {{"x"},
                      {"x", "--list", "m"},
                      {"x", "m", "n"},
                      {"x", "m", "--other"},
                      {"x", "m", "--count", "10"},
                      {"x", "m", "--count", "7x"},
                      {"x", "m", "--count"},
                      {"x", "m", "--out", "--flag"},
                      {"x", "m", "--flag", "--flag"}};
    static const char *const words[] = {"missing", "missing", "unexpected", "unknown", "1 to 9",
                                        "1 to 9",  "value",   "value",      "twice"};
    for (int i = 0; i < 9; i++) {
        int argc = 0;
        while (argc < 5 && bad[i][argc]) argc++;
        assert_int_equal(options_parse(rows, 5, argc, bad[i]), STATUS_CONFIG);
        if (!strstr(status_message(), words[i]))
            fail_msg("'%s' lacks '%s'", status_message(), words[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches_transformers_and_peft),
        cmocka_unit_test(test_nothing_to_predict),
        cmocka_unit_test(test_batches_do_not_show),
        cmocka_unit_test(test_lines_that_are_refused),
        cmocka_unit_test(test_token_file),
        cmocka_unit_test(test_text_in_pieces),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
