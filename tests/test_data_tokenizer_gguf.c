#define _GNU_SOURCE
/* Tokenizers written into GGUF and read back: the same ids for every text. */
#include "tests/temporary.h"

#include "core/gguf_write.h"
#include "data/tokenizer.h"

static const char *const texts[] = {
    "",
    " ",
    "Hello, world!",
    "  two  spaces, a tab\tand\n\nlines \r\n end ",
    "I'm you're HE'LL THEY'VE it's 'tis don't",
    "1 12 123 1234 12345 3.14159 1,000,000",
    "na\xc3\xafve fa\xc3\xa7"
    "ade \xe2\x80\x94 \xe2\x80\x9cquoted\xe2\x80\x9d",
    "Cafe\xcc\x81 \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xd1\x80\xd1\x83\xd1\x81 \xf0\x9f\x98\x80",
    "x=y+z; /* C */ #include <stdio.h>\n\tif (a && !b) return -1;",
    "<s> [INST] <|im_start|>user<|im_end|> <|endoftext|></s>",
    "\x07 \x7f https://example.org/a?b=c&d=%20e#f",
};
enum { TEXTS = sizeof texts / sizeof *texts };

/* The tokenizer through a GGUF file without tensors. */
static enum status through_gguf(const struct tokenizer *before, int64_t vocab,
                                struct tokenizer **after) {
    struct temporary folder;
    struct gguf_metadata metadata = {0};
    struct tensor_sink sink;
    enum status status = tokenizer_put_gguf(before, vocab, &metadata);
    temporary_open(&folder);
    if (status == STATUS_OK) {
        const char *path = temporary_file(&folder, "tokenizer.gguf");
        assert_ok(gguf_create(&sink, path, &metadata, NULL, 0));
        assert_ok(tensor_sink_finish(&sink));
        tensor_sink_close(&sink);
        assert_ok(tokenizer_open(after, path));
    }
    gguf_metadata_free(&metadata);
    temporary_close(&folder);
    return status;
}

static void check_text(const struct tokenizer *before, const struct tokenizer *after,
                       const char *text, unsigned flags, const char *name) {
    struct token_list a = {0}, b = {0};
    assert_ok(tokenizer_encode(before, text, strlen(text), flags, &a));
    assert_ok(tokenizer_encode(after, text, strlen(text), flags, &b));
    bool same =
        a.count == b.count && (a.count == 0 || memcmp(a.ids, b.ids, a.count * sizeof *a.ids) == 0);
    if (!same) fail_msg("%s: '%s' encodes otherwise", name, text);
    token_list_free(&a);
    token_list_free(&b);
}

static void check_same(const struct tokenizer *before, const struct tokenizer *after,
                       const char *name) {
    static const unsigned flags[] = {TOKENIZER_PLAIN, TOKENIZER_ADD_SPECIAL,
                                     TOKENIZER_PARSE_SPECIAL};
    assert_int_equal(tokenizer_bos(before), tokenizer_bos(after));
    assert_int_equal(tokenizer_eos(before), tokenizer_eos(after));
    for (int i = 0; i < TEXTS; i++)
        for (int f = 0; f < 3; f++) check_text(before, after, texts[i], flags[f], name);
    for (int32_t id = 0; id < tokenizer_size(before); id++) {
        struct token_bytes a = tokenizer_token(before, id, true);
        struct token_bytes b = tokenizer_token(after, id, true);
        if (tokenizer_find(before, "") == id || a.count == 0) continue;
        if (a.count != b.count || memcmp(a.bytes, b.bytes, a.count) != 0)
            fail_msg("%s: token %d is '%.*s', was '%.*s'", name, id, (int)b.count, b.bytes,
                     (int)a.count, a.bytes);
    }
    const char *x = tokenizer_chat_template(before), *y = tokenizer_chat_template(after);
    assert_int_equal(!x, !y);
    if (x) assert_string_equal(x, y);
}

