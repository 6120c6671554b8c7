#define _GNU_SOURCE
#include "serve/api.h"

#include <string.h>

static json_t *describe(const struct server *server, const struct served_name *served) {
    bool base = served->adapter == ADAPTER_NONE;
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:s?, s:I}", "id", served->name, "object", "model",
                     "created", (json_int_t)server->created, "owned_by", "strata", "root",
                     server->names[0].name, "parent", base ? NULL : server->names[0].name,
                     "max_model_len", (json_int_t)engine_layout(server->engine)->context);
}

struct http_source *api_models(struct server *server, const struct http_request *request,
                               struct http_reply *reply, struct http_exchange *exchange) {
    (void)request, (void)exchange;
    json_t *data = json_array();
    for (int i = 0; i < server->name_count; i++)
        json_array_append_new(data, describe(server, &server->names[i]));
    return api_reply_json(reply, json_pack("{s:s, s:o}", "object", "list", "data", data));
}

struct http_source *api_model(struct server *server, const struct http_request *request,
                              struct http_reply *reply, struct http_exchange *exchange) {
    (void)exchange;
    const char *name = request->path + strlen("/v1/models/");
    const struct served_name *served;
    struct api_problem problem;
    if (!api_find_name(server, name, &served, &problem))
        return api_error(reply, 404, problem.param, "model_not_found", problem.message);
    return api_reply_json(reply, describe(server, served));
}
