/* A real server on a tiny model, over loopback: routes, streams, errors, disconnects, load. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "core/log.h"
#include "serve/serving.h"
#include "tests/http_client.h"
#include "tests/tiny_model.h"

#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

struct site {
    struct tiny_model tiny;
    struct serving_options options;
    struct server server;
    struct serving serving;
    struct http_server *http;
    char adapter[128];
    int port;
};

static void site_start(struct site *site, bool adapter) {
    char *arguments[] = {"serve",
                         site->tiny.directory,
                         "--alias",
                         "tiny",
                         "--threads",
                         "1",
                         "--max-batch",
                         "8",
                         "--token-budget",
                         "64",
                         "--max-body-mib",
                         "0.5",
                         adapter ? "--adapter" : NULL,
                         site->adapter,
                         NULL};
    bool help;
    snprintf(site->adapter, sizeof site->adapter, "tuned=%s", site->tiny.adapter);
    assert_ok(
        serving_options_read(&site->options, OPTION_SERVE, adapter ? 14 : 12, arguments, &help));
    server_init(&site->server);
    const struct http_options http = {
        .host = "127.0.0.1",
        .threads = 2,
        .max_body_bytes = (size_t)(site->options.max_body_mib * (1 << 20)),
        .route = server_route,
        .too_large = server_too_large,
        .context = &site->server,
    };
    assert_ok(http_open(&site->http, &http));
    site->port = http_port(site->http);
    struct http_answer early = http_get(site->port, "/health");
    assert_int_equal(early.status, 503);
    http_answer_free(&early);
    assert_ok(serving_open(&site->serving, &site->options, &site->server));
    atomic_store(&site->server.ready, true);
}

static void site_stop(struct site *site) {
    engine_cut(site->serving.engine);
    http_close(site->http, 5.0);
    serving_close(&site->serving);
    serving_options_free(&site->options);
}

static int open_site(void **state, bool adapter) {
    struct site *site = calloc(1, sizeof *site);
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_WARN);
    tiny_model_write(&site->tiny);
    site_start(site, adapter);
    *state = site;
    return 0;
}

static int open_lone(void **state) {
    return open_site(state, false);
}

static int open_pair(void **state) {
    return open_site(state, true);
}

static int close_site(void **state) {
    struct site *site = *state;
    site_stop(site);
    tiny_model_remove(&site->tiny);
    free(site);
    return 0;
}

static const char *text_at(const struct http_answer *answer, const char *path) {
    const char *text = json_string_value(json_at(answer->json, path));
    if (!text) fail_msg("no text at %s of %s", path, answer->body);
    return text;
}

static json_int_t int_at(const struct http_answer *answer, const char *path) {
    const json_t *value = json_at(answer->json, path);
    if (!json_is_integer(value)) fail_msg("no integer at %s of %s", path, answer->body);
    return json_integer_value(value);
}

static struct http_answer post_ok(const struct site *site, const char *path, const char *body) {
    struct http_answer answer = http_post(site->port, path, body);
    if (answer.status != 200) fail_msg("%s: %d %s", body, answer.status, answer.body);
    return answer;
}

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

static long metric(const struct site *site, const char *name) {
    struct http_answer answer = http_get(site->port, "/metrics");
    char line[128];
    snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(answer.body, line);
    long value = at ? strtol(at + strlen(line), NULL, 10) : -1;
    http_answer_free(&answer);
    return value;
}

/* Waits for a value; a minute is for ever here. */
static void await_metric(const struct site *site, const char *name, long want) {
    for (int i = 0; i < 6000 && metric(site, name) != want; i++) usleep(10000);
    assert_int_equal(metric(site, name), want);
}

static void test_disconnected_clients_are_cancelled(void **state) {
    const struct site *site = *state;
    const char *cancelled = "strata_requests_total{reason=\"cancelled\"}";
    long before = metric(site, cancelled);
    for (int stream = 0; stream < 2; stream++) {
        char body[128];
        snprintf(body, sizeof body,
                 "{\"prompt\": \"x\", \"max_tokens\": 8000, \"ignore_eos\": true, \"stream\": %s}",
                 stream ? "true" : "false");
        int fd = http_begin(site->port, "/v1/completions", body);
        await_metric(site, "strata_requests_running", 1);
        close(fd);
        await_metric(site, cancelled, before + stream + 1);
        await_metric(site, "strata_requests_running", 0);
        await_metric(site, "strata_kv_pages_used", 0);
    }
}

/* Reads to the end of the connection; the text after the last header of the reply. */
static char *read_rest(int fd, char *reply, size_t room) {
    size_t count = 0;
    for (ssize_t got; (got = recv(fd, reply + count, room - 1 - count, 0)) > 0;)
        count += (size_t)got;
    reply[count] = '\0';
    return reply;
}

/* A client that has sent all it will send, and says so, gets its answer. */
static void test_half_closed_clients_are_answered(void **state) {
    const struct site *site = *state;
    const char *cancelled = "strata_requests_total{reason=\"cancelled\"}";
    static char reply[1 << 20];
    long before = metric(site, cancelled);
    for (int stream = 0; stream < 2; stream++) {
        char body[256];
        snprintf(body, sizeof body,
                 "{\"prompt\": \"x\", \"max_tokens\": 1500, \"ignore_eos\": true, \"stream\": %s, "
                 "\"stream_options\": {\"include_usage\": true}}",
                 stream ? "true" : "false");
        int fd = http_begin(site->port, "/v1/completions", body);
        await_metric(site, "strata_requests_running", 1);
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        read_rest(fd, reply, sizeof reply);
        close(fd);
        if (!strstr(reply, "HTTP/1.1 200 OK\r\n")) fail_msg("%.200s", reply);
        assert_non_null(strstr(reply, "\"completion_tokens\":1500"));
        assert_int_equal(!strstr(reply, "[DONE]"), !stream);
    }
    assert_int_equal(metric(site, cancelled), before);
}

