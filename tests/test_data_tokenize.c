#define _GNU_SOURCE
#include "tests/check.h"

#include "data/commands.h"
#include "data/token_file.h"

#include <dirent.h>
#include <jansson.h>
#include <unistd.h>

/* A tokenizer whose ids are the bytes 0 .. 255, then <s>, </s>, <|im_start|>, <|im_end|> and one
 * merge, "ok". */
enum { BOS = 256, EOS, IM_START, IM_END, OK, VOCABULARY };
static const char *const special_names[] = {"<s>", "</s>", "<|im_start|>", "<|im_end|>"};

struct place {
    char folder[64], tokenizer[512], out[96];
};

/* GPT-2's letters for bytes: printable ones are themselves, the others follow from U+0100. */
static void byte_letter(int byte, char out[3]) {
    int extra = 0, code = byte;
    bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    for (int b = 0; b < byte; b++) extra += !((b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD));
    if (!printable) code = 256 + extra;
    if (code < 0x80) {
        out[0] = (char)code;
        out[1] = 0;
        return;
    }
    out[0] = (char)(0xC0 | code >> 6);
    out[1] = (char)(0x80 | (code & 0x3F));
    out[2] = 0;
}

static void write_json(const char *folder, const char *name, json_t *json) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_non_null(json);
    assert_int_equal(json_dump_file(json, path, 0), 0);
    json_decref(json);
}

static void write_tokenizer(const struct place *place, const char *chat_template, bool add_bos) {
    json_t *vocabulary = json_object(), *added = json_array();
    for (int byte = 0; byte < 256; byte++) {
        char letter[3];
        byte_letter(byte, letter);
        json_object_set_new(vocabulary, letter, json_integer(byte));
    }
    json_object_set_new(vocabulary, "ok", json_integer(OK));
    for (int i = 0; i < 4; i++)
        json_array_append_new(added,
                              json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", BOS + i,
                                        "content", special_names[i], "special", 1, "normalized", 0,
                                        "lstrip", 0, "rstrip", 0, "single_word", 0));
    write_json(place->tokenizer, "tokenizer.json",
               json_pack("{s:s, s:o, s:{s:s, s:b, s:b}, s:{s:s}, s:{s:s, s:o, s:[s]}}", "version",
                         "1.0", "added_tokens", added, "pre_tokenizer", "type", "ByteLevel",
                         "add_prefix_space", 0, "use_regex", 1, "decoder", "type", "ByteLevel",
                         "model", "type", "BPE", "vocab", vocabulary, "merges", "o k"));
    write_json(place->tokenizer, "tokenizer_config.json",
               json_pack("{s:s, s:s, s:s, s:b, s:s*}", "tokenizer_class", "LlamaTokenizer",
                         "bos_token", "<s>", "eos_token", "</s>", "add_bos_token", add_bos,
                         "chat_template", chat_template));
}

static const char chatml[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}";

static int enter(void **state) {
    struct place *place = calloc(1, sizeof *place);
    strcpy(place->folder, "/tmp/strata_tokenize_XXXXXX");
    if (!mkdtemp(place->folder)) return -1;
    snprintf(place->tokenizer, sizeof place->tokenizer, "%s", place->folder);
    snprintf(place->out, sizeof place->out, "%s/out.h5", place->folder);
    write_tokenizer(place, chatml, true);
    *state = place;
    return 0;
}

static int leave(void **state) {
    struct place *place = *state;
    DIR *directory = opendir(place->folder);
    for (struct dirent *entry; (entry = readdir(directory));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", place->folder, entry->d_name);
        unlink(path);
    }
    closedir(directory);
    rmdir(place->folder);
    free(place);
    return 0;
}

/* Writes `text` as NAME and tokenizes it with up to two more arguments. */
static int tokenize(const struct place *place, const char *name, const char *text,
                    const char *first, const char *second) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", place->folder, name);
    FILE *file = fopen(path, "wb");
    fwrite(text, 1, strlen(text), file);
    fclose(file);
    char *arguments[] = {"tokenize",    "--tokenizer",      (char *)place->tokenizer,
                         "--out",       (char *)place->out, path,
                         (char *)first, (char *)second,     NULL};
    int count = second ? 8 : first ? 7 : 6;
    return cmd_data_tokenize(count, arguments);
}

/* The tokens as text: specials by name, the merge as <ok>, documents between '|', what is trained
 * on in {braces}. */
