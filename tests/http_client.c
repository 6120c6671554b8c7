#define _GNU_SOURCE
#include "tests/http_client.h"

#include "tests/check.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <sys/socket.h>
#include <unistd.h>

static size_t receive(char *bytes, size_t size, size_t count, void *context) {
    struct http_answer *answer = context;
    answer->body = realloc(answer->body, answer->bytes + size * count + 1);
    memcpy(answer->body + answer->bytes, bytes, size * count);
    answer->bytes += size * count;
    answer->body[answer->bytes] = '\0';
    return size * count;
}

struct http_answer http_ask(int port, const char *method, const char *path, const char *body,
                            size_t bytes) {
    struct http_answer answer = {.body = calloc(1, 1)};
    char url[512];
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", port, path);
    CURL *curl = curl_easy_init();
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 120L);
    if (body) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)bytes);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    }
    if (method) curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    long status = 0;
    if (curl_easy_perform(curl) == CURLE_OK)
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(curl);
    answer.status = (int)status;
    answer.json = json_loadb(answer.body, answer.bytes, JSON_ALLOW_NUL, NULL);
    return answer;
}

struct http_answer http_post(int port, const char *path, const char *body) {
    return http_ask(port, NULL, path, body, strlen(body));
}

struct http_answer http_get(int port, const char *path) {
    return http_ask(port, NULL, path, NULL, 0);
}

void http_answer_free(struct http_answer *answer) {
    free(answer->body);
    json_decref(answer->json);
    *answer = (struct http_answer){0};
}

int http_connect(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

int http_begin(int port, const char *path, const char *body) {
    int fd = http_connect(port);
    char *text;
    int bytes = asprintf(&text, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
                         path, strlen(body), body);
    assert_int_equal(write(fd, text, (size_t)bytes), bytes);
    free(text);
    return fd;
}

json_t *json_at(const json_t *root, const char *path) {
    const json_t *at = root;
    while (*path && at) {
        char name[64];
        size_t bytes = strcspn(path, ".");
        snprintf(name, sizeof name, "%.*s", (int)bytes, path);
        at = json_is_array(at) ? json_array_get(at, (size_t)atoi(name)) : json_object_get(at, name);
        path += bytes + (path[bytes] == '.');
    }
    return (json_t *)at;
}

char *stream_text(const char *body, int index, int *events) {
    char *text = calloc(1, strlen(body) + 1);
    *events = 0;
    for (const char *at = body; (at = strstr(at, "data: ")); at++) {
        json_t *json = json_loads(at + 6, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL);
        const json_t *choice = json_at(json, "choices.0");
        const char *piece = json_string_value(json_at(choice, "delta.content"));
        if (!piece) piece = json_string_value(json_at(choice, "text"));
        if (piece && json_integer_value(json_at(choice, "index")) == index) strcat(text, piece);
        *events += json != NULL;
        json_decref(json);
    }
    return text;
}
