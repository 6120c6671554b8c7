#include "serve/format.h"

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

enum status format_event(struct completion *completion, const char *object, json_t *choice,
                         struct http_reply *reply) {
    const struct api_request *request = &completion->request;
    int index = (int)json_integer_value(json_object_get(choice, "index"));
    json_t *json = envelope(completion, object, json_pack("[o]", choice));
    if (request->continuous_usage)
        json_object_set_new(json, "usage", usage_so_far(completion->choices[index].generation));
    else if (request->include_usage)
        json_object_set_new(json, "usage", json_null());
    return append_event(reply, json);
}

enum status format_close(struct completion *completion, const char *object,
                         struct http_reply *reply) {
    if (completion->request.include_usage) {
        json_t *json = envelope(completion, object, json_array());
        json_object_set_new(json, "usage", completion_usage(completion));
        TRY(append_event(reply, json));
    }
    return http_printf(reply, "data: [DONE]\n\n");
}

enum status format_body(struct completion *completion, const char *object, json_t *choices,
                        struct http_reply *reply) {
    json_t *json = envelope(completion, object, choices);
    json_object_set_new(json, "usage", completion_usage(completion));
    return api_append_json(reply, json);
}

enum status format_fail(struct completion *completion, const char *message,
                        struct http_reply *reply) {
    (void)completion;
    return append_event(reply, json_pack("{s:{s:s, s:s, s:n, s:n}}", "error", "message", message,
                                         "type", "api_error", "param", "code"));
}
