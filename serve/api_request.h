/* A completion request of OpenAI's dialect, read from JSON and checked, before any of it meets a
 * model. Source: OpenAI's API reference (chat completions, completions) and the extensions that
 * clients of other servers send (top_k, min_p, repetition_penalty, ignore_eos, ...).
 *
 * Null is absent. A field nobody knows is ignored with a log line; a known one with a bad value is
 * refused by name. */
#ifndef STRATA_SERVE_API_REQUEST_H
#define STRATA_SERVE_API_REQUEST_H

#include "core/model_config.h"
#include "serve/generation.h"

#include <jansson.h>

enum { API_MAX_CHOICES = 128, API_MAX_PROMPTS = 1024, API_MAX_ANSWERS = 4096, API_MAX_STOPS = 64 };

enum api_kind { API_CHAT, API_TEXT };

struct api_request {
    enum api_kind kind;
    json_t *root;      /* owned; the strings and values below are borrowed from it */
    const char *model; /* NULL: not said */
    json_t *messages;  /* chat: an array */
    json_t *prompt;    /* text: string, [string], [int] or [[int]] */
    json_t *stop, *stop_token_ids, *logit_bias;
    int64_t max_tokens; /* -1: not said */
    int64_t min_tokens, n, seed, top_k, top_logprobs;
    bool has_seed;
    double temperature, top_p, min_p; /* negative: not said */
    double presence_penalty, frequency_penalty, repetition_penalty;
    bool stream, include_usage, continuous_usage;
    bool echo, logprobs, ignore_eos, include_stop, skip_special;
};

/* What is wrong with a request. */
struct api_problem {
    char message[512];
    char param[64];   /* the field, or "" */
    const char *code; /* for programs; a literal */
};

/* Parses `bytes` bytes of strict UTF-8 JSON. False with *problem filled in, and nothing owned. */
bool api_request_parse(struct api_request *request, enum api_kind kind, const char *text,
                       size_t bytes, struct api_problem *problem);
void api_request_free(struct api_request *request);

/* Fills in false's reason: returns false for `return api_refuse(...)`. */
bool api_refuse(struct api_problem *problem, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Parses a JSON object of strict UTF-8. NULL with *problem filled in. */
json_t *api_parse_object(const char *text, size_t bytes, struct api_problem *problem);

/* What the request leaves open: the model's own sampling defaults, a random seed, and how long an
 * answer may be (16 tokens for text as OpenAI has it, `room` for chat), at most `room` tokens. */
void api_fill_defaults(struct api_request *request, const struct model_config *config,
                       int64_t room);

/* Lengths, stops, biases and sampling of the request, with its defaults, as options; a token id
 * must be below `vocab`. False with *problem filled in. */
bool api_fill_options(struct generation_options *options, const struct api_request *request,
                      int64_t vocab, struct api_problem *problem);

/* Appends a copy of a stop string. */
enum status options_add_stop(struct generation_options *options, const char *text, size_t bytes);
enum status options_add_stop_token(struct generation_options *options, int32_t token);

/* An array of token ids below `vocab`; appends to `out`. */
bool api_read_tokens(const json_t *array, const char *param, int64_t vocab, struct token_list *out,
                     struct api_problem *problem);

#endif
