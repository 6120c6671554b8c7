/* Vectors of ids of tiktoken's vocabularies and of Mistral's requests. Each test says how many it
 * compared. */
#define _GNU_SOURCE
#include "tests/temporary.h"
#include "tests/tokenizer_vectors.h"

static void test_tiktoken_source(void **state) {
    static const struct {
        const char *expected, *tokenizer;
    } sets[] = {{"tok_tiktoken/ms_tokens_gpt2.json", "tok_tiktoken/r50k_base.tiktoken"},
                {"tok_tiktoken/ms_tokens_r50k_base.json", "tok_tiktoken/r50k_base.tiktoken"},
                {"tok_tiktoken/ms_tokens_gpt_3.5_turbo.json", "tok_tiktoken/cl100k_base.tiktoken"},
                {"tok_tiktoken/ms_tokens_gpt_4o.json", "tok_tiktoken/o200k_base.tiktoken.gz"}};
    (void)state;
    size_t bytes, compared = 0;
    char *text = vectors_read_text("tok_tiktoken/ms_lib.rs.txt", &bytes);
    for (; compared < 4; compared++) {
        struct tokenizer *tokenizer = vectors_open(sets[compared].tokenizer);
        json_t *ids = vectors_read_json(sets[compared].expected),
               *string = json_stringn(text, bytes);
        vectors_expect_json(tokenizer, string, TOKENIZER_PLAIN, ids, sets[compared].expected);
        json_decref(string);
        json_decref(ids);
        tokenizer_close(tokenizer);
    }
    free(text);
    vectors_done(compared, 4);
}

/* "EncodingName: x\nSample: text\nEncoded: [ids]\n", and an empty line between. */
static size_t expect_plans(char *plans, const char *encoding, const struct tokenizer *tokenizer) {
    static const char sample_key[] = "\nSample: ", ids_key[] = "\nEncoded: [";
    size_t compared = 0, name_bytes = strlen(encoding);
    for (char *at = plans; (at = strstr(at, "EncodingName: "));) {
        char *name = at + strlen("EncodingName: "), *sample = strstr(name, sample_key);
        char *ids = sample ? strstr(sample, ids_key) : NULL;
        assert_non_null(ids);
        at = ids;
        if (strncmp(name, encoding, name_bytes) != 0 || (name[name_bytes] != '\n')) continue;
        const char *text = sample + sizeof sample_key - 1;
        json_error_t error;
        json_t *want = json_loads(strchr(ids, '['), JSON_DISABLE_EOF_CHECK, &error);
        json_t *string = json_stringn(text, (size_t)(ids - text));
        vectors_expect_json(tokenizer, string, TOKENIZER_PLAIN, want, encoding);
        json_decref(want);
        json_decref(string);
        compared++;
    }
    return compared;
}

/* p50k is r50k and, from id 50257 on, runs of 2 to 25 spaces. */
static void write_p50k(struct temporary *folder) {
    size_t bytes, room;
    char *r50k = vectors_read_text("tok_tiktoken/r50k_base.tiktoken", &bytes);
    room = bytes + 24 * 64;
    r50k = realloc(r50k, room);
    assert_non_null(r50k);
    for (int spaces = 2; spaces <= 25; spaces++) {
        static const char *const rest[] = {"", "IA==", "ICA="};
        for (int i = 0; i < spaces / 3; i++)
            bytes += (size_t)snprintf(r50k + bytes, room - bytes, "ICAg");
        bytes += (size_t)snprintf(r50k + bytes, room - bytes, "%s %d\n", rest[spaces % 3],
                                  50257 + spaces - 2);
    }
    assert_true(bytes < room);
    temporary_write(folder, "p50k.tiktoken", r50k, bytes);
    free(r50k);
}

