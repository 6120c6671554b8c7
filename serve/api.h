/* What the handlers of API routes share. A handler answers one request; see http_route. */
#ifndef STRATA_SERVE_API_H
#define STRATA_SERVE_API_H

#include "serve/api_request.h"
#include "serve/server.h"

typedef struct http_source *api_handler(struct server *server, const struct http_request *request,
                                        struct http_reply *reply, struct http_exchange *exchange);

api_handler api_chat_completions, api_completions;          /* api_completions.c */
api_handler api_models, api_model;                          /* api_models.c */
api_handler api_tokenize, api_detokenize;                   /* api_tokenize.c */
api_handler api_health, api_version, api_metrics, api_root; /* api_status.c */

/* An error in OpenAI's shape. `type` and `code` may be NULL, `param` NULL or "". Returns NULL, so
 * that a handler can return it. */
struct http_source *api_error(struct http_reply *reply, int status, const char *param,
                              const char *code, const char *message);
struct http_source *api_refusal(struct http_reply *reply, const struct api_problem *problem);

/* Appends JSON text and gives `json` back; NULL counts as no memory, which becomes a 500. */
struct http_source *api_reply_json(struct http_reply *reply, json_t *json);
enum status api_append_json(struct http_reply *reply, json_t *json);

/* A JSON string of bytes that need not be UTF-8: what isn't becomes U+FFFD. */
json_t *api_json_text(const char *bytes, size_t count);

/* The served name that a request means: NULL is the model itself, and where there is nothing but
 * one model any name is. False with a message that lists the names. */
bool api_find_name(const struct server *server, const char *name, const struct served_name **found,
                   struct api_problem *problem);

/* `prefix` and 16 hexadecimal digits that no other request of this server has. */
void api_make_id(struct server *server, const char *prefix, char out[GENERATION_ID_BYTES]);

/* Token ids of a text prompt, and of chat messages through the template. */
bool api_encode_text(const struct server *server, const char *text, size_t bytes, bool add_special,
                     struct token_list *out, struct api_problem *problem);
bool api_encode_chat(const struct server *server, const json_t *messages, struct token_list *out,
                     struct api_problem *problem);

#endif
