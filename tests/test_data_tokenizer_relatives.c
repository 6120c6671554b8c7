/* Vectors of tokenizers whose own vocabulary is not in the data folder while another one's there
 * says what they must be; and ids that others' tests publish. Each test says how many it compared.
 */
#define _GNU_SOURCE
#include "tests/temporary.h"
#include "tests/tokenizer_vectors.h"

#define TINY "tok_hf_json/torchtune_tiny/"

/* Llama 3's vocabulary begins with cl100k's and goes on with 28,000 tokens of higher rank: a text
 * that takes none of these has the same ids. */
static void test_llama3_within_cl100k(void **state) {
    (void)state;
    struct tokenizer *tokenizer = vectors_open(CL100K);
    struct ggml_vectors vectors =
        vectors_read_ggml(GGML("gpt-2") ".inp", ORPHAN("llama-bpe"), NULL);
    json_t *root = vectors_read_json("tok_expected_multilingual/llama_3.2_encoded.json");
    json_t *ids = json_object_get(root, "token_ids");
    size_t compared = vectors_expect_ggml(tokenizer, &vectors, CL100K_TOKENS, "llama-bpe");
    assert_int_equal(compared, 41);
    assert_int_equal(json_integer_value(json_array_get(ids, 0)), 128000);
    assert_int_equal(json_array_remove(ids, 0), 0);
    assert_int_equal(json_array_size(ids), 183);
    vectors_expect_json(tokenizer, json_object_get(root, "text"), TOKENIZER_PARSE_SPECIAL, ids,
                        "llama 3.2");
    json_decref(root);
    vectors_free_ggml(&vectors);
    tokenizer_close(tokenizer);
    vectors_done(compared + 1, 42);
}

/* DBRX's tokenizer is cl100k; its ids were made before three of the texts came. */
static void test_dbrx(void **state) {
    static const char *const later[] = {"!!!!!!", "C\xe1\xbb\xad\x61 Vi\xe1\xbb\x87t", " discards",
                                        NULL};
    (void)state;
    struct tokenizer *tokenizer = vectors_open(CL100K);
    struct ggml_vectors vectors = vectors_read_ggml(GGML("gpt-2") ".inp", ORPHAN("dbrx"), later);
    vectors_done(vectors_expect_ggml(tokenizer, &vectors, INT32_MAX, "dbrx"), 43);
    vectors_free_ggml(&vectors);
    tokenizer_close(tokenizer);
}

/* Which id of one vocabulary is which of the other, as far as texts have shown it. */
struct renumbering {
    int32_t to[65536], from[65536]; /* -1: not known */
    size_t known;
};

static void expect_renumbered(struct renumbering *map, const struct tokenizer *tokenizer,
                              const char *text, size_t bytes, const int32_t *want, size_t count) {
    struct token_list got = {0};
    assert_ok(tokenizer_encode(tokenizer, text, bytes, TOKENIZER_PARSE_SPECIAL, &got));
    if (got.count != count)
        fail_msg("'%.*s': %zu ids, not %zu", (int)bytes, text, got.count, count);
    for (size_t i = 0; i < count; i++) {
        int32_t ours = got.ids[i], theirs = want[i];
        assert_true(ours >= 0 && ours < 65536 && theirs >= 0 && theirs < 65536);
        if (map->to[ours] < 0 && map->from[theirs] < 0) {
            map->to[ours] = theirs;
            map->from[theirs] = ours;
            map->known++;
        }
        if (map->to[ours] != theirs || map->from[theirs] != ours)
            fail_msg("'%.*s': id %zu is %d, which was not %d before", (int)bytes, text, i, ours,
                     theirs);
    }
    token_list_free(&got);
}