static void test_tokenizers_of_others(void **state) {
    (void)state;
    static const char *const names[] = {"tok_hf_json/gpt2",
                                        "tok_hf_json/gpt_neox_20b",
                                        "tok_hf_json/llama2_tinyllama",
                                        "tok_hf_json/minimind",
                                        "tok_hf_json/phi3_mini",
                                        "tok_qwen",
                                        "tok_mistral_spm/tokenizer.model.v1",
                                        "tok_ggml_vocab/ggml-vocab-llama-spm.gguf",
                                        "tok_ggml_vocab/ggml-vocab-phi-3.gguf",
                                        "tok_ggml_vocab/ggml-vocab-falcon.gguf",
                                        "tok_ggml_vocab/ggml-vocab-deepseek-coder.gguf",
                                        "tok_tiktoken/cl100k_base.tiktoken"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[1024];
        struct tokenizer *before, *after;
        snprintf(path, sizeof path, "%s/%s", test_data_or_skip(), names[i]);
        assert_ok(tokenizer_open(&before, path));
        int64_t vocab = tokenizer_size(before) + 3; /* a padded embedding */
        if (through_gguf(before, vocab, &after) != STATUS_OK)
            fail_msg("%s: %s", names[i], status_message());
        assert_int_equal(tokenizer_size(after), vocab);
        check_same(before, after, names[i]);
        tokenizer_close(before);
        tokenizer_close(after);
    }
}

/* A tokenizer.json whose vocabulary is four letters and one merge. */
static struct tokenizer *open_json(struct temporary *folder, const char *steps, const char *model) {
    char text[4096];
    struct tokenizer *tokenizer;
    snprintf(text, sizeof text, "{\"added_tokens\": [], %s, \"model\": %s}", steps, model);
    temporary_write(folder, "tokenizer.json", text, strlen(text));
    assert_ok(tokenizer_open(&tokenizer, temporary_file(folder, "tokenizer.json")));
    return tokenizer;
}

static void refuse(const char *steps, const char *model, enum status status, int64_t vocab,
                   const char *word) {
    struct temporary folder;
    struct gguf_metadata metadata = {0};
    temporary_open(&folder);
    struct tokenizer *tokenizer = open_json(&folder, steps, model);
    assert_int_equal(tokenizer_put_gguf(tokenizer, vocab, &metadata), status);
    if (!strstr(status_message(), word)) fail_msg("'%s' lacks '%s'", status_message(), word);
    gguf_metadata_free(&metadata);
    tokenizer_close(tokenizer);
    temporary_close(&folder);
}

static void test_what_gguf_cannot_say(void **state) {
    (void)state;
    static const char bytes[] =
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": "
        "false}";
    static const char prefixed[] = "\"pre_tokenizer\": {\"type\": \"ByteLevel\", "
                                   "\"add_prefix_space\": true}";
    static const char cut[] =
        "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
        "\"pattern\": {\"Regex\": \"b+\"}, \"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", "
        "\"add_prefix_space\": false, \"use_regex\": false}]}";
    static const char spaces[] =
        "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": "
        "\"\xe2\x96\x81\", \"prepend_scheme\": \"first\", \"split\": false}";
    static const char model[] = "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, "
                                "\"aba\": 3}, \"merges\": [\"a b\", \"ab a\"]}";
    static const char unigram[] =
        "{\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"<unk>\", 0],"
        " [\"a\", -1]]}";
    refuse(bytes, model, STATUS_SHAPE, 3, "4 tokens");
    refuse(prefixed, model, STATUS_UNSUPPORTED, 4, "no name");
    refuse(cut, model, STATUS_UNSUPPORTED, 4, "no name");
    refuse(bytes, unigram, STATUS_UNSUPPORTED, 4, "unigram");
    /* "ba" is no merge, though its sides would make a piece by their scores */
    static const char missing[] =
        "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, "
        "\"ba\": 3, \"aba\": 4}, \"merges\": [\"a b\", \"b a\", \"ab a\"]}";
    refuse(spaces, missing, STATUS_UNSUPPORTED, 5, "SentencePiece");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokenizers_of_others),
        cmocka_unit_test(test_what_gguf_cannot_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
