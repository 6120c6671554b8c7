#define _GNU_SOURCE
#include "serve/grow.h"
#include "serve/http_parts.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

/* A body beyond the limit is read and dropped up to this size, so that the client reads the answer
 * instead of a reset connection. */
enum { SWALLOW_BYTES = 256 * 1000 * 1000, STREAM_BLOCK = 16 * 1024 };

static struct http_exchange *exchange_open(struct http_server *server,
                                           struct MHD_Connection *connection, const char *method,
                                           const char *path) {
    struct http_exchange *exchange = calloc(1, sizeof *exchange);
    if (!exchange) return NULL;
    exchange->method = strdup(method);
    exchange->path = strdup(path);
    if (!exchange->method || !exchange->path) {
        free(exchange->method);
        free(exchange->path);
        free(exchange);
        return NULL;
    }
    exchange->server = server;
    exchange->connection = connection;
    exchange->socket =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    exchange->reply.status = MHD_HTTP_OK;
    exchange->reply.type = "application/json";
    pthread_mutex_init(&exchange->lock, NULL);
    pthread_mutex_lock(&server->lock);
    exchange->next = server->exchanges;
    if (exchange->next) exchange->next->previous = exchange;
    server->exchanges = exchange;
    pthread_mutex_unlock(&server->lock);
    return exchange;
}

void http_complete(void *context, struct MHD_Connection *connection, void **state,
                   enum MHD_RequestTerminationCode why) {
    (void)connection, (void)why;
    struct http_server *server = context;
    struct http_exchange *exchange = *state;
    if (!exchange) return;
    *state = NULL;
    if (exchange->source) exchange->source->close(exchange->source);
    pthread_mutex_lock(&server->lock);
    if (exchange->previous)
        exchange->previous->next = exchange->next;
    else
        server->exchanges = exchange->next;
    if (exchange->next) exchange->next->previous = exchange->previous;
    if (!server->exchanges) pthread_cond_broadcast(&server->quiet);
    pthread_mutex_unlock(&server->lock);
    pthread_mutex_destroy(&exchange->lock);
    free(exchange->reply.body);
    free(exchange->body);
    free(exchange->method);
    free(exchange->path);
    free(exchange);
}

void http_wake(struct http_exchange *exchange) {
    pthread_mutex_lock(&exchange->lock);
    exchange->woken = true;
    if (exchange->suspended) {
        exchange->suspended = false;
        MHD_resume_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->lock);
}

/* The client's sending side is shut: it has sent all it wants, or it is gone. Only a write tells
 * which, and not at once. */
static bool answers_probe(struct http_exchange *exchange) {
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    bool there = true;
    pthread_mutex_lock(&exchange->lock);
    if (exchange->interim && !exchange->queued && seconds - exchange->asked_at > 1.0) {
        exchange->asked_at = seconds;
        there =
            send(exchange->socket, interim, sizeof interim - 1, MSG_DONTWAIT | MSG_NOSIGNAL) > 0 ||
            errno == EAGAIN;
    }
    pthread_mutex_unlock(&exchange->lock);
    return there;
}

bool http_connected(struct http_exchange *exchange) {
    struct pollfd look = {.fd = exchange->socket, .events = POLLRDHUP};
    if (poll(&look, 1, 0) <= 0) return true;
    if (look.revents & (POLLHUP | POLLERR)) return false;
    return !(look.revents & POLLRDHUP) || answers_probe(exchange);
}

static bool is_closing(struct http_server *server) {
    pthread_mutex_lock(&server->lock);
    bool closing = server->closing;
    pthread_mutex_unlock(&server->lock);
    return closing;
}

/* Asks the source until it has something or sleeps; HTTP_WAIT means the connection is suspended. */
static enum http_pull pull_or_suspend(struct http_exchange *exchange) {
    for (;;) {
        pthread_mutex_lock(&exchange->lock);
        exchange->woken = false;
        pthread_mutex_unlock(&exchange->lock);
        enum http_pull got = exchange->source->pull(exchange->source, &exchange->reply);
        if (got != HTTP_WAIT) return got;
        if (is_closing(exchange->server)) {
            exchange->reply.status = MHD_HTTP_SERVICE_UNAVAILABLE;
            return HTTP_DONE;
        }
        pthread_mutex_lock(&exchange->lock);
        bool sleeps = !exchange->woken;
        if (sleeps) {
            exchange->suspended = true;
            MHD_suspend_connection(exchange->connection);
        }
        pthread_mutex_unlock(&exchange->lock);
        if (sleeps) return HTTP_WAIT;
    }
}

