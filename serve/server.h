/* What the API dialects serve from: an engine, names, a tokenizer and a chat template. Filled in
 * once; `ready` says that everything else may be read. */
#ifndef STRATA_SERVE_SERVER_H
#define STRATA_SERVE_SERVER_H

#include "data/chat_template.h"
#include "serve/engine.h"
#include "serve/http.h"

struct served_name {
    const char *name; /* borrowed */
    int adapter;      /* index among the engine's, or ADAPTER_NONE */
};

struct server {
    atomic_bool ready;
    struct engine *engine;
    const struct tokenizer *tokenizer;
    const struct model_config *config;
    struct chat_template template;
    struct token_bytes bos, eos;     /* texts; "" when there is none */
    const struct served_name *names; /* the model first, then its adapters */
    int name_count;
    int64_t created; /* seconds since 1970 */
    double started;  /* monotonic */
    uint64_t id_key; /* random: ids of two runs differ */
    atomic_ullong id_counter;
};

/* The route of every dialect (http_options.route), and the answer to a body that is too large. The
 * context is the server. */
http_route server_route;
void server_too_large(void *context, size_t limit, struct http_reply *reply);
void server_two_lengths(void *context, struct http_reply *reply);

#endif
