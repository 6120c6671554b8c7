/* The HTTP server's inside, shared by its two files. */
#ifndef STRATA_SERVE_HTTP_PARTS_H
#define STRATA_SERVE_HTTP_PARTS_H

#include "serve/http.h"

#include <microhttpd.h>
#include <pthread.h>

struct http_server {
    struct http_options options;
    struct MHD_Daemon *daemon;
    int port;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t quiet; /* no exchange is left */
    struct http_exchange *exchanges;
    bool closing;
};

struct http_exchange {
    struct http_server *server;
    struct MHD_Connection *connection;
    int socket;
    struct http_exchange *previous, *next; /* in the server's list */
    char *method, *path;
    char *body;
    size_t bytes, capacity;
    bool too_large, two_lengths, routed, done;
    struct http_reply reply;
    size_t sent; /* bytes of reply.body that left already */
    struct http_source *source;
    pthread_mutex_t lock; /* guards what follows */
    bool woken, suspended;
    bool queued;     /* the reply is the library's: nothing else may be written */
    bool interim;    /* the client knows interim answers (HTTP/1.1) */
    double asked_at; /* when it was last asked whether it is still there; monotonic seconds */
};

/* Callbacks of the library. */
enum MHD_Result http_handle(void *context, struct MHD_Connection *connection, const char *url,
                            const char *method, const char *version, const char *upload,
                            size_t *upload_bytes, void **state);
void http_complete(void *context, struct MHD_Connection *connection, void **state,
                   enum MHD_RequestTerminationCode why);

#endif
