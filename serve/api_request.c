#define _GNU_SOURCE
#include "serve/api_request.h"

#include "core/json_util.h"
#include "core/log.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

bool api_refuse(struct api_problem *problem, const char *param, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem->message, sizeof problem->message, format, arguments);
    va_end(arguments);
    snprintf(problem->param, sizeof problem->param, "%s", param ? param : "");
    problem->code = "invalid_value";
    return false;
}

enum field_kind {
    FIELD_BOOL,
    FIELD_INT,
    FIELD_NUMBER,
    FIELD_TEXT,
    FIELD_JSON,    /* looked at later */
    FIELD_IGNORED, /* known, without effect here */
};

enum { CHAT = 1, TEXT = 2, BOTH = 3 };

struct field {
    const char *name;
    int where; /* which requests know it */
    enum field_kind kind;
    size_t offset;
    double low, high; /* inclusive bounds of a number */
};

#define AT(member) offsetof(struct api_request, member)
/* Beyond any context: larger counts of tokens are cut there. */
static const double huge = 2147483647.0;

static const struct field fields[] = {
    {"model", BOTH, FIELD_TEXT, AT(model), 0, 0},
    {"messages", CHAT, FIELD_JSON, AT(messages), 0, 0},
    {"prompt", TEXT, FIELD_JSON, AT(prompt), 0, 0},
    {"max_tokens", BOTH, FIELD_INT, AT(max_tokens), 0, 9.0e15},
    {"max_completion_tokens", CHAT, FIELD_INT, AT(max_tokens), 0, 9.0e15},
    {"min_tokens", BOTH, FIELD_INT, AT(min_tokens), 0, 9.0e15},
    {"n", BOTH, FIELD_INT, AT(n), 1, API_MAX_CHOICES},
    {"top_k", BOTH, FIELD_INT, AT(top_k), -1, 9.0e15},
    {"top_logprobs", CHAT, FIELD_INT, AT(top_logprobs), 0, 20},
    {"logprobs", CHAT, FIELD_BOOL, AT(logprobs), 0, 0},
    {"logprobs", TEXT, FIELD_INT, AT(top_logprobs), 0, 20},
    {"temperature", BOTH, FIELD_NUMBER, AT(temperature), 0, 100},
    {"top_p", BOTH, FIELD_NUMBER, AT(top_p), 0, 1},
    {"min_p", BOTH, FIELD_NUMBER, AT(min_p), 0, 1},
    {"presence_penalty", BOTH, FIELD_NUMBER, AT(presence_penalty), -2, 2},
    {"frequency_penalty", BOTH, FIELD_NUMBER, AT(frequency_penalty), -2, 2},
    {"repetition_penalty", BOTH, FIELD_NUMBER, AT(repetition_penalty), 1e-3, 1e3},
    {"stream", BOTH, FIELD_BOOL, AT(stream), 0, 0},
    {"echo", TEXT, FIELD_BOOL, AT(echo), 0, 0},
    {"ignore_eos", BOTH, FIELD_BOOL, AT(ignore_eos), 0, 0},
    {"include_stop_str_in_output", BOTH, FIELD_BOOL, AT(include_stop), 0, 0},
    {"skip_special_tokens", BOTH, FIELD_BOOL, AT(skip_special), 0, 0},
    {"stop", BOTH, FIELD_JSON, AT(stop), 0, 0},
    {"stop_token_ids", BOTH, FIELD_JSON, AT(stop_token_ids), 0, 0},
    {"logit_bias", BOTH, FIELD_JSON, AT(logit_bias), 0, 0},
    {"user", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"store", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"metadata", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"parallel_tool_calls", CHAT, FIELD_IGNORED, 0, 0, 0},
    /* Refused by check_neutral where they ask for something. */
    {"functions", CHAT, FIELD_IGNORED, 0, 0, 0},
    {"function_call", CHAT, FIELD_IGNORED, 0, 0, 0},
    {"modalities", CHAT, FIELD_IGNORED, 0, 0, 0},
    {"audio", CHAT, FIELD_IGNORED, 0, 0, 0},
    {"web_search_options", CHAT, FIELD_IGNORED, 0, 0, 0},
    {"continue_final_message", CHAT, FIELD_IGNORED, 0, 0, 0},
    {"prompt_logprobs", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"use_beam_search", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"guided_json", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"guided_regex", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"guided_choice", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"guided_grammar", BOTH, FIELD_IGNORED, 0, 0, 0},
    /* Read by functions of their own below. */
    {"seed", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"stream_options", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"response_format", BOTH, FIELD_IGNORED, 0, 0, 0},
    {"tools", CHAT, FIELD_IGNORED, 0, 0, 0},
    {"tool_choice", CHAT, FIELD_IGNORED, 0, 0, 0},
    {"suffix", TEXT, FIELD_IGNORED, 0, 0, 0},
    {"best_of", TEXT, FIELD_IGNORED, 0, 0, 0},
};
#undef AT

