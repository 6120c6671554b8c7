#define _GNU_SOURCE
#include "serve/chat_client.h"

#include "core/json_util.h"
#include "serve/grow.h"

#include <curl/curl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* An answer on its way in. */
struct answer {
    char *line; /* what came since the last newline */
    size_t line_bytes, line_capacity;
    char *text;
    size_t bytes, capacity;
    char error[512]; /* the server's message */
    bool interrupted;
};

enum status chat_client_open(struct chat_client *client, const struct chat_settings *settings) {
    *client = (struct chat_client){.settings = *settings};
    size_t bytes = strlen(settings->url);
    while (bytes > 0 && settings->url[bytes - 1] == '/') bytes--;
    snprintf(client->routes, sizeof client->routes, "%.*s/v1", (int)bytes, settings->url);
    client->curl = curl_easy_init();
    return client->curl ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for an HTTP client");
}

void chat_client_close(struct chat_client *client) {
    curl_easy_cleanup(client->curl);
    free(client->model);
    *client = (struct chat_client){0};
}

static bool was_interrupted(void) {
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    return sigtimedwait(&interrupt, NULL, &(struct timespec){0}) == SIGINT;
}

static enum status take_text(struct answer *answer, const char *text) {
    size_t bytes = strlen(text);
    TRY(grow_array((void **)&answer->text, &answer->capacity, answer->bytes + bytes, 1));
    if (bytes > 0) memcpy(answer->text + answer->bytes, text, bytes);
    answer->bytes += bytes;
    fputs(text, stdout);
    fflush(stdout);
    return STATUS_OK;
}

/* One line of the reply: an event, or an error that is not an event. */
static enum status take_line(struct answer *answer) {
    const char *line = answer->line;
    size_t bytes = answer->line_bytes;
    if (bytes >= 6 && memcmp(line, "data: ", 6) == 0) {
        line += 6;
        bytes -= 6;
    }
    json_t *json; /* NULL for a line that is none, such as [DONE] */
    (void)json_parse_bytes(&json, line, bytes, "the reply", 0);
    const char *error =
        json_string_value(json_object_get(json_object_get(json, "error"), "message"));
    const json_t *choice = json_array_get(json_object_get(json, "choices"), 0);
    const char *text =
        json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
    enum status status = STATUS_OK;
    if (error) snprintf(answer->error, sizeof answer->error, "%s", error);
    if (text) status = take_text(answer, text);
    json_decref(json);
    answer->line_bytes = 0;
    return status;
}

static size_t receive(char *bytes, size_t size, size_t count, void *context) {
    struct answer *answer = context;
    for (size_t i = 0; i < size * count; i++) {
        if (bytes[i] == '\n') {
            if (take_line(answer) != STATUS_OK) return 0;
            continue;
        }
        if (grow_array((void **)&answer->line, &answer->line_capacity, answer->line_bytes + 1, 1) !=
            STATUS_OK)
            return 0;
        answer->line[answer->line_bytes++] = bytes[i];
    }
    return size * count;
}

/* A reply that is no stream: kept as it is. */
static size_t receive_whole(char *bytes, size_t size, size_t count, void *context) {
    struct answer *answer = context;
    if (grow_array((void **)&answer->text, &answer->capacity, answer->bytes + size * count, 1) !=
        STATUS_OK)
        return 0;
    memcpy(answer->text + answer->bytes, bytes, size * count);
    answer->bytes += size * count;
    return size * count;
}

/* Asked several times a second: nonzero ends the transfer. */
static int progress(void *context, curl_off_t total, curl_off_t now, curl_off_t up_total,
                    curl_off_t up) {
    (void)total, (void)now, (void)up_total, (void)up;
    struct answer *answer = context;
    answer->interrupted = answer->interrupted || was_interrupted();
    return answer->interrupted;
}

static char *make_body(const struct chat_settings *settings, const json_t *messages) {
    json_t *body = json_pack("{s:s*, s:O, s:b}", "model", settings->model, "messages",
                             (json_t *)messages, "stream", 1);
    if (settings->temperature >= 0.0)
        json_object_set_new(body, "temperature", json_real(settings->temperature));
    if (settings->max_tokens > 0)
        json_object_set_new(body, "max_tokens", json_integer(settings->max_tokens));
    char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    return text;
}

