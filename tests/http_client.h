/* A client as small as tests need: one request a connection, the reply read to its end. */
#ifndef STRATA_TESTS_HTTP_CLIENT_H
#define STRATA_TESTS_HTTP_CLIENT_H

#include <jansson.h>
#include <stddef.h>

struct http_answer {
    int status; /* 0: the connection broke */
    char *body; /* owned; chunks joined; NUL-terminated */
    size_t bytes;
    json_t *json; /* of the body, or NULL */
};

/* POST where `body` is not NULL, else GET; `method` overrides that unless NULL. */
struct http_answer http_ask(int port, const char *method, const char *path, const char *body,
                            size_t bytes);
struct http_answer http_post(int port, const char *path, const char *body);
struct http_answer http_get(int port, const char *path);
void http_answer_free(struct http_answer *answer);

/* A connection on which nothing has been sent; close() it. */
int http_connect(int port);

/* A connection on which a POST has been sent and nothing read; close() it. */
int http_begin(int port, const char *path, const char *body);

/* The value at a path like "choices.0.text"; NULL when there is none. */
json_t *json_at(const json_t *root, const char *path);

/* The text of a streamed reply: all choices[index] content or text of its events; *events counts
 * them. The caller frees it. */
char *stream_text(const char *body, int index, int *events);

#endif
