#define _GNU_SOURCE
#include "serve/api.h"

#include "kernels/base/printable.h"
#include "kernels/base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct route {
    const char *method, *path;
    api_handler *handler;
    bool prefix;       /* the path goes on: /v1/models/{id} */
    bool before_ready; /* answers while the model is still being loaded */
};

static const struct route routes[] = {
    {"POST", "/v1/chat/completions", api_chat_completions, false, false},
    {"POST", "/v1/completions", api_completions, false, false},
    {"GET", "/v1/models", api_models, false, false},
    {"GET", "/v1/models/", api_model, true, false},
    {"POST", "/tokenize", api_tokenize, false, false},
    {"POST", "/detokenize", api_detokenize, false, false},
    {"GET", "/health", api_health, false, true},
    {"GET", "/metrics", api_metrics, false, true},
    {"GET", "/version", api_version, false, true},
    {"GET", "/", api_root, false, true},
};

static bool path_matches(const struct route *route, const char *path) {
    if (!route->prefix) return strcmp(route->path, path) == 0;
    size_t bytes = strlen(route->path);
    return strncmp(route->path, path, bytes) == 0 && path[bytes];
}

struct http_source *server_route(void *context, const struct http_request *request,
                                 struct http_reply *reply, struct http_exchange *exchange) {
    struct server *server = context;
    bool head = strcmp(request->method, "HEAD") == 0, known = false;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const struct route *route = &routes[i];
        if (!path_matches(route, request->path)) continue;
        known = true;
        if (strcmp(route->method, head ? "GET" : request->method) != 0) continue;
        if (!route->before_ready && !atomic_load(&server->ready))
            return api_error(reply, 503, NULL, "loading", "the model is still being loaded");
        return route->handler(server, request, reply, exchange);
    }
    char message[512];
    snprintf(message, sizeof message,
             known ? "%.16s is not allowed on %.256s"
                   : "%.16s %.256s is not a route of this server",
             request->method, request->path);
    return api_error(reply, known ? 405 : 404, NULL, known ? "method_not_allowed" : "unknown_route",
                     message);
}

void server_too_large(void *context, size_t limit, struct http_reply *reply) {
    (void)context;
    char message[128];
    snprintf(message, sizeof message, "the request's body is larger than the limit of %zu bytes",
             limit);
    api_error(reply, 413, NULL, "body_too_large", message);
}

void server_two_lengths(void *context, struct http_reply *reply) {
    (void)context;
    api_error(reply, 400, NULL, "two_content_lengths",
              "the request has two Content-Length headers that differ");
}

static const char *error_type(int status) {
    if (status == 404) return "not_found_error";
    if (status == 503) return "overloaded_error";
    return status >= 500 ? "api_error" : "invalid_request_error";
}

struct http_source *api_error(struct http_reply *reply, int status, const char *param,
                              const char *code, const char *message) {
    reply->status = status;
    reply->bytes = 0;
    json_t *text = api_json_text(message, strlen(message));
    return api_reply_json(reply, json_pack("{s:{s:o, s:s, s:s?, s:s?}}", "error", "message", text,
                                           "type", error_type(status), "param",
                                           param && *param ? param : NULL, "code", code));
}

struct http_source *api_refusal(struct http_reply *reply, const struct api_problem *problem) {
    return api_error(reply, 400, problem->param, problem->code, problem->message);
}

static int append_callback(const char *buffer, size_t size, void *data) {
    return http_append(data, buffer, size) == STATUS_OK ? 0 : -1;
}

enum status api_append_json(struct http_reply *reply, json_t *json) {
    int failed = json ? json_dump_callback(json, append_callback, reply,
                                           JSON_COMPACT | JSON_REAL_PRECISION(9))
                      : -1;
    json_decref(json);
    return failed ? status_fail(STATUS_MEMORY, "no memory for a reply") : STATUS_OK;
}

struct http_source *api_reply_json(struct http_reply *reply, json_t *json) {
    size_t before = reply->bytes;
    if (api_append_json(reply, json) == STATUS_OK) return NULL;
    reply->status = 500;
    reply->bytes = before;
    return NULL;
}

json_t *api_json_text(const char *bytes, size_t count) {
    json_t *text = json_stringn(bytes, count);
    if (text) return text;
    size_t length;
    char *clean = utf8_clean(bytes, count, &length);
    if (clean) text = json_stringn(clean, length);
    free(clean);
    return text;
}

bool api_find_name(const struct server *server, const char *name, const struct served_name **found,
                   struct api_problem *problem) {
    *found = &server->names[0];
    if (!name || server->name_count == 1) return true;
    for (int i = 0; i < server->name_count; i++)
        if (strcmp(server->names[i].name, name) == 0) {
            *found = &server->names[i];
            return true;
        }
    char known[384] = "";
    for (int i = 0; i < server->name_count; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i > 0 ? ", " : "",
                 server->names[i].name);
    }
    return api_refuse(problem, "model", "the model '%.64s' is not served; these are: %s", name,
                      known);
}

void api_make_id(struct server *server, const char *prefix, char out[GENERATION_ID_BYTES]) {
    unsigned long long number = atomic_fetch_add(&server->id_counter, 1);
    struct rng_block block = rng_philox(server->id_key, 0, number);
    snprintf(out, GENERATION_ID_BYTES, "%s-%08x%08x", prefix, block.word[0], block.word[1]);
}
