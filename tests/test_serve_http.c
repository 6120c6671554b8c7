/* A real server on a tiny model, over loopback: routes, streams, errors, load. */
#define _GNU_SOURCE
#include "tests/serving_site.h"

#include <curl/curl.h>
#include <pthread.h>

/* A refusal: its status, and the field and words that its message must name. */
static void assert_refused(const struct site *site, const char *path, const char *body,
                           size_t bytes, int status, const char *param, const char *words) {
    struct http_answer answer = http_ask(site->port, NULL, path, body, bytes);
    if (answer.status != status) fail_msg("%.80s: %d %s", body, answer.status, answer.body);
    if (!strstr(text_at(&answer, "error.message"), words))
        fail_msg("%.80s: %s lacks %s", body, answer.body, words);
    if (param) assert_string_equal(text_at(&answer, "error.param"), param);
    http_answer_free(&answer);
}

static void test_routes(void **state) {
    const struct site *site = *state;
    static const struct {
        const char *method, *path;
        int status;
        const char *words;
    } cases[] = {
        {NULL, "/health", 200, "ok"},
        {NULL, "/version", 200, "version"},
        {NULL, "/", 200, "Strata is running"},
        {NULL, "/v1/models", 200, "\"id\":\"tiny\""},
        {NULL, "/v1/models/tuned", 200, "\"parent\":\"tiny\""},
        {NULL, "/v1/models/nope", 404, "tiny, tuned"},
        {NULL, "/metrics", 200, "strata_requests_running 0"},
        {NULL, "/v2", 404, "not a route"},
        {NULL, "/v1/completions", 405, "not allowed"},
        {"DELETE", "/health", 405, "not allowed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct http_answer answer = http_ask(site->port, cases[i].method, cases[i].path, NULL, 0);
        assert_int_equal(answer.status, cases[i].status);
        if (!strstr(answer.body, cases[i].words)) fail_msg("%s: %s", cases[i].path, answer.body);
        http_answer_free(&answer);
    }
}

static void test_tokenize_and_back(void **state) {
    const struct site *site = *state;
    const char *text = "h\xC3\xA9llo <|im_end|> \xF0\x9F\x8E\x89";
    char body[256];
    snprintf(body, sizeof body, "{\"prompt\": \"%s\"}", text);
    struct http_answer answer = post_ok(site, "/tokenize", body);
    assert_int_equal(int_at(&answer, "count"), 13);
    assert_int_equal(int_at(&answer, "tokens.7"), 257);
    json_t *back = json_pack("{s:O}", "tokens", json_at(answer.json, "tokens"));
    char *tokens = json_dumps(back, 0);
    struct http_answer decoded = post_ok(site, "/detokenize", tokens);
    assert_string_equal(text_at(&decoded, "prompt"), text);
    http_answer_free(&answer);
    http_answer_free(&decoded);
    free(tokens);
    json_decref(back);
    answer =
        post_ok(site, "/tokenize", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}");
    assert_int_equal(int_at(&answer, "tokens.0"), 256);
    http_answer_free(&answer);
    assert_refused(site, "/detokenize", "{\"tokens\": [999]}", 17, 400, "tokens", "258");
}

#define CHAT                                                                                       \
    "{\"model\": \"tiny\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], "         \
    "\"max_tokens\": 24, \"temperature\": 0, \"ignore_eos\": true"

static void test_chat_streams_what_it_answers_whole(void **state) {
    const struct site *site = *state;
    struct http_answer whole = post_ok(site, "/v1/chat/completions", CHAT "}");
    assert_string_equal(text_at(&whole, "object"), "chat.completion");
    assert_string_equal(text_at(&whole, "choices.0.message.role"), "assistant");
    assert_string_equal(text_at(&whole, "choices.0.finish_reason"), "length");
    assert_int_equal(int_at(&whole, "usage.completion_tokens"), 24);
    json_int_t prompt = int_at(&whole, "usage.prompt_tokens");
    assert_int_equal(int_at(&whole, "usage.total_tokens"), prompt + 24);
    struct http_answer stream =
        post_ok(site, "/v1/chat/completions",
                CHAT ", \"stream\": true, \"stream_options\": {\"include_usage\": true}}");
    int events;
    char *text = stream_text(stream.body, 0, &events);
    assert_string_equal(text, text_at(&whole, "choices.0.message.content"));
    assert_true(events >= 4);
    json_t *first = json_loads(stream.body + 6, JSON_DISABLE_EOF_CHECK, NULL);
    assert_string_equal(json_string_value(json_at(first, "choices.0.delta.role")), "assistant");
    const char *usage = strstr(stream.body, "\"choices\":[]");
    assert_non_null(usage);
    assert_non_null(strstr(usage, "\"completion_tokens\":24"));
    const char *done = strstr(stream.body, "data: [DONE]\n\n");
    assert_non_null(done);
    assert_true(done[14] == '\0');
    json_decref(first);
    free(text);
    http_answer_free(&whole);
    http_answer_free(&stream);
}

static void test_prompts_come_in_every_form(void **state) {
    const struct site *site = *state;
    static const struct {
        const char *prompt;
        int choices;
    } cases[] = {
        {"\"abc\"", 1},
        {"[\"abc\", \"de\"]", 2},
        {"[97, 98, 99]", 1},
        {"[[97, 98, 99], [100, 101]]", 2},
    };
    char *first = NULL;
    for (int i = 0; i < 4; i++) {
        char body[256];
        snprintf(body, sizeof body,
                 "{\"prompt\": %s, \"temperature\": 0, \"max_tokens\": 9, \"n\": 2}",
                 cases[i].prompt);
        struct http_answer answer = post_ok(site, "/v1/completions", body);
        assert_int_equal(json_array_size(json_at(answer.json, "choices")), 2 * cases[i].choices);
        assert_int_equal(int_at(&answer, "usage.prompt_tokens"), cases[i].choices == 1 ? 3 : 5);
        if (!first) first = strdup(text_at(&answer, "choices.0.text"));
        assert_string_equal(text_at(&answer, "choices.0.text"), first);
        assert_string_equal(text_at(&answer, "choices.1.text"), first);
        http_answer_free(&answer);
    }
    free(first);
}

static void test_scores_of_a_prompt(void **state) {
    const struct site *site = *state;
    struct http_answer answer =
        post_ok(site, "/v1/completions",
                "{\"prompt\": [[97, 98, 99, 100]], \"echo\": true, \"max_tokens\": 1, "
                "\"logprobs\": 1, \"temperature\": 0}");
    const json_t *logprobs = json_at(answer.json, "choices.0.logprobs");
    assert_int_equal(json_array_size(json_at(logprobs, "tokens")), 5);
    assert_int_equal(json_array_size(json_at(logprobs, "token_logprobs")), 5);
    assert_true(json_is_null(json_at(logprobs, "token_logprobs.0")));
    assert_true(json_is_null(json_at(logprobs, "top_logprobs.0")));
    /* greedy: the drawn token is the best one, with the same figure */
    const char *token = json_string_value(json_at(logprobs, "tokens.4"));
    const json_t *top = json_object_get(json_at(logprobs, "top_logprobs.4"), token);
    assert_true(json_real_value(top) == json_real_value(json_at(logprobs, "token_logprobs.4")));
    assert_int_equal(json_object_size(json_at(logprobs, "top_logprobs.4")), 1);
    assert_int_equal(strncmp(text_at(&answer, "choices.0.text"), "abcd", 4), 0);
    http_answer_free(&answer);
    answer = post_ok(site, "/v1/completions",
                     "{\"prompt\": \"abcd\", \"echo\": true, \"max_tokens\": 0, \"logprobs\": 0}");
    assert_string_equal(text_at(&answer, "choices.0.text"), "abcd");
    assert_int_equal(json_array_size(json_at(answer.json, "choices.0.logprobs.tokens")), 4);
    assert_int_equal(int_at(&answer, "usage.completion_tokens"), 0);
    http_answer_free(&answer);
    answer =
        post_ok(site, "/v1/chat/completions", CHAT ", \"logprobs\": true, \"top_logprobs\": 3}");
    const json_t *content = json_at(answer.json, "choices.0.logprobs.content");
    assert_int_equal(json_array_size(content), 24);
    assert_int_equal(json_array_size(json_at(content, "0.top_logprobs")), 3);
    assert_true(json_real_value(json_at(content, "0.logprob")) ==
                json_real_value(json_at(content, "0.top_logprobs.0.logprob")));
    http_answer_free(&answer);
}

/* The second to fourth character of a greedy answer as the stop string. */
static void test_stop_strings_cut_the_answer(void **state) {
    const struct site *site = *state;
    struct http_answer free_run = post_ok(site, "/v1/chat/completions", CHAT "}");
    const char *text = text_at(&free_run, "choices.0.message.content");
    size_t at[5] = {0};
    for (int i = 1; i < 5; i++) {
        at[i] = at[i - 1] + 1;
        while (((unsigned char)text[at[i]] & 0xC0) == 0x80) at[i]++;
    }
    json_t *stop = json_stringn(text + at[1], at[4] - at[1]);
    size_t cut = (size_t)(strstr(text, json_string_value(stop)) - text);
    char *quoted = json_dumps(stop, JSON_ENCODE_ANY), body[512];
    for (int stream = 0; stream < 2; stream++) {
        snprintf(body, sizeof body, CHAT ", \"stop\": [\"never met\", %s], \"stream\": %s}", quoted,
                 stream ? "true" : "false");
        struct http_answer answer = post_ok(site, "/v1/chat/completions", body);
        int events;
        char *got = stream ? stream_text(answer.body, 0, &events)
                           : strdup(text_at(&answer, "choices.0.message.content"));
        assert_int_equal(strlen(got), cut);
        assert_memory_equal(got, text, cut);
        assert_non_null(strstr(answer.body, "\"finish_reason\":\"stop\""));
        free(got);
        http_answer_free(&answer);
    }
    free(quoted);
    json_decref(stop);
    http_answer_free(&free_run);
}

static void test_bias_and_limits(void **state) {
    const struct site *site = *state;
    struct http_answer answer =
        post_ok(site, "/v1/completions",
                "{\"prompt\": \"x\", \"max_tokens\": 6, \"temperature\": 0, \"seed\": 1, "
                "\"logit_bias\": {\"122\": 100}, \"unknown_field\": {\"a\": [1]}, "
                "\"repetition_penalty\": 1.0, \"logprobs\": null}");
    assert_string_equal(text_at(&answer, "choices.0.text"), "zzzzzz");
    http_answer_free(&answer);
    answer = post_ok(site, "/v1/completions",
                     "{\"prompt\": \"x\", \"max_tokens\": 6, \"temperature\": 0, "
                     "\"logit_bias\": {\"258\": 100}}");
    assert_string_equal(text_at(&answer, "choices.0.text"), "");
    assert_string_equal(text_at(&answer, "choices.0.finish_reason"), "stop");
    assert_int_equal(int_at(&answer, "usage.completion_tokens"), 1);
    http_answer_free(&answer);
    answer = post_ok(site, "/v1/completions",
                     "{\"prompt\": \"x\", \"max_tokens\": 6, \"temperature\": 0, "
                     "\"min_tokens\": 4, \"logit_bias\": {\"258\": 100}}");
    assert_int_equal(int_at(&answer, "usage.completion_tokens"), 5);
    http_answer_free(&answer);
}

static void test_equal_prompts_are_computed_once(void **state) {
    const struct site *site = *state;
    char body[512];
    snprintf(body, sizeof body,
             "{\"prompt\": \"%0100d and a tail\", \"max_tokens\": 4, \"temperature\": 0}", 7);
    struct http_answer first = post_ok(site, "/v1/completions", body);
    struct http_answer second = post_ok(site, "/v1/completions", body);
    assert_int_equal(int_at(&first, "usage.prompt_tokens_details.cached_tokens"), 0);
    assert_int_equal(int_at(&second, "usage.prompt_tokens_details.cached_tokens"), 96);
    assert_string_equal(text_at(&first, "choices.0.text"), text_at(&second, "choices.0.text"));
    http_answer_free(&first);
    http_answer_free(&second);
}

static void test_bad_requests_name_the_field(void **state) {
    const struct site *site = *state;
    static const struct {
        const char *fields, *param, *words;
    } cases[] = {
        {"\"temperature\": \"hot\"", "temperature", "number"},
        {"\"temperature\": -1", "temperature", "between"},
        {"\"top_p\": 2", "top_p", "between"},
        {"\"n\": 0", "n", "between"},
        {"\"n\": 1.5", "n", "integer"},
        {"\"max_tokens\": -1", "max_tokens", "between"},
        {"\"stop\": [1]", "stop", "string"},
        {"\"stream\": 1", "stream", "true or false"},
        {"\"seed\": \"x\"", "seed", "integer"},
        {"\"logit_bias\": {\"abc\": 1}", "logit_bias", "271"},
        {"\"logit_bias\": {\"5\": 1000}", "logit_bias", "100"},
        {"\"stop_token_ids\": [5000]", "stop_token_ids", "271"},
        {"\"logprobs\": 50", "logprobs", "between"},
        {"\"stream_options\": 3", "stream_options", "object"},
        {"\"response_format\": {\"type\": \"json_object\"}", "response_format", "text"},
        {"\"suffix\": \"x\"", "suffix", "suffix"},
        {"\"prompt_logprobs\": 1", "prompt_logprobs", "not served"},
        {"\"guided_json\": {}", "guided_json", "not served"},
        {"\"stream_options\": {\"include_usage\": 1}", "stream_options", "true or false"},
        {"\"best_of\": 3", "best_of", "equal"},
        {"\"model\": 5", "model", "string"},
        {"\"prompt\": {}", "prompt", "string"},
        {"\"prompt\": []", "prompt", "1 to"},
        {"\"prompt\": [[]]", "prompt", "no tokens"},
        {"\"prompt\": [[272]]", "prompt", "271"},
        {"\"prompt\": \"\"", "prompt", "no tokens"},
        {"\"prompt\": null", "prompt", "missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[256];
        int bytes = snprintf(body, sizeof body, "{\"prompt\": \"x\", %s}", cases[i].fields);
        assert_refused(site, "/v1/completions", body, (size_t)bytes, 400, cases[i].param,
                       cases[i].words);
    }
    static const struct {
        const char *body, *param, *words;
    } chats[] = {
        {"{}", "messages", "messages"},
        {"{\"messages\": []}", "messages", "messages"},
        {"{\"messages\": [{\"role\": 1}]}", "messages", "role"},
        {"{\"messages\": [{\"role\": \"wizard\", \"content\": \"x\"}]}", "messages", "role"},
        {CHAT ", \"tools\": [{}]}", "tools", "not served"},
        {CHAT ", \"tools\": \"x\"}", "tools", "list"},
        {CHAT ", \"tool_choice\": \"required\"}", "tool_choice", "there is none"},
        {CHAT ", \"functions\": [{}]}", "functions", "not served"},
        {CHAT ", \"modalities\": [\"text\", \"audio\"]}", "modalities", "text"},
        {CHAT ", \"response_format\": {\"type\": \"json_schema\"}}", "response_format", "text"},
        {CHAT ", \"top_logprobs\": 2}", "top_logprobs", "logprobs"},
        {CHAT ", \"max_completion_tokens\": 0}", "max_tokens", "at least 1"},
    };
    for (size_t i = 0; i < sizeof chats / sizeof *chats; i++)
        assert_refused(site, "/v1/chat/completions", chats[i].body, strlen(chats[i].body), 400,
                       chats[i].param, chats[i].words);
}

/* Fields that say what is done anyway, and a role's newer name. */
static void test_neutral_fields_are_taken(void **state) {
    const struct site *site = *state;
    static const char *const bodies[] = {
        CHAT ", \"tools\": [{}], \"tool_choice\": \"none\"}",
        CHAT ", \"tools\": [], \"tool_choice\": \"auto\", \"functions\": []}",
        CHAT ", \"modalities\": [\"text\"], \"response_format\": {\"type\": \"text\"}}",
        CHAT ", \"audio\": null, \"user\": \"me\", \"store\": true, \"metadata\": {}}",
        "{\"messages\": [{\"role\": \"developer\", \"content\": \"x\"}, {\"role\": \"user\", "
        "\"content\": \"y\"}], \"max_tokens\": 1}",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        struct http_answer answer = post_ok(site, "/v1/chat/completions", bodies[i]);
        http_answer_free(&answer);
    }
}

static void test_broken_bodies_are_refused(void **state) {
    const struct site *site = *state;
    static const struct {
        const char *body;
        size_t bytes;
        const char *words;
    } cases[] = {
        {"", 0, "JSON"},
        {"{\"prompt\": ", 11, "JSON"},
        {"[1]", 3, "not an object"},
        {"{\"prompt\": \"\xff\xfe\"}", 15, "JSON"},
        {"{\"prompt\": \"\xc0\x80\"}", 15, "JSON"},
        {"{\"prompt\": \"\\ud800\"}", 20, "JSON"},
        {"{\"prompt\": \"x\"} more", 20, "JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_refused(site, "/v1/completions", cases[i].body, cases[i].bytes, 400, NULL,
                       cases[i].words);
    char deep[4096];
    memset(deep, '[', sizeof deep);
    assert_refused(site, "/v1/completions", deep, sizeof deep, 400, NULL, "nested");
}

static void test_long_prompts_are_refused_with_both_lengths(void **state) {
    const struct site *site = *state;
    size_t bytes = 10 * 1000 * 1000;
    char *body = malloc(bytes + 1);
    memset(body, 'a', bytes);
    memcpy(body, "{\"prompt\": \"", 12);
    memcpy(body + bytes - 2, "\"}", 2);
    assert_refused(site, "/v1/completions", body, bytes, 413, NULL, "524288");
    size_t fewer = 9000 + 14;
    memcpy(body + fewer - 2, "\"}", 2);
    assert_refused(site, "/v1/completions", body, fewer, 400, "prompt", "9000");
    assert_refused(site, "/v1/completions", body, fewer, 400, "prompt", "8192");
    struct http_answer answer = http_ask(site->port, NULL, "/v1/completions", body, fewer);
    assert_string_equal(text_at(&answer, "error.code"), "context_length_exceeded");
    assert_string_equal(text_at(&answer, "error.type"), "invalid_request_error");
    http_answer_free(&answer);
    free(body);
}

static void test_names(void **state) {
    const struct site *site = *state;
    assert_refused(site, "/v1/completions", "{\"prompt\": \"x\", \"model\": \"local-model\"}", 39,
                   404, "model", "tiny, tuned");
    struct http_answer base =
        post_ok(site, "/v1/completions", "{\"prompt\": \"x\", \"temperature\": 0}");
    struct http_answer tuned = post_ok(
        site, "/v1/completions", "{\"prompt\": \"x\", \"temperature\": 0, \"model\": \"tuned\"}");
    assert_string_equal(text_at(&base, "model"), "tiny");
    assert_string_equal(text_at(&tuned, "model"), "tuned");
    assert_string_not_equal(text_at(&base, "choices.0.text"), text_at(&tuned, "choices.0.text"));
    http_answer_free(&base);
    http_answer_free(&tuned);
}

static void test_a_lone_model_answers_to_any_name(void **state) {
    const struct site *site = *state;
    struct http_answer answer =
        post_ok(site, "/v1/completions",
                "{\"prompt\": \"x\", \"model\": \"local-model\", \"max_tokens\": 1}");
    assert_string_equal(text_at(&answer, "model"), "tiny");
    http_answer_free(&answer);
}

struct worker {
    const struct site *site;
    int number;
    char *text;
};

/* Request `number` of a mix; its text. */
static void *ask_mixed(void *argument) {
    struct worker *worker = argument;
    int i = worker->number, events;
    bool stream = i % 3 == 0;
    char body[512];
    snprintf(body, sizeof body,
             "{\"model\": \"%s\", \"prompt\": \"%.*s\", \"max_tokens\": %d, \"seed\": %d, "
             "\"temperature\": %d, \"stream\": %s, \"ignore_eos\": true}",
             i % 2 ? "tuned" : "tiny", 5 + i * 9,
             "the quick brown fox jumps over the lazy dog, the quick brown fox jumps over the lazy "
             "dog, the quick brown fox jumps over the lazy dog, again and again",
             10 + i * 3, i, i % 4 < 2, stream ? "true" : "false");
    struct http_answer answer = http_post(worker->site->port, "/v1/completions", body);
    if (answer.status == 200)
        worker->text = stream ? stream_text(answer.body, 0, &events)
                              : strdup(text_at(&answer, "choices.0.text"));
    http_answer_free(&answer);
    return NULL;
}

static void test_sixteen_at_once_answer_as_alone(void **state) {
    const struct site *site = *state;
    enum { COUNT = 16 };
    struct worker alone[COUNT], together[COUNT];
    pthread_t threads[COUNT];
    for (int i = 0; i < COUNT; i++) {
        alone[i] = together[i] = (struct worker){.site = site, .number = i};
        ask_mixed(&alone[i]);
    }
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_mixed, &together[i]), 0);
    for (int i = 0; i < COUNT; i++) {
        pthread_join(threads[i], NULL);
        assert_non_null(alone[i].text);
        assert_non_null(together[i].text);
        assert_string_equal(alone[i].text, together[i].text);
        free(alone[i].text);
        free(together[i].text);
    }
}

static void test_a_port_in_use_is_said(void **state) {
    const struct site *site = *state;
    struct http_server *second;
    struct http_options options = {.host = "127.0.0.1", .port = site->port, .threads = 1};
    assert_int_equal(http_open(&second, &options), STATUS_IO);
    assert_non_null(strstr(status_message(), "in use"));
    options.host = "no.such.host.invalid";
    assert_int_equal(http_open(&second, &options), STATUS_IO);
}

int main(void) {
    const struct CMUnitTest pair[] = {
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_tokenize_and_back),
        cmocka_unit_test(test_chat_streams_what_it_answers_whole),
        cmocka_unit_test(test_prompts_come_in_every_form),
        cmocka_unit_test(test_scores_of_a_prompt),
        cmocka_unit_test(test_stop_strings_cut_the_answer),
        cmocka_unit_test(test_bias_and_limits),
        cmocka_unit_test(test_equal_prompts_are_computed_once),
        cmocka_unit_test(test_bad_requests_name_the_field),
        cmocka_unit_test(test_neutral_fields_are_taken),
        cmocka_unit_test(test_broken_bodies_are_refused),
        cmocka_unit_test(test_long_prompts_are_refused_with_both_lengths),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_sixteen_at_once_answer_as_alone),
    };
    const struct CMUnitTest lone[] = {
        cmocka_unit_test(test_a_lone_model_answers_to_any_name),
        cmocka_unit_test(test_a_port_in_use_is_said),
    };
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int failed = cmocka_run_group_tests(pair, open_pair, close_site);
    failed += cmocka_run_group_tests(lone, open_lone, close_site);
    curl_global_cleanup();
    return failed;
}
