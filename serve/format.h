/* What the two OpenAI formats share: the envelope of a reply and of its events. */
#ifndef STRATA_SERVE_FORMAT_H
#define STRATA_SERVE_FORMAT_H

#include "serve/completion.h"

/* What the formats' replies differ in beside their begin, piece and end. */
struct format_names {
    const char *whole, *event;                        /* `object` of a reply and of an event */
    const char *key;                                  /* what an event's choice calls its news */
    json_t *(*describe)(const struct choice *choice); /* the choice of a whole reply */
};

/* A logprob as JSON. */
json_t *format_number(float logprob);

/* data: {id, object, created, model, choices: [{index, KEY: news, logprobs, finish_reason}]}. Takes
 * news and logprobs over; logprobs and finish may be NULL. */
enum status format_event(struct choice *choice, json_t *news, json_t *logprobs, const char *finish,
                         struct http_reply *reply);

/* Functions of a completion_format: the usage event where it was asked for, then [DONE]; the whole
 * reply; data: {error}, then nothing. */
enum status format_close(struct completion *completion, struct http_reply *reply);
enum status format_whole(struct completion *completion, struct http_reply *reply);
enum status format_fail(struct completion *completion, const char *message,
                        struct http_reply *reply);

#endif
