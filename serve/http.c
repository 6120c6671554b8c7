#define _GNU_SOURCE
#include "serve/http.h"

#include "core/log.h"
#include "serve/deadline.h"
#include "serve/grow.h"
#include "serve/http_parts.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IDLE_SECONDS = 120, MAX_CONNECTIONS = 4096, RESERVED_FILES = 128, LISTEN_BACKLOG = 511 };

enum status http_append(struct http_reply *reply, const void *bytes, size_t count) {
    TRY(grow_array((void **)&reply->body, &reply->capacity, reply->bytes + count + 1, 1));
    if (count > 0) memcpy(reply->body + reply->bytes, bytes, count);
    reply->bytes += count;
    reply->body[reply->bytes] = '\0';
    return STATUS_OK;
}

enum status http_printf(struct http_reply *reply, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int count = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    enum status status =
        grow_array((void **)&reply->body, &reply->capacity, reply->bytes + (size_t)count + 1, 1);
    if (status == STATUS_OK) {
        vsnprintf(reply->body + reply->bytes, (size_t)count + 1, format, again);
        reply->bytes += (size_t)count;
    }
    va_end(again);
    return status;
}

static enum status listen_on(const struct addrinfo *address, int *socket_out) {
    int fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return status_fail(STATUS_IO, "%s", strerror(errno));
    int yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, LISTEN_BACKLOG) != 0) {
        int reason = errno;
        close(fd);
        return status_fail(STATUS_IO, "%s",
                           reason == EADDRINUSE ? "the port is in use" : strerror(reason));
    }
    *socket_out = fd;
    return STATUS_OK;
}

static enum status open_socket(const char *host, int port, int *socket_out) {
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    int failure = getaddrinfo(host, service, &hints, &found);
    if (failure != 0)
        return status_fail(STATUS_IO, "can't listen on %s:%d: %s", host, port,
                           gai_strerror(failure));
    enum status status = STATUS_IO;
    for (const struct addrinfo *at = found; at && status != STATUS_OK; at = at->ai_next)
        status = listen_on(at, socket_out);
    freeaddrinfo(found);
    if (status != STATUS_OK) status_context(status, "can't listen on %s:%d", host, port);
    return status;
}

static int port_of(int socket) {
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    if (getsockname(socket, (struct sockaddr *)&address, &size) != 0) return -1;
    if (address.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)(const void *)&address)->sin6_port);
    return ntohs(((const struct sockaddr_in *)(const void *)&address)->sin_port);
}

static void log_library(void *context, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));
static void log_library(void *context, const char *format, va_list arguments) {
    (void)context;
    char text[512];
    vsnprintf(text, sizeof text, format, arguments);
    log_line(LOG_DEBUG, "event=http message=%s", log_value(&(struct log_text){0}, text));
}

/* Connections at once: what the process may open, less what the rest of it needs. Beyond that the
 * library doesn't accept, instead of failing to. */
static unsigned int most_connections(void) {
    struct rlimit files = {0};
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur < 2 * RESERVED_FILES) return 16;
    rlim_t most = files.rlim_cur - RESERVED_FILES;
    return most < MAX_CONNECTIONS ? (unsigned int)most : MAX_CONNECTIONS;
}

enum status http_open(struct http_server **out, const struct http_options *options) {
    *out = NULL;
    int fd = -1;
    TRY(open_socket(options->host, options->port, &fd));
    struct http_server *server = calloc(1, sizeof *server);
    if (!server) {
        close(fd);
        return status_fail(STATUS_MEMORY, "no memory for the HTTP server");
    }
    server->options = *options;
    server->port = port_of(fd);
    pthread_mutex_init(&server->lock, NULL);
    deadline_init(&server->quiet);
    unsigned int flags =
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC | MHD_USE_ERROR_LOG;
    /* A pool of one is refused by the library: leaving it out is one thread. */
    unsigned int pool = options->threads > 1 ? (unsigned int)options->threads : 0;
    server->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, http_handle, server, MHD_OPTION_EXTERNAL_LOGGER, log_library, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, http_complete, server,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned int)IDLE_SECONDS, MHD_OPTION_CONNECTION_LIMIT,
        most_connections(), MHD_OPTION_THREAD_POOL_SIZE, pool, MHD_OPTION_END);
    if (!server->daemon) {
        close(fd);
        pthread_cond_destroy(&server->quiet);
        pthread_mutex_destroy(&server->lock);
        free(server);
        return status_fail(STATUS_IO, "the HTTP server could not start");
    }
    *out = server;
    return STATUS_OK;
}

int http_port(const struct http_server *server) {
    return server->port;
}

void http_refuse(struct http_server *server) {
    MHD_socket fd = MHD_quiesce_daemon(server->daemon);
    if (fd != MHD_INVALID_SOCKET) close(fd);
}

static void wait_quiet(struct http_server *server, double seconds) {
    const struct timespec until = deadline_after(seconds);
    int result = 0;
    pthread_mutex_lock(&server->lock);
    while (server->exchanges && result == 0)
        result = pthread_cond_timedwait(&server->quiet, &server->lock, &until);
    pthread_mutex_unlock(&server->lock);
}

void http_close(struct http_server *server, double seconds) {
    if (!server) return;
    wait_quiet(server, seconds);
    pthread_mutex_lock(&server->lock);
    server->closing = true;
    for (struct http_exchange *at = server->exchanges; at; at = at->next) http_wake(at);
    pthread_mutex_unlock(&server->lock);
    wait_quiet(server, 1.0);
    MHD_stop_daemon(server->daemon);
    pthread_cond_destroy(&server->quiet);
    pthread_mutex_destroy(&server->lock);
    free(server);
}
