/* Greedy text drawn by the serving engine, token after token and all prompts at once: the text that
 * others' code generates with the same model (260 k parameters). */
#define _GNU_SOURCE
#include "tests/check.h"

#include "core/json_util.h"
#include "serve/engine.h"

enum { PROMPTS = 6 };

static const char *path_of(const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", test_data_or_skip(), name);
    return path;
}

static struct generation *make_request(const struct tokenizer *tokenizer, const json_t *entry) {
    const json_t *list = json_object_get(entry, "prompt_ids");
    int32_t prompt[64], count = (int32_t)json_array_size(list);
    assert_true(count > 0 && count < 64);
    for (int32_t i = 0; i < count; i++)
        prompt[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    struct generation_options *options = generation_options_create();
    options->max_tokens = (int32_t)json_array_size(json_object_get(entry, "ids")) - count;
    options->ignore_eos = true;
    options->continues = count > 1; /* after BOS alone the first word has no space */
    options->sample.temperature = 0.0f;
    struct generation *generation;
    assert_ok(generation_create(&generation, options, prompt, count, ADAPTER_NONE, 0, tokenizer));
    generation_options_release(options);
    return generation;
}

static void check_text(const struct generation *generation, const json_t *entry) {
    const json_t *ids = json_object_get(entry, "ids");
    const struct sequence *sequence = &generation->sequence;
    assert_int_equal(generation->finish, FINISH_LENGTH);
    assert_int_equal(sequence->count, json_array_size(ids));
    for (int32_t i = 0; i < sequence->count; i++)
        assert_int_equal(sequence->tokens[i], json_integer_value(json_array_get(ids, (size_t)i)));
    char *whole;
    const struct transcript *drawn = &generation->transcript;
    assert_true(asprintf(&whole, "%s%.*s", json_string_value(json_object_get(entry, "prompt")),
                         (int)drawn->bytes, drawn->text) >= 0);
    assert_string_equal(whole, json_string_value(json_object_get(entry, "text")));
    free(whole);
}

static void check_model(const char *name, const json_t *entries) {
    struct model model;
    struct model_file file;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct generation *generations[PROMPTS];
    const struct kernels *kernels;
    assert_ok(kernels_cpu(&kernels, NULL, DTYPE_F32));
    assert_ok(
        tokenizer_open(&tokenizer, path_of("gguf_stories260k_quantised/stories260K-F32.gguf")));
    assert_ok(model_file_open(&file, path_of(name), false));
    assert_ok(model_load(&model, &file, NULL, LAYOUT_PANEL_F32, 0, 1));
    const struct engine_options options = {.model = &model,
                                           .tokenizer = tokenizer,
                                           .kernels = kernels,
                                           .threads = 1,
                                           .context = 300,
                                           .page_size = 16,
                                           .max_batch = PROMPTS,
                                           .token_budget = 64,
                                           .kv_dtype = DTYPE_COUNT};
    assert_ok(engine_open(&engine, &options));
    for (size_t i = 0; i < PROMPTS; i++) {
        generations[i] = make_request(tokenizer, json_array_get(entries, i));
        assert_ok(engine_submit(engine, generations[i]));
    }
    assert_true(engine_drain(engine, 60.0));
    for (size_t i = 0; i < PROMPTS; i++) {
        check_text(generations[i], json_array_get(entries, i));
        generation_release(generations[i]);
    }
    engine_close(engine);
    model_free(&model);
    model_file_close(&file);
    tokenizer_close(tokenizer);
}

static void test_greedy_text_is_what_others_generate(void **state) {
    (void)state;
    json_t *entries;
    assert_ok(json_parse_file(&entries, path_of("stories260k/golden/greedy.json")));
    assert_int_equal(json_array_size(entries), PROMPTS);
    check_model("stories260k/hf", entries);
    check_model("gguf_stories260k_quantised/stories260K-F32.gguf", entries);
    json_decref(entries);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_text_is_what_others_generate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
