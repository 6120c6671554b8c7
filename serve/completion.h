/* A completion being answered: the generations of one request, read as they grow, written by a
 * format (a dialect's way of saying it). An http_source. */
#ifndef STRATA_SERVE_COMPLETION_H
#define STRATA_SERVE_COMPLETION_H

#include "serve/api.h"

/* One of the answers: prompt number index / n, choice index % n. */
struct choice {
    struct completion *owner;
    int index;
    struct generation *generation;
    const json_t *prompt_text; /* borrowed from the request; NULL when the prompt was token ids */
    size_t tokens_read, text_read;
    size_t characters; /* written so far, of the prompt's echo too */
    bool submitted, begun, ended;
};

/* What is new of a choice: text, and the tokens it came from (perhaps none). */
struct piece {
    const char *text;
    size_t bytes;
    const struct transcript_token *tokens;
    size_t count;
};

/* Every function appends to the reply. They are called with the choice's generation locked. */
struct completion_format {
    const char *stream_type;
    enum status (*begin)(struct choice *choice, struct http_reply *reply);
    enum status (*piece)(struct choice *choice, const struct piece *piece,
                         struct http_reply *reply);
    enum status (*end)(struct choice *choice, struct http_reply *reply);
    /* No lock from here on: everything has finished. */
    enum status (*close)(struct completion *completion, struct http_reply *reply);
    enum status (*whole)(struct completion *completion, struct http_reply *reply);
    enum status (*fail)(struct completion *completion, const char *message,
                        struct http_reply *reply); /* after bytes have been streamed */
    const struct format_names *names;              /* serve/format.h */
};

extern const struct completion_format format_chat, format_text;

struct completion {
    struct http_source source;
    struct server *server;
    struct http_exchange *exchange;
    const struct completion_format *format;
    struct api_request request;
    struct generation_options *options;
    char id[GENERATION_ID_BYTES];
    int64_t created;
    const struct served_name *served;
    struct choice *choices;
    int count;
    bool streaming; /* bytes have been sent */
};

/* Takes the request over (an empty one stays behind). The options have one reference. */
enum status completion_create(struct completion **completion, struct server *server,
                              struct api_request *request, const struct completion_format *format,
                              const struct served_name *served, struct http_exchange *exchange,
                              int choices);

/* Makes generation `index` of a prompt; `group` as in struct sequence. */
enum status completion_add(struct completion *completion, int index,
                           const struct token_list *prompt, const json_t *prompt_text,
                           int64_t group);

/* Hands all generations to the engine. */
enum status completion_start(struct completion *completion);
void completion_free(struct completion *completion);

/* usage {prompt_tokens, ...} of all choices, which have finished. */
json_t *completion_usage(struct completion *completion);

#endif
