/* A real server on a tiny model, over loopback, and what tests ask of its replies. */
#ifndef STRATA_TESTS_SERVING_SITE_H
#define STRATA_TESTS_SERVING_SITE_H

#include "tests/check.h"

#include "core/log.h"
#include "serve/serving.h"
#include "tests/http_client.h"
#include "tests/tiny_model.h"

#include <signal.h>
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

static inline void site_start(struct site *site, bool adapter) {
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
        .two_lengths = server_two_lengths,
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

static inline void site_stop(struct site *site) {
    engine_cut(site->serving.engine);
    http_close(site->http, 5.0);
    serving_close(&site->serving);
    serving_options_free(&site->options);
}

static inline int open_site(void **state, bool adapter) {
    struct site *site = calloc(1, sizeof *site);
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_WARN);
    tiny_model_write(&site->tiny);
    site_start(site, adapter);
    *state = site;
    return 0;
}

static inline int open_lone(void **state) {
    return open_site(state, false);
}

static inline int open_pair(void **state) {
    return open_site(state, true);
}

static inline int close_site(void **state) {
    struct site *site = *state;
    site_stop(site);
    tiny_model_remove(&site->tiny);
    free(site);
    return 0;
}

static inline const char *text_at(const struct http_answer *answer, const char *path) {
    const char *text = json_string_value(json_at(answer->json, path));
    if (!text) fail_msg("no text at %s of %s", path, answer->body);
    return text;
}

static inline json_int_t int_at(const struct http_answer *answer, const char *path) {
    const json_t *value = json_at(answer->json, path);
    if (!json_is_integer(value)) fail_msg("no integer at %s of %s", path, answer->body);
    return json_integer_value(value);
}

static inline struct http_answer post_ok(const struct site *site, const char *path,
                                         const char *body) {
    struct http_answer answer = http_post(site->port, path, body);
    if (answer.status != 200) fail_msg("%s: %d %s", body, answer.status, answer.body);
    return answer;
}

static inline long metric(const struct site *site, const char *name) {
    struct http_answer answer = http_get(site->port, "/metrics");
    char line[128];
    snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(answer.body, line);
    long value = at ? strtol(at + strlen(line), NULL, 10) : -1;
    http_answer_free(&answer);
    return value;
}

/* Waits for a value; a minute is for ever here. */
static inline void await_metric(const struct site *site, const char *name, long want) {
    for (int i = 0; i < 6000 && metric(site, name) != want; i++) usleep(10000);
    assert_int_equal(metric(site, name), want);
}

#endif