/* Connections that send nothing, and one that sends its request byte by byte, hold nobody up. */
static void test_idle_and_slow_clients(void **state) {
    const struct site *site = *state;
    enum { IDLE = 300 };
    static char reply[1 << 16];
    int idle[IDLE];
    for (int i = 0; i < IDLE; i++) idle[i] = http_connect(site->port);
    static const char request[] =
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Content-Length: 32\r\n\r\n"
        "{\"prompt\": \"x\", \"max_tokens\": 1}";
    int slow = http_connect(site->port);
    for (size_t i = 0; i + 1 < sizeof request; i++) {
        assert_int_equal(send(slow, request + i, 1, MSG_NOSIGNAL), 1);
        if (i % 16 > 0) continue;
        struct http_answer answer = http_get(site->port, "/health");
        assert_int_equal(answer.status, 200);
        http_answer_free(&answer);
    }
    read_rest(slow, reply, sizeof reply);
    assert_non_null(strstr(reply, " 200 OK"));
    assert_non_null(strstr(reply, "\"completion_tokens\":1"));
    close(slow);
    for (int i = 0; i < IDLE; i++) close(idle[i]);
}

/* The type that was announced for the family of a sample; NULL for a sample without a family. */
static const char *type_of(const char *text, const char *sample, size_t bytes) {
    static char type[32];
    static const char *const endings[] = {"", "_bucket", "_sum", "_count"};
    for (size_t i = 0; i < 4; i++) {
        char line[160];
        size_t tail = strlen(endings[i]);
        if (bytes < tail || strncmp(sample + bytes - tail, endings[i], tail) != 0) continue;
        snprintf(line, sizeof line, "# TYPE %.*s ", (int)(bytes - tail), sample);
        const char *at = strstr(text, line);
        if (at && sscanf(at + strlen(line), "%31s", type) == 1) return type;
    }
    return NULL;
}

/* Prometheus' rules: help and type before the samples, _total for counters and for nothing else,
 * buckets that only grow up to the count. */
static void test_metrics_keep_the_rules(void **state) {
    const struct site *site = *state;
    struct http_answer answer = http_get(site->port, "/metrics");
    int samples = 0;
    double bucket = 0.0;
    for (const char *line = answer.body; *line; line = strchr(line, '\n') + 1) {
        size_t bytes = strcspn(line, "{ \n");
        if (*line == '#') continue;
        assert_int_equal(strncmp(line, "strata_", 7), 0);
        const char *type = type_of(answer.body, line, bytes);
        if (!type) fail_msg("no type: %.60s", line);
        bool total = bytes > 6 && strncmp(line + bytes - 6, "_total", 6) == 0;
        assert_int_equal(total, strcmp(type, "counter") == 0);
        double value = strtod(line + strcspn(line, " \n"), NULL);
        bool is_bucket = bytes > 7 && strncmp(line + bytes - 7, "_bucket", 7) == 0;
        if (is_bucket) assert_true(value >= bucket);
        if (bytes > 6 && strncmp(line + bytes - 6, "_count", 6) == 0)
            assert_true(value == bucket && value > 0.0);
        bucket = is_bucket || strncmp(line + bytes - 4, "_sum", 4) == 0
                     ? (is_bucket ? value : bucket)
                     : 0.0;
        samples++;
    }
    static const char *const wanted[] = {"requests_running",
                                         "requests_waiting",
                                         "kv_pages_used",
                                         "kv_pages",
                                         "prompt_tokens_total",
                                         "generation_tokens_total",
                                         "requests_total",
                                         "prefix_cache_hits_total",
                                         "time_to_first_token_seconds",
                                         "time_between_tokens_seconds"};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        char line[128];
        snprintf(line, sizeof line, "# HELP strata_%s ", wanted[i]);
        if (!strstr(answer.body, line)) fail_msg("no %s", line);
    }
    assert_true(samples > 60);
    assert_true(metric(site, "strata_prefix_cache_hits_total") > 0);
    http_answer_free(&answer);
}

/* Stopping with a reply under way ends the reply instead of hanging. */
static void test_stops_with_a_request_running(void **state) {
    struct site *site = *state;
    int fd = http_begin(site->port, "/v1/completions",
                        "{\"prompt\": \"x\", \"max_tokens\": 8000, \"ignore_eos\": true}");
    await_metric(site, "strata_requests_running", 1);
    site_stop(site);
    char reply[64] = {0};
    assert_true(recv(fd, reply, sizeof reply - 1, 0) > 0);
    assert_non_null(strstr(reply, " 503 "));
    close(fd);
    site_start(site, false);
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
        cmocka_unit_test(test_disconnected_clients_are_cancelled),
        cmocka_unit_test(test_half_closed_clients_are_answered),
        cmocka_unit_test(test_idle_and_slow_clients),
        cmocka_unit_test(test_metrics_keep_the_rules),
    };
    const struct CMUnitTest lone[] = {
        cmocka_unit_test(test_a_lone_model_answers_to_any_name),
        cmocka_unit_test(test_stops_with_a_request_running),
        cmocka_unit_test(test_a_port_in_use_is_said),
    };
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int failed = cmocka_run_group_tests(pair, open_pair, close_site);
    failed += cmocka_run_group_tests(lone, open_lone, close_site);
    curl_global_cleanup();
    return failed;
}
