/* What the two OpenAI formats share: the envelope of a reply and of its events. */
#ifndef STRATA_SERVE_FORMAT_H
#define STRATA_SERVE_FORMAT_H

#include "serve/completion.h"

/* A logprob as JSON. */
json_t *format_number(float logprob);

/* data: {id, object, created, model, choices: [choice]}; takes `choice` over. */
enum status format_event(struct completion *completion, const char *object, json_t *choice,
                         struct http_reply *reply);

/* The usage event where it was asked for, then [DONE]. */
enum status format_close(struct completion *completion, const char *object,
                         struct http_reply *reply);

/* The whole reply; takes `choices` over. */
enum status format_body(struct completion *completion, const char *object, json_t *choices,
                        struct http_reply *reply);

/* data: {error}, then nothing. */
enum status format_fail(struct completion *completion, const char *message,
                        struct http_reply *reply);

#endif