/* <s>, the ids of the text that has the entry's name, </s>. */
static void expect_entry(struct renumbering *map, const struct tokenizer *tokenizer,
                         const json_t *inputs, const json_t *entry) {
    const json_t *ids = json_object_get(entry, "input_ids"), *input, *text = NULL;
    const char *name = json_string_value(json_object_get(entry, "id"));
    size_t index, count = json_array_size(ids);
    int32_t want[1024];
    json_array_foreach(inputs, index, input) {
        if (strcmp(json_string_value(json_object_get(input, "id")), name) == 0)
            text = json_object_get(input, "text");
    }
    assert_true(text && count >= 2 && count <= 1024);
    for (size_t i = 0; i < count; i++)
        want[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    assert_int_equal(want[0], 0);
    assert_int_equal(want[count - 1], 2);
    expect_renumbered(map, tokenizer, json_string_value(text), json_string_length(text), want + 1,
                      count - 2);
}

/* RoBERTa has GPT-2's tokens, numbered otherwise; two files of vectors know one numbering. */
static void test_roberta_is_gpt2_renumbered(void **state) {
    (void)state;
    struct tokenizer *tokenizer = vectors_open(GPT2_JSON);
    struct renumbering *map = malloc(sizeof *map);
    struct ggml_vectors vectors =
        vectors_read_ggml(GGML("gpt-2") ".inp", ORPHAN("roberta-bpe"), NULL);
    json_t *inputs = vectors_read_json("tok_expected_multilingual/inputs.json");
    json_t *root = vectors_read_json("tok_expected_multilingual/roberta_base_multilingual.json");
    size_t index;
    const json_t *entry;
    memset(map, -1, sizeof *map);
    map->known = 0;
    for (size_t i = 0; i < vectors.count; i++) {
        const struct ggml_vector *v = &vectors.vectors[i];
        expect_renumbered(map, tokenizer, v->text, v->bytes, v->ids, v->count);
    }
    json_array_foreach(json_object_get(root, "entries"), index, entry)
        expect_entry(map, tokenizer, inputs, entry);
    assert_true(map->known > 1000);
    vectors_done(vectors.count + index, 46 + 83);
    json_decref(root);
    json_decref(inputs);
    vectors_free_ggml(&vectors);
    free(map);
    tokenizer_close(tokenizer);
}

static void expect_text(const struct tokenizer *tokenizer, const char *text, const int32_t *ids,
                        size_t count, const char *what) {
    char *decoded;
    size_t bytes;
    vectors_expect_ids(tokenizer, text, strlen(text), TOKENIZER_PLAIN, ids, count, what);
    assert_ok(tokenizer_decode(tokenizer, ids, count, false, &decoded, &bytes));
    assert_string_equal(decoded, text);
    free(decoded);
}

static void copy_to(struct temporary *folder, const char *name, const char *as) {
    size_t bytes;
    char *text = vectors_read_text(name, &bytes);
    temporary_write(folder, as, text, bytes);
    free(text);
}

/* The small tokenizers of torchtune's tests (github.com/pytorch/torchtune, tests/torchtune:
 * modules/transforms/tokenizers/test_sentencepiece.py and test_hf_tokenizer.py,
 * models/qwen2/test_qwen2_tokenizer.py), with the ids that these expect. The last one comes as
 * tokenizer.json and as vocabulary and merges. */
static void test_torchtune(void **state) {
    static const int32_t hello[] = {12, 1803, 1024, 103};
    static const int32_t sun[] = {73,  503, 654, 262, 376, 110, 46,  690, 720, 428, 270, 1119, 654,
                                  262, 376, 110, 44,  270, 686, 334, 312, 522, 511, 115, 46};
    static const int32_t below[] = {33,  214, 174, 156, 194, 130,  197,
                                    184, 446, 789, 113, 98,  1914, 13};
    static const struct {
        const char *tokenizer, *text;
        const int32_t *ids;
        size_t count;
    } sets[] = {{TINY "m.model", "Hello world!", hello, 4},
                {TINY "tiktoken_small.model",
                 "I can see the sun. But even if I cannot see the sun, I know that it exists.", sun,
                 25},
                {TINY "tiny_bpe_tokenizer.json", "Below is an instruction that describes a task.",
                 below, 14},
                {NULL, "Below is an instruction that describes a task.", below, 14}};
    (void)state;
    struct temporary folder;
    temporary_open(&folder);
    copy_to(&folder, TINY "tiny_bpe_vocab.json", "vocab.json");
    copy_to(&folder, TINY "tiny_bpe_merges.txt", "merges.txt");
    size_t compared = 0;
    for (; compared < sizeof sets / sizeof *sets; compared++) {
        const char *name = sets[compared].tokenizer;
        struct tokenizer *tokenizer = vectors_open(name ? name : folder.path);
        expect_text(tokenizer, sets[compared].text, sets[compared].ids, sets[compared].count,
                    name ? name : "vocab.json and merges.txt");
        if (compared == 0) {
            assert_int_equal(tokenizer_bos(tokenizer), 1);
            assert_int_equal(tokenizer_eos(tokenizer), 2);
            assert_int_equal(tokenizer_size(tokenizer), 2000);
        }
        tokenizer_close(tokenizer);
    }
    temporary_close(&folder);
    vectors_done(compared, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama3_within_cl100k),
        cmocka_unit_test(test_dbrx),
        cmocka_unit_test(test_roberta_is_gpt2_renumbered),
        cmocka_unit_test(test_torchtune),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