/* The library wants bytes of a streamed reply. */
static ssize_t read_stream(void *context, uint64_t position, char *out, size_t room) {
    (void)position;
    struct http_exchange *exchange = context;
    struct http_reply *reply = &exchange->reply;
    if (exchange->sent == reply->bytes) {
        exchange->sent = reply->bytes = 0;
        if (exchange->done) return MHD_CONTENT_READER_END_OF_STREAM;
        enum http_pull got = pull_or_suspend(exchange);
        exchange->done = got == HTTP_DONE;
        if (reply->bytes == 0) return exchange->done ? MHD_CONTENT_READER_END_OF_STREAM : 0;
    }
    size_t count = reply->bytes - exchange->sent;
    if (count > room) count = room;
    memcpy(out, reply->body + exchange->sent, count);
    exchange->sent += count;
    return (ssize_t)count;
}

static enum MHD_Result queue_reply(struct http_exchange *exchange, bool stream) {
    struct http_reply *reply = &exchange->reply;
    struct MHD_Response *response =
        stream ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream,
                                                   exchange, NULL)
               : MHD_create_response_from_buffer(reply->bytes, reply->body ? reply->body : "",
                                                 MHD_RESPMEM_PERSISTENT);
    if (!response) return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, reply->type);
    if (stream) MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    if (reply->status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, POST");
    if (exchange->two_lengths)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    pthread_mutex_lock(&exchange->lock);
    exchange->queued = true;
    pthread_mutex_unlock(&exchange->lock);
    enum MHD_Result result =
        MHD_queue_response(exchange->connection, (unsigned int)reply->status, response);
    MHD_destroy_response(response);
    return result;
}

/* The request is whole, or its source was woken. */
static enum MHD_Result answer(struct http_exchange *exchange) {
    const struct http_options *options = &exchange->server->options;
    if (!exchange->routed) {
        exchange->routed = true;
        const struct http_request request = {
            .method = exchange->method,
            .path = exchange->path,
            .body = exchange->body ? exchange->body : "",
            .bytes = exchange->bytes,
        };
        if (exchange->two_lengths)
            options->two_lengths(options->context, &exchange->reply);
        else if (exchange->too_large)
            options->too_large(options->context, options->max_body_bytes, &exchange->reply);
        else
            exchange->source =
                options->route(options->context, &request, &exchange->reply, exchange);
    }
    if (!exchange->source) return queue_reply(exchange, false);
    enum http_pull got = pull_or_suspend(exchange);
    if (got == HTTP_WAIT) return MHD_YES;
    return queue_reply(exchange, got == HTTP_MORE);
}

static enum status keep_body(struct http_exchange *exchange, const char *upload, size_t bytes) {
    if (exchange->too_large || exchange->bytes + bytes > exchange->server->options.max_body_bytes) {
        exchange->too_large = true;
        exchange->bytes += bytes;
        return exchange->bytes > SWALLOW_BYTES ? STATUS_IO : STATUS_OK;
    }
    TRY(grow_array((void **)&exchange->body, &exchange->capacity, exchange->bytes + bytes + 1, 1));
    memcpy(exchange->body + exchange->bytes, upload, bytes);
    exchange->bytes += bytes;
    exchange->body[exchange->bytes] = '\0';
    return STATUS_OK;
}

/* One header line; `context` is an exchange. */
static enum MHD_Result compare_length(void *context, enum MHD_ValueKind kind, const char *name,
                                      const char *value) {
    (void)kind;
    struct http_exchange *exchange = context;
    if (strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) != 0) return MHD_YES;
    const char *first = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
    if (strcmp(value ? value : "", first ? first : "") != 0) exchange->two_lengths = true;
    return MHD_YES;
}

/* The headers are there. Where two lengths are announced nobody knows where the body ends: it is
 * refused and the connection closed. A body that is announced as too large is refused at once where
 * the client asks first (Expect: 100-continue) or where it is too long to swallow. */
static enum MHD_Result begin(struct http_exchange *exchange) {
    MHD_get_connection_values(exchange->connection, MHD_HEADER_KIND, compare_length, exchange);
    if (exchange->two_lengths) return answer(exchange);
    const char *length = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND,
                                                     MHD_HTTP_HEADER_CONTENT_LENGTH);
    const char *expect =
        MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_EXPECT);
    unsigned long long bytes = length ? strtoull(length, NULL, 10) : 0;
    exchange->too_large = bytes > exchange->server->options.max_body_bytes;
    if (!exchange->too_large || (!expect && bytes <= SWALLOW_BYTES)) return MHD_YES;
    return answer(exchange);
}

enum MHD_Result http_handle(void *context, struct MHD_Connection *connection, const char *url,
                            const char *method, const char *version, const char *upload,
                            size_t *upload_bytes, void **state) {
    struct http_exchange *exchange = *state;
    if (!exchange) {
        exchange = exchange_open(context, connection, method, url);
        if (!exchange) return MHD_NO;
        exchange->interim = strcmp(version, MHD_HTTP_VERSION_1_1) == 0;
        *state = exchange;
        return begin(exchange);
    }
    if (*upload_bytes > 0) {
        enum status status = keep_body(exchange, upload, *upload_bytes);
        *upload_bytes = 0;
        return status == STATUS_OK ? MHD_YES : MHD_NO;
    }
    return answer(exchange);
}
