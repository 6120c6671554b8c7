/* The rules of tokenizers on small ones written here: added tokens, normalizers, pre-tokenizers,
 * decoders, bytes that are no UTF-8, files that are broken. Expected ids were computed with Hugging
 * Face tokenizers 0.23 unless a comment says otherwise. */
#define _GNU_SOURCE
#include "data/bpe_train.h"
#include "data/merge.h"
#include "data/tokenizer.h"
#include "data/utf8.h"
#include "kernels/base/rng.h"
#include "tests/temporary.h"

#include <jansson.h>

#include <stdbool.h>
#include <unistd.h>

static uint64_t draw_of(uint64_t seed, uint64_t run, uint64_t index) {
    struct rng_block block = rng_draw(seed, RNG_TEST, run, index);
    return (uint64_t)block.word[0] << 32 | block.word[1];
}

/* Opens a text as a file of this name in a folder of its own. */
static enum status open_text(struct tokenizer **tokenizer, const char *name, const char *text,
                             size_t bytes) {
    char folder[] = "/tmp/strata-test-XXXXXX", *path;
    assert_non_null(mkdtemp(folder));
    if (asprintf(&path, "%s/%s", folder, name) < 0) fail();
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
    enum status status = tokenizer_open(tokenizer, path);
    unlink(path);
    rmdir(folder);
    free(path);
    return status;
}

static struct tokenizer *open_json(const char *text) {
    struct tokenizer *tokenizer;
    assert_ok(open_text(&tokenizer, "tokenizer.json", text, strlen(text)));
    return tokenizer;
}

/* "1 2 3" against the ids of `text`. */
static void expect(const struct tokenizer *tokenizer, const char *text, unsigned flags,
                   const char *want) {
    struct token_list ids = {0};
    char got[1024] = "";
    size_t used = 0;
    assert_ok(tokenizer_encode(tokenizer, text, strlen(text), flags, &ids));
    for (size_t i = 0; i < ids.count; i++)
        used += (size_t)snprintf(got + used, sizeof got - used, "%s%d", i ? " " : "", ids.ids[i]);
    token_list_free(&ids);
    if (strcmp(got, want) != 0) fail_msg("'%s': got %s, want %s", text, got, want);
}

static void expect_text(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                        bool special, const char *want) {
    char *text;
    size_t bytes;
    assert_ok(tokenizer_decode(tokenizer, ids, count, special, &text, &bytes));
    assert_string_equal(text, want);
    free(text);
}

/* Words over a-d and the space; " ab", "ab", "abc", "cd" merge. */
#define VOCAB                                                                                      \
    "\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"\\u0120\":4,\"ab\":5,\"abc\":6,\"\\u0120ab\":7,\"cd\":8,"   \
    "\"[\":9,\"]\":10,\"A\":11,\"1\":12"
#define MERGES "[\"c d\",\"a b\",\"ab c\",[\"\\u0120\",\"ab\"]]"
#define BPE(OPTIONS)                                                                               \
    "\"model\":{\"type\":\"BPE\"," OPTIONS "\"vocab\":{" VOCAB "},\"merges\":" MERGES "}"
#define BYTES "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"

static void test_merges_by_rank(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_json("{" BYTES BPE("") "}");
    expect(tokenizer, "abcd", TOKENIZER_PLAIN, "5 8"); /* c d has the smaller rank */
    expect(tokenizer, "abca ab", TOKENIZER_PLAIN, "6 0 7");
    expect(tokenizer, "axb", TOKENIZER_PLAIN, "5"); /* no unknown token: x is dropped */
    expect(tokenizer, "", TOKENIZER_PLAIN, "");
    tokenizer_close(tokenizer);
    tokenizer = open_json("{" BYTES BPE("\"ignore_merges\":true,") "}");
    expect(tokenizer, "abc abcd", TOKENIZER_PLAIN, "6 7 8");
    tokenizer_close(tokenizer);
}

#define ADDED(ID, CONTENT, FLAGS) "{\"id\":" #ID ",\"content\":\"" CONTENT "\"" FLAGS "}"

