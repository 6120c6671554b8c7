/* Stops, biases and sampling of a request, and what stands in for those it leaves out. */
#define _GNU_SOURCE
#include "serve/api_request.h"

#include "kernels/base/clock.h"
#include "serve/logprobs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum status options_add_stop(struct generation_options *options, const char *text, size_t bytes) {
    struct stop_string *grown =
        realloc(options->stops, (size_t)(options->stop_count + 1) * sizeof *grown);
    char *copy = malloc(bytes);
    if (grown) options->stops = grown;
    if (!grown || !copy) {
        free(copy);
        return status_fail(STATUS_MEMORY, "no memory for a stop string");
    }
    memcpy(copy, text, bytes);
    options->stops[options->stop_count++] = (struct stop_string){copy, bytes};
    return STATUS_OK;
}

enum status options_add_stop_token(struct generation_options *options, int32_t token) {
    int32_t *grown = realloc(options->stop_tokens, (options->stop_token_count + 1) * sizeof *grown);
    if (!grown) return status_fail(STATUS_MEMORY, "no memory for a stop token");
    options->stop_tokens = grown;
    options->stop_tokens[options->stop_token_count++] = token;
    return STATUS_OK;
}

static bool add_stop(struct generation_options *options, const json_t *value,
                     struct api_problem *problem) {
    size_t bytes = json_string_length(value);
    if (!json_is_string(value))
        return api_refuse(problem, "stop", "'stop' must be a string or a list of strings");
    if (bytes == 0) return true;
    if (options_add_stop(options, json_string_value(value), bytes) == STATUS_OK) return true;
    return api_refuse(problem, "stop", "%s", status_message());
}

static bool fill_stops(struct generation_options *options, const json_t *stop,
                       struct api_problem *problem) {
    if (!stop) return true;
    if (!json_is_array(stop)) return add_stop(options, stop, problem);
    if (json_array_size(stop) > API_MAX_STOPS)
        return api_refuse(problem, "stop", "'stop' has more than %d strings", API_MAX_STOPS);
    for (size_t i = 0; i < json_array_size(stop); i++)
        if (!add_stop(options, json_array_get(stop, i), problem)) return false;
    return true;
}

bool api_read_tokens(const json_t *array, const char *param, int64_t vocab, struct token_list *out,
                     struct api_problem *problem) {
    size_t count = json_array_size(array);
    int32_t *grown = realloc(out->ids, (out->count + count + 1) * sizeof *grown);
    if (!grown) return api_refuse(problem, param, "no memory for %zu token ids", count);
    out->ids = grown;
    out->capacity = out->count + count + 1;
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_array_get(array, i);
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= vocab)
            return api_refuse(problem, param, "'%s' must hold token ids from 0 to %lld", param,
                              (long long)vocab - 1);
        out->ids[out->count++] = (int32_t)id;
    }
    return true;
}

static bool fill_stop_tokens(struct generation_options *options, const json_t *ids, int64_t vocab,
                             struct api_problem *problem) {
    if (!ids) return true;
    if (!json_is_array(ids) || json_array_size(ids) > API_MAX_STOPS)
        return api_refuse(problem, "stop_token_ids",
                          "'stop_token_ids' must be a list of at most %d token ids", API_MAX_STOPS);
    struct token_list list = {0};
    bool fine = api_read_tokens(ids, "stop_token_ids", vocab, &list, problem);
    options->stop_tokens = list.ids;
    options->stop_token_count = list.count;
    return fine;
}

static bool fill_biases(struct generation_options *options, const json_t *biases, int64_t vocab,
                        struct api_problem *problem) {
    if (!biases) return true;
    if (!json_is_object(biases))
        return api_refuse(problem, "logit_bias",
                          "'logit_bias' must map token ids to numbers from -100 to 100");
    options->biases = calloc(json_object_size(biases) + 1, sizeof *options->biases);
    if (!options->biases) return api_refuse(problem, "logit_bias", "no memory for 'logit_bias'");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)biases, key, value) {
        char *end;
        errno = 0;
        long long id = strtoll(key, &end, 10);
        double bias = json_is_number(value) ? json_number_value(value) : 1000.0;
        if (errno || end == key || *end || id < 0 || id >= vocab || bias < -100.0 || bias > 100.0)
            return api_refuse(problem, "logit_bias",
                              "'logit_bias' must map token ids from 0 to %lld to numbers from -100 "
                              "to 100",
                              (long long)vocab - 1);
        options->biases[options->bias_count++] = (struct token_bias){(int32_t)id, (float)bias};
    }
    return true;
}

void api_fill_defaults(struct api_request *request, const struct model_config *config,
                       int64_t room) {
    if (request->temperature < 0.0)
        request->temperature = config->temperature >= 0.0 ? config->temperature : 1.0;
    if (request->top_p < 0.0) request->top_p = config->top_p >= 0.0 ? config->top_p : 1.0;
    if (request->top_k < 0 && config->top_k > 0) request->top_k = config->top_k;
    if (!request->has_seed && getrandom(&request->seed, sizeof request->seed, 0) < 0)
        request->seed = (int64_t)(clock_seconds() * 1e9);
    if (request->max_tokens < 0) request->max_tokens = request->kind == API_CHAT ? room : 16;
    if (request->max_tokens > room) request->max_tokens = room;
}

bool api_fill_options(struct generation_options *options, const struct api_request *request,
                      int64_t vocab, struct api_problem *problem) {
    options->sample.temperature = (float)request->temperature;
    options->sample.top_p = (float)request->top_p;
    options->sample.min_p = (float)request->min_p;
    options->sample.top_k = request->top_k < 0 ? 0 : (int32_t)request->top_k;
    options->sample.repetition_penalty = (float)request->repetition_penalty;
    options->sample.presence_penalty = (float)request->presence_penalty;
    options->sample.frequency_penalty = (float)request->frequency_penalty;
    options->sample.seed = (uint64_t)request->seed;
    options->max_tokens = (int32_t)request->max_tokens;
    options->min_tokens = (int32_t)request->min_tokens;
    options->ignore_eos = request->ignore_eos;
    options->include_stop = request->include_stop;
    options->show_special = !request->skip_special;
    options->continues = request->kind == API_TEXT;
    options->logprobs = request->logprobs;
    options->top_logprobs = (int32_t)request->top_logprobs;
    options->prompt_logprobs = request->echo && request->logprobs;
    return fill_stops(options, request->stop, problem) &&
           fill_stop_tokens(options, request->stop_token_ids, vocab, problem) &&
           fill_biases(options, request->logit_bias, vocab, problem);
}
