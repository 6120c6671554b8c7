/* HTTP/1.1 over libmicrohttpd (epoll, threads of its own): requests come in whole, replies leave at
 * once or as their bytes become ready. Knows nothing of what is served.
 *
 * A request whose reply isn't ready costs no thread: its connection is suspended until
 * http_wake(). */
#ifndef STRATA_SERVE_HTTP_H
#define STRATA_SERVE_HTTP_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>

struct http_request {
    const char *method, *path;
    const char *body; /* NUL-terminated behind `bytes` */
    size_t bytes;
};

/* Bytes on their way to the client. */
struct http_reply {
    int status;       /* 200 when nobody sets it */
    const char *type; /* a literal; "application/json" when nobody sets it */
    char *body;       /* owned by the exchange */
    size_t bytes, capacity;
};

enum http_pull {
    HTTP_WAIT, /* nothing yet: sleep until http_wake */
    HTTP_MORE, /* bytes were appended, more will come: status and type are final */
    HTTP_DONE, /* the reply is complete */
};

/* A reply that comes later. Both are called on an HTTP thread, never at the same time. */
struct http_source {
    enum http_pull (*pull)(struct http_source *source, struct http_reply *reply);
    void (*close)(struct http_source *source); /* all sent, or the client is gone: frees it */
};

struct http_exchange; /* one request and its reply */

/* Answers a request: fills in `reply` and returns NULL, or returns a source that will. Called on
 * any of the HTTP threads. */
typedef struct http_source *http_route(void *context, const struct http_request *request,
                                       struct http_reply *reply, struct http_exchange *exchange);

struct http_options {
    const char *host; /* a name or an address */
    int port;         /* 0: any free one */
    int threads;
    size_t max_body_bytes; /* more is answered with `too_large` */
    http_route *route;
    void (*too_large)(void *context, size_t limit, struct http_reply *reply);
    /* two Content-Length headers that differ (RFC 9112, 6.3) */
    void (*two_lengths)(void *context, struct http_reply *reply);
    void *context;
};

struct http_server;

/* Listens and serves. STATUS_IO says in one sentence why it can't (a port in use). */
enum status http_open(struct http_server **server, const struct http_options *options);
int http_port(const struct http_server *server);

/* Stops listening; requests in flight go on. */
void http_refuse(struct http_server *server);

/* Waits at most `seconds` for requests in flight, ends what is left with 503 and frees all. The
 * sources' owners must not call http_wake afterwards. */
void http_close(struct http_server *server, double seconds);

/* There is news for the exchange's source. Any thread, any number of times, while the source is not
 * closed; doesn't block. */
void http_wake(struct http_exchange *exchange);

/* False when the client is gone. One that has only shut its sending side down still reads the
 * answer; from here it looks like one that closed, so it is sent an interim answer (100 Continue,
 * which clients skip), and only what is gone replies to that with a reset. Same rules as
 * http_wake. */
bool http_connected(struct http_exchange *exchange);

/* Appends bytes, or printf-formatted text. */
enum status http_append(struct http_reply *reply, const void *bytes, size_t count);
enum status http_printf(struct http_reply *reply, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