static void test_added_tokens(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_json(
        "{\"added_tokens\":[" ADDED(20, "[A]", ",\"special\":true,\"lstrip\":true") "," ADDED(
            21, "[b]",
            ",\"rstrip\":true") "," ADDED(22, "cab",
                                          ",\"single_word\":true") "," ADDED(23, "[A][b]",
                                                                             "") "]," BYTES
            BPE("") "}");
    expect(tokenizer, "a [A] b", TOKENIZER_PARSE_SPECIAL, "0 20 4 1");
    expect(tokenizer, "a [A] b", TOKENIZER_PLAIN, "0 4 9 11 10 4 1");
    expect(tokenizer, "a [b] b", TOKENIZER_PLAIN, "0 4 21 1");
    expect(tokenizer, "cab dcab cabd [cab", TOKENIZER_PLAIN, "22 4 3 2 5 4 2 5 3 4 9 22");
    expect(tokenizer, "[A][b]", TOKENIZER_PARSE_SPECIAL, "23"); /* the longest */
    assert_int_equal(tokenizer_find(tokenizer, "[A]"), 20);
    assert_int_equal(tokenizer_find(tokenizer, "[Z]"), -1);
    assert_true(tokenizer_is_control(tokenizer, 20));
    assert_false(tokenizer_is_control(tokenizer, 21));
    assert_int_equal(tokenizer_token(tokenizer, 20, false).count, 0);
    assert_int_equal(tokenizer_token(tokenizer, 20, true).count, 3);
    assert_int_equal(tokenizer_size(tokenizer), 24);
    tokenizer_close(tokenizer);
}

static void test_template(void **state) {
    (void)state;
    struct tokenizer *tokenizer =
        open_json("{\"added_tokens\":[" ADDED(20, "<s>", ",\"special\":true") "," ADDED(
            21, "</s>",
            ",\"special\":true") "],\"post_processor\":{\"type\":\"Sequence\","
                                 "\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":\"TemplateProcessing\",\"single\":["
                                 "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\"}},"
                                 "{\"SpecialToken\":{\"id\":\"</s>\",\"type_id\":0}}],\"special_tokens\":{"
                                 "\"<s>\":{\"ids\":[20]},\"</s>\":{\"ids\":[21]}}}]}," BYTES BPE(
                                     "") "}");
    expect(tokenizer, "ab", TOKENIZER_ADD_SPECIAL, "20 5 21");
    expect(tokenizer, "ab", TOKENIZER_PLAIN, "5");
    assert_int_equal(tokenizer_bos(tokenizer), 20);
    assert_int_equal(tokenizer_eos(tokenizer), 21);
    assert_true(tokenizer_adds_bos(tokenizer));
    tokenizer_close(tokenizer);
}

/* How a text splits shows in what merges: over "ab1ab" each behaviour keeps other pairs apart. */
static void test_split_behaviors(void **state) {
    static const struct {
        const char *behavior, *want;
    } rows[] = {{"Removed", "5 1 5"},
                {"Isolated", "5 1 12 12 5"},
                {"Contiguous", "5 1 13 5"},
                {"MergedWithPrevious", "5 14 12 5"},
                {"MergedWithNext", "5 1 12 15 1"}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *text;
        if (asprintf(&text,
                     "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"1\"},"
                     "\"behavior\":\"%s\",\"invert\":false},\"model\":{\"type\":\"BPE\","
                     "\"vocab\":{" VOCAB ",\"11\":13,\"b1\":14,\"1a\":15},\"merges\":["
                     "\"1 1\",\"b 1\",\"1 a\",\"a b\"]}}",
                     rows[i].behavior) < 0)
            fail();
        struct tokenizer *tokenizer = open_json(text);
        expect(tokenizer, "abb11ab", TOKENIZER_PLAIN, rows[i].want);
        tokenizer_close(tokenizer);
        free(text);
    }
}

/* Llama 2's shape: characters, byte tokens, "\u2581" before the text and for spaces. */
static struct tokenizer *open_llama_like(void) {
    struct {
        char *data;
        size_t bytes;
    } text;
    FILE *file = open_memstream(&text.data, &text.bytes);
    fputs(
        "{\"added_tokens\":[" ADDED(0, "<unk>", ",\"special\":true") "," ADDED(
            1, "<s>",
            ",\"special\":true,\"normalized\":false") "],"
                                                      "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\","
                                                      "\"prepend\":\"\\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
                                                      "\"content\":\"\\u2581\"}]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
                                                      "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},"
                                                      "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \","
                                                      "\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\","
                                                      "\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,",
        file);
    for (int i = 0; i < 256; i++) fprintf(file, "\"<0x%02X>\":%d,", i, i + 3);
    fputs("\"\\u2581\":300,\"a\":301,\"b\":302,\"\\u2581a\":303,\"ab\":304,\"\\u2581ab\":305},"
          "\"merges\":[\"\\u2581 a\",\"a b\",\"\\u2581 ab\",\"\\u2581a b\"]}}",
          file);
    fclose(file);
    struct tokenizer *tokenizer = open_json(text.data);
    free(text.data);
    return tokenizer;
}