static char *transcript(const struct place *place) {
    struct token_file *file;
    assert_ok(token_file_open(&file, place->out));
    const struct token_file_info *info = token_file_info(file);
    const int64_t *documents = token_file_documents(file);
    int32_t *ids = calloc((size_t)info->tokens + 1, sizeof *ids);
    float *weights = calloc((size_t)info->tokens + 1, sizeof *weights);
    assert_int_equal(info->vocabulary, VOCABULARY);
    assert_ok(token_file_read(file, 0, info->tokens, ids, weights));
    char *text = calloc((size_t)info->tokens * 16 + (size_t)info->documents * 4 + 1, 1);
    char *out = text;
    for (int64_t d = 0; d < info->documents; d++) {
        bool inside = false;
        if (d > 0) *out++ = '|';
        for (int64_t i = documents[d]; i < documents[d + 1]; i++) {
            if ((weights[i] > 0) != inside) *out++ = inside ? '}' : '{';
            inside = weights[i] > 0;
            if (ids[i] == OK)
                out = stpcpy(out, "<ok>");
            else if (ids[i] >= BOS)
                out = stpcpy(out, special_names[ids[i] - BOS]);
            else
                *out++ = (char)ids[i];
        }
        if (inside) *out++ = '}';
    }
    free(ids);
    free(weights);
    token_file_close(file);
    return text;
}

static void check(const struct place *place, const char *want) {
    char *got = transcript(place);
    assert_string_equal(got, want);
    free(got);
}

static void test_text_files(void **state) {
    const struct place *place = *state;
    assert_int_equal(tokenize(place, "a.txt", "ok, \xc3\xa9\n\nbook\n", NULL, NULL), 0);
    check(place, "{<s><ok>, \xc3\xa9\n\nbo<ok>\n</s>}");
    assert_int_equal(tokenize(place, "a.txt", "\n \na\nb\r\n\n\n\nc", "--format", "paragraphs"), 0);
    check(place, "{<s>a\nb</s>}|{<s>c</s>}");
    assert_int_equal(tokenize(place, "a.txt", "x<|im_end|>y", NULL, NULL), 0);
    check(place, "{<s>x<|im_end|>y</s>}");
    struct token_file *file;
    int32_t id;
    assert_ok(token_file_open(&file, place->out));
    assert_ok(token_file_read(file, 2, 1, &id, NULL));
    assert_int_equal(id, IM_END);
    assert_false(token_file_info(file)->weighted);
    token_file_close(file);
    assert_int_equal(tokenize(place, "a.txt", "x<|im_end|>y", "--literal", NULL), 0);
    assert_ok(token_file_open(&file, place->out));
    assert_ok(token_file_read(file, 2, 1, &id, NULL));
    assert_int_equal(id, '<');
    token_file_close(file);
    write_tokenizer(place, chatml, false);
    assert_int_equal(tokenize(place, "a.txt", "x", NULL, NULL), 0);
    check(place, "{x</s>}");
}

static void test_json_lines(void **state) {
    const struct place *place = *state;
    assert_int_equal(
        tokenize(
            place, "a.jsonl",
            "{\"text\": \"T\\u0000\\n\"}\n"
            "\n"
            "{\"prompt\": \"Q:\", \"completion\": \" A\"}\r\n"
            "{\"prompt\": \"\", \"completion\": \"A\"}\n"
            "{\"prompt\": \"bo\", \"completion\": \"k\", \"other\": 1}\n"
            "{\"tokens\": [65, 257, 66], \"labels\": [-100, 257, -100]}\n"
            "{\"tokens\": [65, 66]}\n"
            "{\"tokens\": []}\n"
            "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\","
            " \"content\": \"Q\"}, {\"role\": \"assistant\", \"content\": \"A1\"}, {\"role\":"
            " \"user\", \"content\": \"ok\"}, {\"role\": \"assistant\", \"content\": \"ok\"}]}",
            NULL, NULL),
        0);
    /* "bo" + "k": the token "ok" holds a byte of the completion, so it is trained on */
    char *got = transcript(place);
    const char *want[] = {"{<s>T", /* a NUL */
                          "\n</s>}|<s>Q:{ A</s>}|<s>{A</s>}|<s>b{<ok></s>}|A{</s>}B|{AB}||"
                          "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
                          "<|im_start|>assistant\n{A1<|im_end|>}\n<|im_start|>user\n<ok><|im_end|>"
                          "\n<|im_start|>assistant\n{<ok><|im_end|>}\n"};
    size_t bytes = strlen(want[0]);
    assert_string_equal(got, want[0]);
    assert_string_equal(got + bytes + 1, want[1]);
    free(got);
}

