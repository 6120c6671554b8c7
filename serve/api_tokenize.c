#define _GNU_SOURCE
#include "serve/api.h"

#include <stdlib.h>

static bool encode_body(const struct server *server, const json_t *body, struct token_list *list,
                        struct api_problem *problem) {
    const json_t *messages = json_object_get(body, "messages");
    if (messages) return api_encode_chat(server, messages, list, problem);
    const json_t *text = json_object_get(body, "prompt");
    if (!text) text = json_object_get(body, "content");
    if (!json_is_string(text))
        return api_refuse(problem, "prompt", "'prompt' must be a string, or 'messages' a list");
    const json_t *special = json_object_get(body, "add_special_tokens");
    if (special && !json_is_boolean(special))
        return api_refuse(problem, "add_special_tokens",
                          "'add_special_tokens' must be true or false");
    return api_encode_text(server, json_string_value(text), json_string_length(text),
                           !special || json_is_true(special), list, problem);
}

struct http_source *api_tokenize(struct server *server, const struct http_request *request,
                                 struct http_reply *reply, struct http_exchange *exchange) {
    (void)exchange;
    struct api_problem problem = {0};
    struct token_list list = {0};
    json_t *body = api_parse_object(request->body, request->bytes, &problem);
    bool fine = body && encode_body(server, body, &list, &problem);
    json_decref(body);
    json_t *tokens = json_array();
    for (size_t i = 0; fine && i < list.count; i++)
        json_array_append_new(tokens, json_integer(list.ids[i]));
    token_list_free(&list);
    if (!fine) {
        json_decref(tokens);
        return api_refusal(reply, &problem);
    }
    return api_reply_json(reply, json_pack("{s:I, s:I, s:o}", "count",
                                           (json_int_t)json_array_size(tokens), "max_model_len",
                                           (json_int_t)engine_layout(server->engine)->context,
                                           "tokens", tokens));
}

struct http_source *api_detokenize(struct server *server, const struct http_request *request,
                                   struct http_reply *reply, struct http_exchange *exchange) {
    (void)exchange;
    struct api_problem problem = {0};
    struct token_list list = {0};
    char *text = NULL;
    size_t bytes = 0;
    json_t *body = api_parse_object(request->body, request->bytes, &problem), *answer = NULL;
    const json_t *tokens = json_object_get(body, "tokens");
    if (body && !json_is_array(tokens))
        api_refuse(&problem, "tokens", "'tokens' must be a list of token ids");
    else if (body && api_read_tokens(tokens, "tokens", tokenizer_size(server->tokenizer), &list,
                                     &problem)) {
        if (tokenizer_decode(server->tokenizer, list.ids, list.count, true, &text, &bytes) ==
            STATUS_OK)
            answer = json_pack("{s:o}", "prompt", api_json_text(text, bytes));
        else
            api_refuse(&problem, "tokens", "%s", status_message());
    }
    json_decref(body);
    token_list_free(&list);
    free(text);
    return answer ? api_reply_json(reply, answer) : api_refusal(reply, &problem);
}