/* What a request of either kind has; libcurl keeps a copy of the URL. */
static void prepare(struct chat_client *client, const char *route, struct answer *answer) {
    CURL *curl = client->curl;
    char url[sizeof client->routes + 32];
    snprintf(url, sizeof url, "%s/%s", client->routes, route);
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, answer);
}

static CURLcode post(struct chat_client *client, const char *body, struct answer *answer) {
    CURL *curl = client->curl;
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    prepare(client, "chat/completions", answer);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
    CURLcode code = curl_easy_perform(curl);
    curl_slist_free_all(headers);
    return code;
}

static enum status fail_transfer(const struct chat_client *client, CURLcode code) {
    return status_fail(STATUS_PEER, "%s: %s", client->routes, curl_easy_strerror(code));
}

/* The ids of a reply of /v1/models; none where it is anything else. */
static json_t *read_names(const struct answer *answer) {
    json_t *reply, *names = json_array();
    size_t i;
    const json_t *model;
    if (json_parse_bytes(&reply, answer->text ? answer->text : "", answer->bytes, "the reply", 0) !=
        STATUS_OK)
        return names;
    json_array_foreach(json_object_get(reply, "data"), i, model) {
        json_t *name = json_object_get(model, "id");
        if (json_is_string(name)) json_array_append(names, name);
    }
    json_decref(reply);
    return names;
}

static enum status settle(struct chat_client *client, const json_t *names) {
    size_t i;
    const json_t *name;
    const char *asked = client->settings.model,
               *first = json_string_value(json_array_get(names, 0));
    if (!first) return STATUS_OK;
    if (!asked) {
        client->settings.model = client->model = strdup(first);
        return client->model ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for a name");
    }
    json_array_foreach(names, i,
                       name) if (strcmp(json_string_value(name), asked) == 0) return STATUS_OK;
    if (json_array_size(names) == 1) return STATUS_OK;
    char *list = json_dumps(names, 0);
    status_fail(STATUS_CONFIG, "%s: there is no model '%s' among %s", client->routes, asked,
                list ? list : "");
    free(list);
    return STATUS_CONFIG;
}

enum status chat_client_choose(struct chat_client *client, json_t **names) {
    struct answer answer = {0};
    *names = NULL;
    prepare(client, "models", &answer);
    curl_easy_setopt(client->curl, CURLOPT_WRITEFUNCTION, receive_whole);
    CURLcode code = curl_easy_perform(client->curl);
    enum status status = STATUS_OK;
    if (answer.interrupted)
        status = status_fail(STATUS_CANCELLED, "interrupted");
    else if (code != CURLE_OK)
        status = fail_transfer(client, code);
    else if (!(*names = read_names(&answer)))
        status = status_fail(STATUS_MEMORY, "no memory for a list of models");
    else
        status = settle(client, *names);
    free(answer.text);
    if (status == STATUS_OK) return STATUS_OK;
    json_decref(*names);
    *names = NULL;
    return status;
}

enum status chat_client_ask(struct chat_client *client, const json_t *messages, json_t **out) {
    *out = NULL;
    struct answer answer = {0};
    char *body = make_body(&client->settings, messages);
    if (!body) return status_fail(STATUS_MEMORY, "no memory for a request");
    CURLcode code = post(client, body, &answer);
    if (answer.line_bytes > 0) take_line(&answer);
    enum status status = STATUS_OK;
    if (answer.error[0])
        status = status_fail(STATUS_PEER, "%s", answer.error);
    else if (code != CURLE_OK && !answer.interrupted)
        status = fail_transfer(client, code);
    else if (!(*out = json_stringn(answer.text ? answer.text : "", answer.bytes)))
        status = status_fail(STATUS_FORMAT, "%s: the answer is not UTF-8", client->routes);
    free(answer.line);
    free(answer.text);
    free(body);
    return status;
}