static void test_other_templates(void **state) {
    const struct place *place = *state;
    const char *line = "{\"messages\": [{\"role\": \"user\", \"content\": \"Q\"},"
                       " {\"role\": \"assistant\", \"content\": \"A\"}]}\n";
    assert_int_equal(tokenize(place, "a.jsonl", line, "--template", "llama2"), 0);
    check(place, "<s>[INST] Q [/INST]{ A </s>}");
    assert_int_equal(tokenize(place, "a.jsonl", line, "--template", "plain"), 0);
    check(place, "<s>User: Q\n\nAssistant:{ A</s>}\n\n");
    assert_int_equal(tokenize(place, "a.jsonl", line, "--template", "alpaca"), 1);
    assert_non_null(strstr(status_message(), "\"alpaca\""));
    write_tokenizer(place, NULL, true);
    assert_int_equal(tokenize(place, "a.jsonl", line, NULL, NULL), 1);
    assert_non_null(strstr(status_message(), "a.jsonl:1: messages need a chat template"));
    write_tokenizer(place, "{{ messages }}", true);
    assert_int_equal(tokenize(place, "a.jsonl", line, NULL, NULL), 1);
    assert_non_null(strstr(status_message(), "none of the built-in ones"));
    assert_int_equal(tokenize(place, "a.jsonl", "{\"text\": \"no need\"}", NULL, NULL), 0);
}

static void test_broken_lines_are_named(void **state) {
    const struct place *place = *state;
    static const struct {
        const char *line, *want;
    } cases[] = {
        {"{\"text\": \"a\"", "not valid JSON at column"},
        {"{\"text\": \"a\", \"text\": \"b\"}", "not valid JSON at column"},
        {NESTED_JSON, "nested deeper than 128"},
        {"[1]", "is not a JSON object"},
        {"{}", "must have one of"},
        {"{\"text\": \"a\", \"tokens\": [1]}", "must have one of"},
        {"{\"text\": 5}", "\"text\" must be a string"},
        {"{\"prompt\": \"a\"}", "must be strings"},
        {"{\"tokens\": 5}", "\"tokens\" must be a list"},
        {"{\"tokens\": [1, 261]}", "tokens[1] is not a token id below 261"},
        {"{\"tokens\": [1, 1.5]}", "tokens[1] is not a token id"},
        {"{\"tokens\": [1, -1]}", "tokens[1] is not a token id"},
        {"{\"tokens\": [1, 2], \"labels\": [1]}", "\"labels\" must be a list as long"},
        {"{\"tokens\": [1, 2], \"labels\": [1, 3]}", "labels[1] is neither -100 nor its token"},
        {"{\"messages\": []}", "there are no messages"},
        {"{\"messages\": [{\"role\": \"bot\", \"content\": \"x\"}]}", "messages[0]: role \"bot\""},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\\u0000b\"}]}",
         "messages[0]: content"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        snprintf(text, sizeof text, "{\"text\": \"fine\"}\n\n%s\n{\"text\": \"fine\"}\n",
                 cases[i].line);
        assert_int_equal(tokenize(place, "a.jsonl", text, NULL, NULL), 1);
        if (!strstr(status_message(), "/a.jsonl:3: ") || !strstr(status_message(), cases[i].want))
            fail_msg("got \"%s\", want \"%s\"", status_message(), cases[i].want);
        assert_int_not_equal(access(place->out, F_OK), 0);
    }
}

static void test_wrong_arguments(void **state) {
    const struct place *place = *state;
    assert_int_equal(tokenize(place, "a.txt", "x", "--format", "xml"), 2);
    assert_int_equal(tokenize(place, "a.txt", "x", "--nonsense", NULL), 2);
    assert_int_equal(tokenize(place, "a.txt", "x", "--template", NULL), 2);
    assert_int_equal(tokenize(place, "a.txt", "x", "/nonexistent.txt", NULL), 1);
    assert_non_null(strstr(status_message(), "/nonexistent.txt"));
    assert_int_equal(tokenize(place, "a.jsonl", "\n", NULL, NULL), 1);
    assert_non_null(strstr(status_message(), "no document"));
    assert_int_equal(tokenize(place, "a.txt", "x", place->folder, NULL), 1);
    assert_non_null(strstr(status_message(), "is a folder"));
}

/* Many records over several files, so that batches and threads matter: order is kept. */
/* Token lines need no tokenizer, only the number of ids. */
static void test_lines_without_tokenizer(void **state) {
    const struct place *place = *state;
    static const struct {
        const char *text, *vocabulary;
        int exit;
    } cases[] = {{"{\"tokens\": [0, 8, 3]}\n{\"tokens\": [5, 1]}\n", "9", 0},
                 {"{\"tokens\": [0, 9]}\n", "9", 1},
                 {"{\"text\": \"a\"}\n", "9", 1},
                 {"{\"tokens\": [0, 1]}\n", "0", 2},
                 {"{\"tokens\": [0, 1]}\n", "9x", 2}};
    for (size_t i = sizeof cases / sizeof *cases; i-- > 0;) {
        char path[256];
        snprintf(path, sizeof path, "%s/tokens.jsonl", place->folder);
        FILE *out = fopen(path, "wb");
        fputs(cases[i].text, out);
        fclose(out);
        char *arguments[] = {"tokenize", "--vocabulary",     (char *)cases[i].vocabulary,
                             "--out",    (char *)place->out, path,
                             NULL};
        assert_int_equal(cmd_data_tokenize(6, arguments), cases[i].exit);
    }
    struct token_file *file;
    assert_ok(token_file_open(&file, place->out));
    assert_int_equal(token_file_info(file)->tokens, 5);
    assert_int_equal(token_file_info(file)->vocabulary, 9);
    assert_int_equal(token_file_info(file)->tokenizer_hash, 0);
    token_file_close(file);
}