static void test_byte_fallback(void **state) {
    (void)state;
    struct tokenizer *tokenizer = open_llama_like();
    expect(tokenizer, "ab a", TOKENIZER_PLAIN, "305 303");
    expect(tokenizer, "  b", TOKENIZER_PLAIN, "300 300 300 302");
    expect(tokenizer, "a\xC3\xA9", TOKENIZER_PLAIN, "303 198 172");
    /* bytes that are no UTF-8 are bytes; what follows is the same text, without a second prefix */
    expect(tokenizer,
           "a\xFF"
           "ab",
           TOKENIZER_PLAIN, "303 258 304");
    expect(tokenizer, "\xC3", TOKENIZER_PLAIN, "198");
    expect(tokenizer, "a<s>a", TOKENIZER_PARSE_SPECIAL, "303 1 303");
    expect_text(tokenizer, (int32_t[]){1, 303, 303}, 3, false, "a a");
    expect_text(tokenizer, (int32_t[]){1, 303, 303}, 3, true, "<s> a a");
    expect_text(tokenizer, (int32_t[]){303, 198, 172}, 3, false, "a\xC3\xA9");
    /* one byte too few makes all of the run U+FFFD, each byte its own */
    expect_text(tokenizer, (int32_t[]){303, 198, 172, 198, 301}, 5, false,
                "a" UTF8_REPLACEMENT UTF8_REPLACEMENT UTF8_REPLACEMENT "a");
    tokenizer_close(tokenizer);
}

/* Streams a random mix of bytes in random pieces: what comes out never holds half a character, and
 * all of it is what decoding at once gives. */
static void test_stream_property(void **state) {
    static const char *const samples[] = {
        "a",        "\xC3\xA9",         "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
        "\xFF",     "\xF0\x9F",         "\xED\xA0\x80", "\xC0\x80",
        "\xE2\x82", "\xF4\x90\x80\x80", "\x80"};
    (void)state;
    /* a tiktoken file with the 256 bytes, and halves and wholes of characters */
    struct {
        char *data;
        size_t bytes;
    } text;
    FILE *file = open_memstream(&text.data, &text.bytes);
    static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 256; i++)
        fprintf(file, "%c%c== %d\n", base64[i >> 2], base64[(i & 3) << 4], i);
    fputs("w6k= 256\n4oI= 257\n8J+Y 258\nn5g= 259\n/4A= 260\n", file);
    fclose(file);
    struct tokenizer *tokenizer;
    assert_ok(open_text(&tokenizer, "x.tiktoken", text.data, text.bytes));
    free(text.data);
    char *out = malloc(tokenizer_max_bytes(tokenizer) + 8), streamed[4096];
    for (uint64_t run = 0; run < 3000; run++) {
        int32_t ids[128];
        size_t count = 0, used = 0;
        for (int i = 0; i < 20; i++) {
            uint32_t draw = (uint32_t)(draw_of(7, run, (uint64_t)i) >> 33);
            if (draw % 4 == 0) {
                ids[count++] = 256 + (int32_t)(draw / 4 % 5);
                continue;
            }
            for (const char *c = samples[draw / 4 % 11]; *c; c++) ids[count++] = (unsigned char)*c;
        }
        struct token_stream stream;
        token_stream_init(&stream, tokenizer, false);
        for (size_t i = 0; i <= count; i++) {
            size_t room = tokenizer_max_bytes(tokenizer) + 8;
            size_t got = i < count ? token_stream_push(&stream, ids[i], out, room)
                                   : token_stream_finish(&stream, out, room);
            assert_int_equal(utf8_valid_prefix(out, got), got);
            memcpy(streamed + used, out, got);
            used += got;
        }
        char *whole;
        size_t bytes;
        assert_ok(tokenizer_decode(tokenizer, ids, count, false, &whole, &bytes));
        assert_int_equal(bytes, used);
        assert_memory_equal(whole, streamed, used);
        free(whole);
    }
    free(out);
    tokenizer_close(tokenizer);
}

