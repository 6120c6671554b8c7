/* Vectors of ids for the vocabularies of GGUF files, and the one that many formats hold. Each test
 * says how many it compared. */
#define _GNU_SOURCE
#include "tests/tokenizer_vectors.h"

#include <unistd.h>

/* All of them; the last line of the texts is none. */
static size_t expect_ggml(const char *tokenizer_name, const char *inputs, const char *outputs) {
    struct tokenizer *tokenizer = vectors_open(tokenizer_name);
    struct ggml_vectors vectors = vectors_read_ggml(inputs, outputs, NULL);
    size_t compared = vectors_expect_ggml(tokenizer, &vectors, INT32_MAX, outputs);
    assert_int_equal(compared, 46);
    vectors_free_ggml(&vectors);
    tokenizer_close(tokenizer);
    return compared;
}

static void test_ggml_vocabularies(void **state) {
    static const struct {
        const char *tokenizer, *in, *out;
    } sets[] = {
        {GGML("llama-spm"), GGML("llama-spm") ".inp", GGML("llama-spm") ".out"},
        {TINYLLAMA_JSON, GGML("llama-spm") ".inp", GGML("llama-spm") ".out"},
        {GGML("phi-3"), GGML("phi-3") ".inp", GGML("phi-3") ".out"},
        {"tok_hf_json/phi3_mini/tokenizer.json", GGML("phi-3") ".inp", GGML("phi-3") ".out"},
        {GGML("gpt-2"), GGML("gpt-2") ".inp", GGML("gpt-2") ".out"},
        {GPT2_JSON, GGML("gpt-2") ".inp", GGML("gpt-2") ".out"},
        {"tok_tiktoken/r50k_base.tiktoken", GGML("gpt-2") ".inp", GGML("gpt-2") ".out"},
        {GGML("falcon"), GGML("falcon") ".inp", GGML("falcon") ".out"},
        {GGML("deepseek-coder"), GGML("deepseek-coder") ".inp", GGML("deepseek-coder") ".out"},
        {GGML("deepseek-llm") ".gz", GGML("deepseek-llm") ".inp", GGML("deepseek-llm") ".out"},
        /* vocabularies that are elsewhere: MPT's is GPT-NeoX's */
        {"tok_hf_json/gpt_neox_20b/tokenizer.json", GGML("mpt") ".inp", GGML("mpt") ".out"},
        {"tok_qwen", GGML("gpt-2") ".inp", ORPHAN("qwen2")},
        {"tok_qwen", GGML("gpt-2") ".inp", ORPHAN("deepseek-r1-qwen")},
    };
    (void)state;
    size_t compared = 0, count = sizeof sets / sizeof sets[0];
    for (size_t i = 0; i < count; i++)
        compared += expect_ggml(sets[i].tokenizer, sets[i].in, sets[i].out);
    vectors_done(compared, count * 46);
}

/* Phi-2's tokenizer is GPT-2's with 38 added tokens: runs of 31 to 2 spaces, then of 9 to 2 tabs.
 */
static void test_phi2(void **state) {
    (void)state;
    json_t *root = vectors_read_json(GPT2_JSON), *added = json_object_get(root, "added_tokens");
    int id = 50257;
    char run[40], folder[] = "/tmp/strata-test-XXXXXX", *path;
    for (int spaces = 31; spaces >= 2; spaces--) {
        memset(run, ' ', (size_t)spaces);
        run[spaces] = 0;
        json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b}", "id", id++, "content", run,
                                               "special", 0, "normalized", 1));
    }
    for (int tabs = 9; tabs >= 2; tabs--) {
        memset(run, '\t', (size_t)tabs);
        run[tabs] = 0;
        json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b}", "id", id++, "content", run,
                                               "special", 0, "normalized", 1));
    }
    assert_int_equal(id, 50295);
    assert_non_null(mkdtemp(folder));
    if (asprintf(&path, "%s/tokenizer.json", folder) < 0) fail();
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
    size_t compared = expect_ggml(path, GGML("gpt-2") ".inp", ORPHAN("phi-2"));
    unlink(path);
    rmdir(folder);
    free(path);
    vectors_done(compared, 46);
}

/* What a model wrote, as text. */
static void expect_text(const struct tokenizer *tokenizer, const json_t *entry) {
    const json_t *list = json_object_get(entry, "ids");
    const char *want = json_string_value(json_object_get(entry, "text"));
    size_t count = json_array_size(list), bytes;
    int32_t *ids = malloc((count + 1) * sizeof *ids);
    char *text;
    assert_true(count > 1 && want);
    for (size_t i = 0; i < count; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    assert_ok(tokenizer_decode(tokenizer, ids, count, false, &text, &bytes));
    assert_string_equal(text, want);
    free(text);
    free(ids);
}

/* The vocabulary of 512 tokens, from every file that holds it. */
static void test_tok512(void **state) {
    static const char *const files[] = {
        "stories260K-F32",         "stories260K-F16",          "stories260K-Q4_K_M_fallback",
        "stories260K-pad192-BF16", "stories260K-pad192-Q8_0",  "stories260K-pad192-Q4_0",
        "stories260K-pad192-Q4_1", "stories260K-pad192-Q5_0",  "stories260K-pad192-Q5_1",
        "random256-Q4_K_M",        "stories260K-pad192-IQ4_NL"};
    enum { FILES = sizeof files / sizeof *files };
    (void)state;
    json_t *root = vectors_read_json("stories260k/golden/tok512_encode.json");
    json_t *greedy = vectors_read_json("stories260k/golden/greedy.json");
    size_t compared = 0, i;
    const json_t *entry;
    for (int f = 0; f < FILES; f++) {
        char *name;
        if (asprintf(&name, "gguf_stories260k_quantised/%s.gguf", files[f]) < 0) fail();
        struct tokenizer *tokenizer = vectors_open(name);
        json_array_foreach(root, i, entry) {
            vectors_expect_json(tokenizer, json_object_get(entry, "text"), TOKENIZER_ADD_SPECIAL,
                                json_object_get(entry, "ids_with_bos"), name);
            compared++;
        }
        json_array_foreach(greedy, i, entry) expect_text(tokenizer, entry);
        assert_int_equal(i, 6);
        assert_int_equal(tokenizer_bos(tokenizer), 1);
        tokenizer_close(tokenizer);
        free(name);
    }
    json_decref(greedy);
    json_decref(root);
    vectors_done(compared, 20 * FILES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ggml_vocabularies),
        cmocka_unit_test(test_phi2),
        cmocka_unit_test(test_tok512),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