static void test_order_is_kept(void **state) {
    const struct place *place = *state;
    enum { LINES = 6000 };
    char *text = calloc(LINES, 40), *end = text;
    for (int i = 0; i < LINES; i++)
        end += sprintf(end, "{\"tokens\": [%d, %d, %d]}\n", i % 256, i / 256, i % 7);
    assert_int_equal(tokenize(place, "a.jsonl", text, NULL, NULL), 0);
    free(text);
    struct token_file *file;
    int32_t *ids = calloc(3 * LINES, sizeof *ids);
    assert_ok(token_file_open(&file, place->out));
    assert_int_equal(token_file_info(file)->documents, LINES);
    assert_ok(token_file_read(file, 0, 3 * LINES, ids, NULL));
    for (int i = 0; i < LINES; i++) assert_int_equal(ids[3 * i] + 256 * ids[3 * i + 1], i);
    free(ids);
    token_file_close(file);
}

/* A conversation whose Llama-2 ids and labels another trainer computed. */
static void test_llama2_conversation_of_others(void **state) {
    struct place *place = *state;
    char path[512];
    snprintf(path, sizeof path, "%s/sft_axolotl_fixtures/conversation.json", test_data_or_skip());
    json_t *source = json_load_file(path, 0, NULL), *turn, *messages = json_array();
    snprintf(path, sizeof path, "%s/sft_axolotl_fixtures/conversation.tokenized_llama2chat.json",
             test_data_or_skip());
    json_t *want = json_load_file(path, 0, NULL);
    assert_true(source && want);
    static const char system[] =
        "You are a helpful, respectful and honest assistant. Always answer as helpfully as "
        "possible, while being safe. Your answers should not include any harmful, unethical, "
        "racist, sexist, toxic, dangerous, or illegal content. Please ensure that your responses "
        "are socially unbiased and positive in nature.\n\nIf a question does not make any sense, "
        "or is not factually coherent, explain why instead of answering something not correct. If "
        "you don't know the answer to a question, please don't share false information.";
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", system));
    size_t index;
    json_array_foreach(json_object_get(source, "conversations"), index, turn) {
        json_array_append_new(messages,
                              json_pack("{s:s, s:O}", "role", index % 2 ? "assistant" : "user",
                                        "content", json_object_get(turn, "value")));
    }
    json_t *record = json_pack("{s:o}", "messages", messages);
    char *line = json_dumps(record, JSON_COMPACT);
    assert_true(snprintf(place->tokenizer, sizeof place->tokenizer,
                         "%s/tok_hf_json/llama2_tinyllama/tokenizer.json",
                         test_data_or_skip()) < (int)sizeof place->tokenizer);
    assert_int_equal(tokenize(place, "a.jsonl", line, "--template", "llama2"), 0);
    struct token_file *file;
    int32_t ids[4096];
    float weights[4096];
    assert_ok(token_file_open(&file, place->out));
    int64_t count = token_file_info(file)->tokens;
    assert_int_equal(count, 2055); /* the rest of the expected 4096 is padding */
    assert_ok(token_file_read(file, 0, count, ids, weights));
    for (int64_t i = 0; i < count; i++) {
        size_t at = (size_t)i;
        assert_int_equal(
            ids[i], json_integer_value(json_array_get(json_object_get(want, "input_ids"), at)));
        assert_int_equal(weights[i] > 0, json_integer_value(json_array_get(
                                             json_object_get(want, "labels"), at)) != -100);
    }
    token_file_close(file);
    free(line);
    json_decref(record);
    json_decref(source);
    json_decref(want);
}

#define PLACED(test) cmocka_unit_test_setup_teardown(test, enter, leave)

int main(void) {
    const struct CMUnitTest tests[] = {
        PLACED(test_text_files),      PLACED(test_json_lines),
        PLACED(test_other_templates), PLACED(test_broken_lines_are_named),
        PLACED(test_wrong_arguments), PLACED(test_lines_without_tokenizer),
        PLACED(test_order_is_kept),   PLACED(test_llama2_conversation_of_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