static const struct field *find_field(const char *name, enum api_kind kind) {
    int where = kind == API_CHAT ? CHAT : TEXT;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if ((fields[i].where & where) && strcmp(fields[i].name, name) == 0) return &fields[i];
    return NULL;
}

static bool read_number(const struct field *field, const json_t *value, double *out,
                        struct api_problem *problem) {
    bool whole = field->kind == FIELD_INT;
    double number = json_is_number(value) ? json_number_value(value) : NAN;
    if (isnan(number) || (whole && number != floor(number)))
        return api_refuse(problem, field->name, "'%s' must be %s", field->name,
                          whole ? "an integer" : "a number");
    if (number < field->low || number > field->high)
        return api_refuse(problem, field->name, "'%s' is %g, but must lie between %g and %g",
                          field->name, number, field->low, field->high);
    *out = number;
    return true;
}

static bool read_field(const struct field *field, json_t *value, struct api_request *request,
                       struct api_problem *problem) {
    void *at = (char *)request + field->offset;
    double number = 0.0;
    switch (field->kind) {
    case FIELD_BOOL:
        if (!json_is_boolean(value))
            return api_refuse(problem, field->name, "'%s' must be true or false", field->name);
        *(bool *)at = json_is_true(value);
        return true;
    case FIELD_INT:
        if (!read_number(field, value, &number, problem)) return false;
        *(int64_t *)at = (int64_t)(number > huge ? huge : number);
        return true;
    case FIELD_NUMBER:
        return read_number(field, value, at, problem);
    case FIELD_TEXT:
        if (!json_is_string(value))
            return api_refuse(problem, field->name, "'%s' must be a string", field->name);
        *(const char **)at = json_string_value(value);
        return true;
    case FIELD_JSON:
        *(json_t **)at = value;
        return true;
    case FIELD_IGNORED:
        return true;
    }
    return true;
}

static void log_ignored(const char *name) {
    log_line(LOG_INFO, "event=ignored_field field=%s", log_value(&(struct log_text){0}, name));
}

static bool read_fields(struct api_request *request, struct api_problem *problem) {
    const char *name;
    json_t *value;
    json_object_foreach(request->root, name, value) {
        if (json_is_null(value)) continue;
        const struct field *field = find_field(name, request->kind);
        if (!field)
            log_ignored(name);
        else if (!read_field(field, value, request, problem))
            return false;
    }
    /* The newer name wins whatever the order of the fields. */
    json_t *newer = json_object_get(request->root, "max_completion_tokens");
    if (request->kind == API_CHAT && newer && !json_is_null(newer))
        return read_field(find_field("max_completion_tokens", API_CHAT), newer, request, problem);
    return true;
}

static json_t *get(const struct api_request *request, const char *name) {
    json_t *value = json_object_get(request->root, name);
    return json_is_null(value) ? NULL : value;
}

static bool read_seed(struct api_request *request, struct api_problem *problem) {
    const json_t *seed = get(request, "seed");
    if (!seed) return true;
    if (!json_is_integer(seed)) return api_refuse(problem, "seed", "'seed' must be an integer");
    request->seed = json_integer_value(seed);
    request->has_seed = true;
    return true;
}

static bool read_stream_option(const json_t *options, const char *name, bool *out,
                               struct api_problem *problem) {
    const json_t *value = json_object_get(options, name);
    if (value && !json_is_null(value) && !json_is_boolean(value))
        return api_refuse(problem, "stream_options", "'stream_options.%s' must be true or false",
                          name);
    *out = json_is_true(value);
    return true;
}

static bool read_stream_options(struct api_request *request, struct api_problem *problem) {
    const json_t *options = get(request, "stream_options");
    if (!options) return true;
    if (!json_is_object(options))
        return api_refuse(problem, "stream_options", "'stream_options' must be an object");
    return read_stream_option(options, "include_usage", &request->include_usage, problem) &&
           read_stream_option(options, "continuous_usage_stats", &request->continuous_usage,
                              problem);
}

/* Fields that would need what this server doesn't do, unless they say what it does anyway: refused,
 * not ignored, since the answer would not be what was asked for. */
static const struct neutral {
    const char *name;
    int where;
    const char *value; /* the JSON text that is allowed; NULL: none */
} neutrals[] = {
    {"functions", CHAT, "[]"},          {"function_call", CHAT, "\"none\""},
    {"modalities", CHAT, "[\"text\"]"}, {"audio", CHAT, NULL},
    {"web_search_options", CHAT, NULL}, {"continue_final_message", CHAT, "false"},
    {"prompt_logprobs", BOTH, NULL},    {"use_beam_search", BOTH, "false"},
    {"guided_json", BOTH, NULL},        {"guided_regex", BOTH, NULL},
    {"guided_choice", BOTH, NULL},      {"guided_grammar", BOTH, NULL},
    {"suffix", TEXT, "\"\""},
};