/* The heap of long words and the scan of short ones are the same rule. */
static void test_merge_long_is_short(void **state) {
    (void)state;
    struct pair_map pairs = {0};
    for (int32_t i = 0; i < 40; i++) {
        uint64_t draw = draw_of(3, (uint64_t)i, 0);
        assert_ok(pair_map_put(&pairs, (int32_t)(draw % 8), (int32_t)(draw / 8 % 8),
                               (int32_t)(draw / 64 % 10), (int32_t)(draw / 640 % 8)));
    }
    struct merge_scratch whole = {0};
    size_t merged = 0;
    for (uint64_t run = 0; run < 300; run++) {
        /* words of three symbols, kept apart by one that never merges */
        struct merge_scratch part = {0};
        int32_t want[400];
        size_t wanted = 0;
        whole.count = 0;
        for (uint64_t word = 0; word < 40; word++) {
            part.count = 0;
            for (uint64_t i = 0; i < 3; i++) {
                int32_t symbol = (int32_t)(draw_of(4, run, word * 3 + i) % 8);
                assert_true(merge_push(&part, symbol) && merge_push(&whole, symbol));
            }
            assert_true(merge_push(&whole, 99));
            assert_true(merge_run(&pairs, &part, -1));
            for (size_t i = 0; i < part.count; i++) want[wanted++] = part.symbols[i];
            merged += 3 - part.count;
            want[wanted++] = 99;
        }
        assert_true(merge_run(&pairs, &whole, -1));
        assert_int_equal(whole.count, wanted);
        assert_memory_equal(whole.symbols, want, wanted * sizeof *want);
        merge_scratch_free(&part);
    }
    assert_true(merged > 1000);
    merge_scratch_free(&whole);
    pair_map_free(&pairs);
}

static void test_broken_files(void **state) {
    static const struct {
        const char *name, *text, *says;
    } rows[] = {
        {"tokenizer.json", "{", "JSON"},
        {"tokenizer.json", "{\"model\": " NESTED_JSON, "nested deeper than 128"},
        {"tokenizer.json", "[]", ""},
        {"tokenizer.json", "{}", "no model"},
        {"tokenizer.json", "{\"model\":{\"type\":\"WordPiece\"}}", "WordPiece"},
        {"tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "vocab"},
        {"tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}",
         "'a'"},
        {"tokenizer.json",
         "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999},\"merges\":[]}}", "'a'"},
        {"tokenizer.json",
         "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "'b'"},
        {"tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}}",
         "merges[0]"},
        {"tokenizer.json",
         "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", "'a' + 'a'"},
        {"tokenizer.json",
         "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"}},\"model\":{"
         "\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}",
         "regex '('"},
        {"tokenizer.json",
         "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAAA\"},"
         "\"model\":{}}",
         "charsmap"},
        {"tokenizer.json", "{\"normalizer\":{\"type\":\"Magic\"},\"model\":{}}", "Magic"},
        {"tokenizer.json",
         "{\"model\":{\"type\":\"Unigram\",\"unk_id\":7,\"vocab\":[[\"a\",0.0]]}}", "unk_id"},
        {"tokenizer.model", "", "SentencePiece"},
        {"tokenizer.model", "\x0a\x05\x0a\x01", "SentencePiece"},
        {"tokenizer.model", "\x0a\x03\x0a\x09z", "piece 0"},
        {"x.tiktoken", "IQ== 0\n??? 1\n", "line 2"},
        {"x.tiktoken", "IQ== 0\nIg== -1\n", "id -1"},
        {"x.gguf", "GGUF", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tokenizer *tokenizer = NULL;
        enum status status =
            open_text(&tokenizer, rows[i].name, rows[i].text, strlen(rows[i].text));
        if (status == STATUS_OK) fail_msg("row %zu opened", i);
        assert_null(tokenizer);
        if (!strstr(status_message(), rows[i].says) || !strstr(status_message(), rows[i].name))
            fail_msg("row %zu says '%s'", i, status_message());
        assert_null(strchr(status_message(), '\n'));
    }
}

static void test_hash(void **state) {
    (void)state;
    struct tokenizer *one = open_json("{" BYTES BPE("") "}"),
                     *same = open_json("{" BYTES BPE("") "}");
    struct tokenizer *other = open_json("{" BYTES BPE("\"ignore_merges\":true,") "}");
    assert_true(tokenizer_hash(one) == tokenizer_hash(same));
    assert_true(tokenizer_hash(one) != tokenizer_hash(other));
    tokenizer_close(one);
    tokenizer_close(same);
    tokenizer_close(other);
}

/* Twice the same text gives the same file, which opens, and pairs merge by frequency, then by id.
 */
static void test_training(void **state) {
    static const char text[] = "low low low lower newest newest widest<|x|>low\xFF low 123456";
    static const char *const specials[] = {"<|x|>"};
    (void)state;
    char folder[] = "/tmp/strata-test-XXXXXX", *path;
    assert_non_null(mkdtemp(folder));
    if (asprintf(&path, "%s/tokenizer.json", folder) < 0) fail();
    uint64_t hashes[2];
    for (int run = 0; run < 2; run++) {
        struct bpe_trainer *trainer;
        struct tokenizer *tokenizer;
        assert_ok(bpe_trainer_create(&trainer, specials, 1));
        assert_ok(bpe_trainer_add(trainer, text, strlen(text)));
        assert_ok(bpe_trainer_run(trainer, 1 + 256 + 5));
        assert_int_equal(bpe_trainer_size(trainer), 262);
        assert_ok(bpe_trainer_write(trainer, path));
        bpe_trainer_free(trainer);
        assert_ok(tokenizer_open(&tokenizer, path));
        hashes[run] = tokenizer_hash(tokenizer);
        /* by hand: "l o" and "o w" occur 6 times each, l has the smaller id; then "lo w" 6 times;
         * "space low" 4 times; "e s" and "s t" 3 times, e is smaller; then "es t" */
        assert_int_equal(tokenizer_find(tokenizer, "lo"), 257);
        assert_int_equal(tokenizer_find(tokenizer, "low"), 258);
        assert_int_equal(tokenizer_find(tokenizer, "\xC4\xA0low"), 259);
        assert_int_equal(tokenizer_find(tokenizer, "es"), 260);
        assert_int_equal(tokenizer_find(tokenizer, "est"), 261);
        expect(tokenizer, "low low<|x|>est", TOKENIZER_PARSE_SPECIAL, "258 259 0 261");
        tokenizer_close(tokenizer);
    }
    assert_true(hashes[0] == hashes[1]);
    struct bpe_trainer *trainer;
    assert_ok(bpe_trainer_create(&trainer, NULL, 0));
    assert_int_equal(bpe_trainer_run(trainer, 255), STATUS_CONFIG);
    bpe_trainer_free(trainer);
    unlink(path);
    rmdir(folder);
    free(path);
}

/* The bundled tokenizer with one added token behind its last. */
static void write_with_added_token(const char *path) {
    json_t *root = json_load_file("models/base/tokenizer.json", 0, NULL);
    assert_non_null(root);
    json_array_append_new(json_object_get(root, "added_tokens"),
                          json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", 4096, "content",
                                    "<pad>", "special", 1, "normalized", 0, "lstrip", 0, "rstrip",
                                    0, "single_word", 0));
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
}

