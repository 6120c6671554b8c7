#include "serve/format.h"

#include <math.h>

json_t *format_number(float logprob) {
    /* JSON has no infinities; the client's libraries take this for "impossible". */
    return json_real(isfinite(logprob) ? (double)logprob : -9999.0);
}

static json_t *envelope(const struct completion *completion, const char *object, json_t *choices) {
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", completion->id, "object", object,
                     "created", (json_int_t)completion->created, "model", completion->served->name,
                     "system_fingerprint", "strata-" STRATA_VERSION, "choices", choices);
}

static enum status append_event(struct http_reply *reply, json_t *json) {
    TRY(http_printf(reply, "data: "));
    TRY(api_append_json(reply, json));
    return http_printf(reply, "\n\n");
}

/* Tokens of one choice so far; its generation is locked, the others are not looked at. */
static json_t *usage_so_far(const struct generation *generation) {
    json_int_t prompt = generation->sequence.prompt, drawn = generation->drawn;
    return json_pack("{s:I, s:I, s:I}", "prompt_tokens", prompt, "completion_tokens", drawn,
                     "total_tokens", prompt + drawn);
}

enum status format_event(struct choice *choice, json_t *news, json_t *logprobs, const char *finish,
                         struct http_reply *reply) {
    struct completion *completion = choice->owner;
    const struct format_names *names = completion->format->names;
    json_t *json = json_pack("{s:i, s:o, s:o?, s:s?}", "index", choice->index, names->key, news,
                             "logprobs", logprobs, "finish_reason", finish);
    json = envelope(completion, names->event, json_pack("[o]", json));
    if (completion->request.continuous_usage)
        json_object_set_new(json, "usage", usage_so_far(choice->generation));
    else if (completion->request.include_usage)
        json_object_set_new(json, "usage", json_null());
    return append_event(reply, json);
}

enum status format_close(struct completion *completion, struct http_reply *reply) {
    if (completion->request.include_usage) {
        json_t *json = envelope(completion, completion->format->names->event, json_array());
        json_object_set_new(json, "usage", completion_usage(completion));
        TRY(append_event(reply, json));
    }
    return http_printf(reply, "data: [DONE]\n\n");
}

enum status format_whole(struct completion *completion, struct http_reply *reply) {
    const struct format_names *names = completion->format->names;
    json_t *choices = json_array();
    for (int i = 0; i < completion->count; i++)
        json_array_append_new(choices, names->describe(&completion->choices[i]));
    json_t *json = envelope(completion, names->whole, choices);
    json_object_set_new(json, "usage", completion_usage(completion));
    return api_append_json(reply, json);
}

enum status format_fail(struct completion *completion, const char *message,
                        struct http_reply *reply) {
    (void)completion;
    return append_event(reply, json_pack("{s:{s:s, s:s, s:n, s:n}}", "error", "message", message,
                                         "type", "api_error", "param", "code"));
}