static bool check_neutral(const struct api_request *request, const struct neutral *row,
                          struct api_problem *problem) {
    bool known = row->where & (request->kind == API_CHAT ? CHAT : TEXT);
    const json_t *value = known ? get(request, row->name) : NULL;
    if (!value) return true;
    json_t *allowed = row->value ? json_loads(row->value, JSON_DECODE_ANY, NULL) : NULL;
    bool neutral = allowed && json_equal(value, allowed);
    json_decref(allowed);
    if (neutral) return true;
    if (!row->value)
        return api_refuse(problem, row->name, "'%s' is not served: leave it out", row->name);
    return api_refuse(problem, row->name, "'%s' is not served: leave it out, or give %s", row->name,
                      row->value);
}

static bool check_tools(const struct api_request *request, struct api_problem *problem) {
    const json_t *tools = get(request, "tools"), *choice = get(request, "tool_choice");
    const char *word = json_string_value(choice);
    if (tools && !json_is_array(tools))
        return api_refuse(problem, "tools", "'tools' must be a list");
    bool none = word && strcmp(word, "none") == 0;
    if (json_array_size(tools) > 0 && !none)
        return api_refuse(problem, "tools",
                          "'tools' are not served: leave them out, or give \"tool_choice\": "
                          "\"none\"");
    if (choice && !none && !(word && strcmp(word, "auto") == 0))
        return api_refuse(problem, "tool_choice",
                          "'tool_choice' asks for a tool, and there is none");
    return true;
}

static bool check_unsupported(const struct api_request *request, struct api_problem *problem) {
    const json_t *format = get(request, "response_format"), *best_of = get(request, "best_of");
    const char *type = json_string_value(json_object_get(format, "type"));
    for (size_t i = 0; i < sizeof neutrals / sizeof *neutrals; i++)
        if (!check_neutral(request, &neutrals[i], problem)) return false;
    if (format && (!type || strcmp(type, "text") != 0))
        return api_refuse(problem, "response_format",
                          "'response_format' must be {\"type\": \"text\"}: others are not served");
    if (request->kind == API_CHAT) return check_tools(request, problem);
    if (best_of && (!json_is_integer(best_of) || json_integer_value(best_of) != request->n))
        return api_refuse(problem, "best_of", "'best_of' must be equal to 'n'");
    return true;
}

static bool check_together(struct api_request *request, struct api_problem *problem) {
    if (request->kind == API_CHAT) {
        if (!json_is_array(request->messages) || json_array_size(request->messages) == 0)
            return api_refuse(problem, "messages", "'messages' must be a list with a message");
        if (request->top_logprobs > 0 && !request->logprobs)
            return api_refuse(problem, "top_logprobs", "'top_logprobs' needs 'logprobs': true");
        if (request->max_tokens == 0)
            return api_refuse(problem, "max_tokens", "'max_tokens' must be at least 1");
        request->top_logprobs = request->top_logprobs < 0 ? 0 : request->top_logprobs;
        return true;
    }
    request->logprobs = request->top_logprobs >= 0;
    request->top_logprobs = request->logprobs ? request->top_logprobs : 0;
    if (!request->prompt) return api_refuse(problem, "prompt", "'prompt' is missing");
    return true;
}

json_t *api_parse_object(const char *text, size_t bytes, struct api_problem *problem) {
    json_t *root;
    if (json_parse_bytes(&root, text, bytes, "the body", 0) != STATUS_OK) {
        api_refuse(problem, NULL, "%s", status_message());
        return NULL;
    }
    if (json_is_object(root)) return root;
    json_decref(root);
    api_refuse(problem, NULL, "the body is JSON, but not an object");
    return NULL;
}

bool api_request_parse(struct api_request *request, enum api_kind kind, const char *text,
                       size_t bytes, struct api_problem *problem) {
    *request = (struct api_request){
        .kind = kind,
        .max_tokens = -1,
        .n = 1,
        .top_k = -1,
        .top_logprobs = -1,
        .temperature = -1.0,
        .top_p = -1.0,
        .min_p = 0.0,
        .repetition_penalty = 1.0,
        .skip_special = true,
    };
    request->root = api_parse_object(text, bytes, problem);
    if (!request->root) return false;
    if (read_fields(request, problem) && read_seed(request, problem) &&
        read_stream_options(request, problem) && check_unsupported(request, problem) &&
        check_together(request, problem))
        return true;
    api_request_free(request);
    return false;
}

void api_request_free(struct api_request *request) {
    json_decref(request->root);
    request->root = NULL;
}
