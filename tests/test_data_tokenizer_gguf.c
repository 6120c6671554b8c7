#define _GNU_SOURCE
/* Tokenizers written into GGUF and read back, and out of GGUF as tokenizer.json: the same ids for
 * every text. */
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

/* The tokenizer through tokenizer.json and tokenizer_config.json. */
static void through_json(const struct tokenizer *before, struct tokenizer **after) {
    struct temporary folder;
    temporary_open(&folder);
    assert_ok(tokenizer_write_json(before, folder.path));
    assert_int_equal(temporary_count(&folder, 0), 2);
    assert_ok(tokenizer_open(after, folder.path));
    temporary_close(&folder);
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
        /* their added tokens have flags (rstrip, normalized) that GGUF lacks */
        bool flags = strstr(names[i], "gpt_neox_20b") || strstr(names[i], "phi3_mini");
        if ((tokenizer_hash(before) == tokenizer_hash(after)) == flags)
            fail_msg("%s: hash %s", names[i], flags ? "kept" : "lost");
        tokenizer_close(before);
        tokenizer_close(after);
    }
}

/* The texts of DATA/name.inp, cut at marks: test_data_tokenizer_ggml.c holds the ids before. */
static void check_vectors(const struct tokenizer *before, const struct tokenizer *after,
                          const char *name) {
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char path[1024], text[1 << 16];
    snprintf(path, sizeof path, "%s/%s.inp", test_data_or_skip(), name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = '\0';
    int count = 0;
    for (char *at = text, *end; at; at = end ? end + strlen(mark) : NULL, count++) {
        if ((end = strstr(at, mark))) *end = '\0';
        check_text(before, after, at, TOKENIZER_ADD_SPECIAL, name);
    }
    assert_true(count > 40);
}

static void test_json_of_ggufs(void **state) {
    (void)state;
    static const char *const names[] = {
        "tok_ggml_vocab/ggml-vocab-llama-spm.gguf", "tok_ggml_vocab/ggml-vocab-phi-3.gguf",
        "tok_ggml_vocab/ggml-vocab-falcon.gguf", "tok_ggml_vocab/ggml-vocab-gpt-2.gguf",
        "tok_ggml_vocab/ggml-vocab-deepseek-coder.gguf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[1024];
        struct tokenizer *before, *after;
        snprintf(path, sizeof path, "%s/%s", test_data_or_skip(), names[i]);
        assert_ok(tokenizer_open(&before, path));
        through_json(before, &after);
        check_same(before, after, names[i]);
        check_vectors(before, after, names[i]);
        /* other spellings of its steps for spaces, and of the end of a line */
        bool spelt = strstr(names[i], "llama-spm") || strstr(names[i], "phi-3");
        if (!spelt && tokenizer_hash(before) != tokenizer_hash(after))
            fail_msg("%s: hash lost", names[i]);
        tokenizer_close(before);
        tokenizer_close(after);
    }
}

/* A SentencePiece model as a GGUF file holds it: pieces with scores, bytes, an empty prefix or one
 * space before a text, spaces trimmed or not. */
static struct tokenizer *open_pieces(struct temporary *folder, const char *model, bool prefix,
                                     bool trim) {
    enum { BYTES = 256, FIRST = 3 };
    static const char *const pieces[] = {"\xe2\x96\x81",
                                         "a",
                                         "b",
                                         "ab",
                                         "\xe2\x96\x81"
                                         "ab",
                                         "bab",
                                         "<|turn|>"};
    enum { PIECES = sizeof pieces / sizeof *pieces, ALL = FIRST + BYTES + PIECES };
    static char hex[BYTES][8];
    struct gguf_string texts_of[ALL] = {{"<unk>", 5}, {"<s>", 3}, {"</s>", 4}};
    int32_t kinds[ALL] = {2, 3, 3};
    float scores[ALL] = {0};
    for (int i = 0; i < BYTES; i++) {
        snprintf(hex[i], sizeof hex[i], "<0x%02X>", (unsigned)i);
        texts_of[FIRST + i] = (struct gguf_string){hex[i], 6};
        kinds[FIRST + i] = 6;
    }
    for (int i = 0; i < PIECES; i++) {
        int id = FIRST + BYTES + i;
        texts_of[id] = (struct gguf_string){pieces[i], strlen(pieces[i])};
        kinds[id] = i + 1 < PIECES ? 1 : 4;
        scores[id] = -1.0f - (float)i;
    }
    struct gguf_metadata metadata = {0};
    struct tensor_sink sink;
    struct tokenizer *tokenizer;
    gguf_put_string(&metadata, "tokenizer.ggml.model", model);
    gguf_put_strings(&metadata, "tokenizer.ggml.tokens", texts_of, ALL);
    gguf_put_array(&metadata, "tokenizer.ggml.token_type", GGUF_I32, kinds, ALL);
    gguf_put_array(&metadata, "tokenizer.ggml.scores", GGUF_F32, scores, ALL);
    gguf_put_u32(&metadata, "tokenizer.ggml.unknown_token_id", 0);
    gguf_put_bool(&metadata, "tokenizer.ggml.add_space_prefix", prefix);
    gguf_put_bool(&metadata, "tokenizer.ggml.remove_extra_whitespaces", trim);
    gguf_put_bool(&metadata, "tokenizer.ggml.add_eos_token", trim);
    gguf_put_string(&metadata, "tokenizer.chat_template", "{{ bos_token }}\n");
    assert_ok(gguf_create(&sink, temporary_file(folder, "pieces.gguf"), &metadata, NULL, 0));
    assert_ok(tensor_sink_finish(&sink));
    tensor_sink_close(&sink);
    gguf_metadata_free(&metadata);
    assert_ok(tokenizer_open(&tokenizer, temporary_file(folder, "pieces.gguf")));
    return tokenizer;
}

static void test_json_of_pieces(void **state) {
    (void)state;
    static const char *const own[] = {" ab  abab ", "bab<|turn|> ab", "<|turn|>", "ab\nba"};
    for (int kind = 0; kind < 8; kind++) {
        struct temporary folder;
        struct tokenizer *after;
        temporary_open(&folder);
        struct tokenizer *before =
            open_pieces(&folder, kind & 4 ? "t5" : "llama", kind & 1, kind & 2);
        through_json(before, &after);
        for (size_t i = 0; i < sizeof own / sizeof *own; i++)
            check_text(before, after, own[i], TOKENIZER_ADD_SPECIAL, "pieces");
        /* a unigram model in tokenizer.json also finds "<s>" where it is letters */
        if (!(kind & 4)) check_same(before, after, "pieces");
        tokenizer_close(before);
        tokenizer_close(after);
        temporary_close(&folder);
    }
}

/* Byte-level BPE: the bundled model's, out of a GGUF file. */
static void test_json_of_base(void **state) {
    (void)state;
    struct tokenizer *base, *before, *after;
    assert_ok(tokenizer_open(&base, "models/base"));
    assert_ok(through_gguf(base, tokenizer_size(base), &before));
    through_json(before, &after);
    check_same(before, after, "models/base");
    check_same(base, after, "models/base");
    assert_int_equal(tokenizer_size(after), tokenizer_size(base));
    assert_true(tokenizer_hash(before) == tokenizer_hash(base));
    assert_true(tokenizer_hash(after) == tokenizer_hash(base));
    tokenizer_close(base);
    tokenizer_close(before);
    tokenizer_close(after);
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
        cmocka_unit_test(test_tokenizers_of_others), cmocka_unit_test(test_json_of_base),
        cmocka_unit_test(test_json_of_pieces),       cmocka_unit_test(test_json_of_ggufs),
        cmocka_unit_test(test_what_gguf_cannot_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