/* p50k_edit differs from p50k_base by control tokens alone. */
static void test_tiktoken_plans(void **state) {
    struct temporary folder;
    temporary_open(&folder);
    write_p50k(&folder);
    const struct {
        const char *encoding, *tokenizer;
        size_t count;
    } sets[] = {{"r50k_base", "tok_tiktoken/r50k_base.tiktoken", 64},
                {"p50k_base", temporary_file(&folder, "p50k.tiktoken"), 64},
                {"p50k_edit", temporary_file(&folder, "p50k.tiktoken"), 64},
                {"cl100k_base", "tok_tiktoken/cl100k_base.tiktoken", 64},
                {"o200k_base", "tok_tiktoken/o200k_base.tiktoken.gz", 57}};
    (void)state;
    size_t bytes, compared = 0, there = 0;
    char *plans = vectors_read_text("tok_tiktoken/niieani_TestPlans.txt", &bytes);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        struct tokenizer *tokenizer = vectors_open(sets[i].tokenizer);
        size_t count = expect_plans(plans, sets[i].encoding, tokenizer);
        assert_int_equal(count, sets[i].count);
        compared += count;
        tokenizer_close(tokenizer);
    }
    for (const char *at = plans; (at = strstr(at, "EncodingName: ")); at++) there++;
    free(plans);
    temporary_close(&folder);
    vectors_done(compared, there);
}

/* Rendered requests: the text shows a space as U+2581, a control token by its name, and a newline
 * as <0x0A>. Each stretch of text between control tokens was encoded by itself. */
static char *unescape(const char *shown, size_t bytes) {
    char *text = malloc(bytes + 1);
    size_t count = 0;
    for (size_t i = 0; i < bytes;) {
        if (strncmp(shown + i, "\xE2\x96\x81", 3) == 0) {
            text[count++] = ' ';
            i += 3;
        } else if (strncmp(shown + i, "<0x0A>", 6) == 0) {
            text[count++] = '\n';
            i += 6;
        } else {
            text[count++] = shown[i++];
        }
    }
    text[count] = 0;
    return text;
}

/* The dummy space that each stretch got is shown in the text, so it is taken away again. */
static void drop_dummy_spaces(const struct tokenizer *tokenizer, char *text) {
    bool after_control = true;
    char *to = text;
    for (char *from = text; *from;) {
        char *close = *from == '<' ? strchr(from, '>') : *from == '[' ? strchr(from, ']') : NULL;
        if (close) {
            char saved = close[1];
            close[1] = 0;
            int32_t id = tokenizer_find(tokenizer, from);
            close[1] = saved;
            if (id >= 0 && tokenizer_is_control(tokenizer, id)) {
                memmove(to, from, (size_t)(close - from) + 1);
                to += close - from + 1;
                from = close + 1;
                after_control = true;
                continue;
            }
        }
        if (!after_control || *from != ' ') *to++ = *from;
        from++;
        after_control = false;
    }
    *to = 0;
}

static void test_mistral_requests(void **state) {
    static const char *const models[] = {"tokenizer.model.v1",
                                         "mistral_instruct_tokenizer_240216.model.v2",
                                         "mistral_instruct_tokenizer_240323.model.v3"};
    static const char *const samples[] = {
        "get_weather_full", "get_weather_no_history", "get_weather_no_system_prompt",
        "no_tools",         "parallel_calls",         "several_calls"};
    (void)state;
    size_t compared = 0;
    for (int version = 1; version <= 3; version++) {
        char *name;
        if (asprintf(&name, "tok_mistral_spm/%s", models[version - 1]) < 0) fail();
        struct tokenizer *tokenizer = vectors_open(name);
        free(name);
        for (size_t s = 0; s < 6; s++) {
            char *shown_name, *ids_name;
            size_t bytes;
            if (version == 1 && strcmp(samples[s], "no_tools") != 0) continue;
            if (asprintf(&shown_name, "tok_mistral_spm/samples/%s/text_v%d.txt", samples[s],
                         version) < 0)
                fail();
            if (asprintf(&ids_name, "tok_mistral_spm/samples/%s/tokens_v%d.json", samples[s],
                         version) < 0)
                fail();
            char *shown = vectors_read_text(shown_name, &bytes), *text = unescape(shown, bytes);
            drop_dummy_spaces(tokenizer, text);
            json_t *root = vectors_read_json(ids_name), *string = json_string(text);
            json_t *ids = json_is_object(root) ? json_object_get(root, "tokens") : root;
            vectors_expect_json(tokenizer, string, TOKENIZER_PARSE_SPECIAL, ids, ids_name);
            compared++;
            json_decref(string);
            json_decref(root);
            free(text);
            free(shown);
            free(ids_name);
            free(shown_name);
        }
        tokenizer_close(tokenizer);
    }
    vectors_done(compared, 13);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiktoken_source),
        cmocka_unit_test(test_tiktoken_plans),
        cmocka_unit_test(test_mistral_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