static void test_added_tokens_may_lie_beyond_the_model(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    struct temporary folder;
    temporary_open(&folder);
    write_with_added_token(temporary_file(&folder, "tokenizer.json"));
    assert_ok(tokenizer_open(&tokenizer, folder.path));
    assert_int_equal(tokenizer_size(tokenizer), 4097);
    assert_ok(tokenizer_check_vocabulary(tokenizer, 4096, "m"));
    assert_int_equal(tokenizer_check_vocabulary(tokenizer, 4095, "m"), STATUS_SHAPE);
    tokenizer_close(tokenizer);
    temporary_close(&folder);
}

/* A model may have more ids than its tokenizer, never fewer that a text can give. */
static void test_sizes_are_held_together(void **state) {
    (void)state;
    struct tokenizer *tokenizer;
    assert_ok(tokenizer_open(&tokenizer, "models/base"));
    int32_t size = tokenizer_size(tokenizer);
    assert_ok(tokenizer_check_vocabulary(tokenizer, size, "m"));
    assert_ok(tokenizer_check_vocabulary(tokenizer, size + 64, "m"));
    assert_ok(tokenizer_check_vocabulary(tokenizer, 8 * size, "m"));
    assert_int_equal(tokenizer_check_vocabulary(tokenizer, size - 1, "m"), STATUS_SHAPE);
    assert_non_null(strstr(status_message(), "m: the tokenizer has 4096 tokens"));
    assert_non_null(strstr(status_message(), "only 4095"));
    tokenizer_close(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_held_together),
        cmocka_unit_test(test_added_tokens_may_lie_beyond_the_model),
        cmocka_unit_test(test_merges_by_rank),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_template),
        cmocka_unit_test(test_split_behaviors),
        cmocka_unit_test(test_byte_fallback),
        cmocka_unit_test(test_stream_property),
        cmocka_unit_test(test_merge_long_is_short),
        cmocka_unit_test(test_broken_files),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_training),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
