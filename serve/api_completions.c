/* The handlers of both completion routes: request to prompts to generations. */
#define _GNU_SOURCE
#include "serve/completion.h"

#include <stdlib.h>
#include <string.h>

/* The prompts of a request, each as token ids. */
struct prompts {
    struct token_list *lists; /* (count) owned */
    const json_t **texts;     /* (count) borrowed; NULL for token ids */
    int count;
};

static void prompts_free(struct prompts *prompts) {
    for (int i = 0; prompts->lists && i < prompts->count; i++) token_list_free(&prompts->lists[i]);
    free(prompts->lists);
    free(prompts->texts);
}

static bool prompts_create(struct prompts *prompts, size_t count, struct api_problem *problem) {
    if (count == 0 || count > API_MAX_PROMPTS)
        return api_refuse(problem, "prompt", "'prompt' must hold 1 to %d prompts", API_MAX_PROMPTS);
    prompts->lists = calloc(count, sizeof *prompts->lists);
    prompts->texts = calloc(count, sizeof *prompts->texts);
    prompts->count = (int)count;
    if (prompts->lists && prompts->texts) return true;
    return api_refuse(problem, "prompt", "no memory for %zu prompts", count);
}

static bool encode_prompt(const struct server *server, const json_t *prompt,
                          struct prompts *prompts, int index, struct api_problem *problem) {
    struct token_list *list = &prompts->lists[index];
    if (json_is_string(prompt)) {
        prompts->texts[index] = prompt;
        return api_encode_text(server, json_string_value(prompt), json_string_length(prompt), true,
                               list, problem);
    }
    if (json_is_array(prompt))
        return api_read_tokens(prompt, "prompt", server->config->vocab, list, problem);
    return api_refuse(problem, "prompt",
                      "'prompt' must be a string, a list of strings, a list of token ids, or a "
                      "list of such lists");
}

static bool encode_all(const struct server *server, const struct api_request *request,
                       struct prompts *prompts, struct api_problem *problem) {
    if (request->kind == API_CHAT)
        return prompts_create(prompts, 1, problem) &&
               api_encode_chat(server, request->messages, &prompts->lists[0], problem);
    const json_t *prompt = request->prompt, *first = json_array_get(prompt, 0);
    bool many = json_is_array(prompt) && !json_is_integer(first);
    if (!prompts_create(prompts, many ? json_array_size(prompt) : 1, problem)) return false;
    for (int i = 0; i < prompts->count; i++)
        if (!encode_prompt(server, many ? json_array_get(prompt, (size_t)i) : prompt, prompts, i,
                           problem))
            return false;
    return true;
}

/* A prompt is never cut. The last token drawn needs no room in the context. */
static bool check_lengths(const struct server *server, const struct prompts *prompts,
                          const char *param, size_t *longest, struct api_problem *problem) {
    int64_t context = engine_layout(server->engine)->context;
    *longest = 0;
    for (int i = 0; i < prompts->count; i++) {
        size_t count = prompts->lists[i].count;
        if (count == 0) return api_refuse(problem, param, "the prompt has no tokens");
        if (count > (size_t)context) {
            api_refuse(problem, param, "the prompt has %zu tokens, but the context is %lld tokens",
                       count, (long long)context);
            problem->code = "context_length_exceeded"; /* clients that cut prompts look for it */
            return false;
        }
        if (count > *longest) *longest = count;
    }
    return true;
}

/* The marks of a chat's turns end an answer: those that are one control token by their id, since
 * they have no text, the others as stop strings. Not with ignore_eos, which wants full length. */
static enum status add_template_stops(const struct server *server,
                                      struct generation_options *options) {
    if (options->ignore_eos) return STATUS_OK;
    const char *const *stops = chat_template_stops(&server->template);
    for (; stops && *stops; stops++) {
        int32_t token = tokenizer_find(server->tokenizer, *stops);
        if (token >= 0 && tokenizer_is_control(server->tokenizer, token))
            TRY(options_add_stop_token(options, token));
        else
            TRY(options_add_stop(options, *stops, strlen(*stops)));
    }
    return STATUS_OK;
}

static enum status add_generations(struct completion *completion, const struct prompts *prompts) {
    int n = (int)completion->request.n;
    for (int i = 0; i < completion->count; i++) {
        const struct token_list *prompt = &prompts->lists[i / n];
        int64_t group = 0; /* one a prompt: its first sibling's counter value */
        if (n > 1 && i % n > 0)
            group = completion->choices[i - 1].generation->sequence.group;
        else if (n > 1)
            group = 1 + (int64_t)atomic_fetch_add(&completion->server->id_counter, 1);
        TRY(completion_add(completion, i, prompt, prompts->texts[i / n], group));
    }
    return STATUS_OK;
}

/* Everything that can be wrong with the request has been looked at: what fails from here on is the
 * server's fault. */
static enum status start(struct completion *completion, const struct prompts *prompts) {
    if (completion->request.kind == API_CHAT)
        TRY(add_template_stops(completion->server, completion->options));
    TRY(add_generations(completion, prompts));
    return completion_start(completion);
}

static bool prepare(struct server *server, struct api_request *request, struct prompts *prompts,
                    struct api_problem *problem) {
    size_t longest;
    const char *param = request->kind == API_CHAT ? "messages" : "prompt";
    if (!encode_all(server, request, prompts, problem) ||
        !check_lengths(server, prompts, param, &longest, problem))
        return false;
    if (prompts->count * request->n > API_MAX_ANSWERS)
        return api_refuse(problem, "n", "%d prompts x %lld choices are more than %d answers",
                          prompts->count, (long long)request->n, API_MAX_ANSWERS);
    api_fill_defaults(request, server->config,
                      engine_layout(server->engine)->context + 1 - (int64_t)longest);
    return true;
}

static struct http_source *complete(struct server *server, enum api_kind kind,
                                    const struct http_request *http, struct http_reply *reply,
                                    struct http_exchange *exchange) {
    struct api_request request;
    struct api_problem problem = {0};
    struct prompts prompts = {0};
    struct completion *completion = NULL;
    const struct served_name *served;
    struct http_source *source = NULL;
    if (!api_request_parse(&request, kind, http->body, http->bytes, &problem))
        return api_refusal(reply, &problem);
    if (!api_find_name(server, request.model, &served, &problem)) {
        api_error(reply, 404, "model", "model_not_found", problem.message);
    } else if (!prepare(server, &request, &prompts, &problem)) {
        api_refusal(reply, &problem);
    } else if (completion_create(&completion, server, &request,
                                 kind == API_CHAT ? &format_chat : &format_text, served, exchange,
                                 prompts.count * (int)request.n) != STATUS_OK) {
        api_error(reply, 500, NULL, NULL, status_message());
    } else if (!api_fill_options(completion->options, &completion->request, server->config->vocab,
                                 &problem)) {
        api_refusal(reply, &problem);
    } else {
        enum status status = start(completion, &prompts);
        source = status == STATUS_OK ? &completion->source : NULL;
        if (!source)
            api_error(reply, status == STATUS_CANCELLED ? 503 : 500, NULL, NULL, status_message());
    }
    if (!source) completion_free(completion);
    prompts_free(&prompts);
    api_request_free(&request);
    return source;
}

struct http_source *api_chat_completions(struct server *server, const struct http_request *request,
                                         struct http_reply *reply, struct http_exchange *exchange) {
    return complete(server, API_CHAT, request, reply, exchange);
}

struct http_source *api_completions(struct server *server, const struct http_request *request,
                                    struct http_reply *reply, struct http_exchange *exchange) {
    return complete(server, API_TEXT, request, reply, exchange);
}
