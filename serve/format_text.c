/* OpenAI's completions: text_completion, whole or over server-sent events, with echo and log
 * probabilities of the prompt. */
#define _GNU_SOURCE
#include "serve/completion.h"
#include "serve/format.h"

#include <stdlib.h>
#include <string.h>

/* The four columns of logprobs, and where in the text the next token begins. */
struct columns {
    json_t *tokens, *logprobs, *tops, *offsets;
    size_t characters;
};

static struct columns open_columns(size_t characters) {
    return (struct columns){json_array(), json_array(), json_array(), json_array(), characters};
}

static json_t *close_columns(struct columns *columns, bool tops) {
    if (!tops) {
        json_decref(columns->tops);
        columns->tops = json_null();
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", columns->tokens, "token_logprobs",
                     columns->logprobs, "top_logprobs", columns->tops, "text_offset",
                     columns->offsets);
}

static size_t count_characters(const char *text, size_t bytes) {
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

static json_t *token_text(const struct tokenizer *tokenizer, int32_t id) {
    struct token_bytes token = tokenizer_token(tokenizer, id, true);
    return api_json_text(token.bytes, token.count);
}

/* Of tokens with equal texts the likeliest stays. */
static void add_top(json_t *map, const struct tokenizer *tokenizer, struct token_chance chance) {
    json_t *text = token_text(tokenizer, chance.id);
    const char *key = json_string_value(text);
    if (key && !json_object_get(map, key))
        json_object_set_new(map, key, format_number(chance.logprob));
    json_decref(text);
}

static void add_row(struct columns *columns, const struct tokenizer *tokenizer,
                    struct token_chance chosen, const struct token_chance *tops,
                    int32_t top_count) {
    json_t *text = token_text(tokenizer, chosen.id);
    json_t *map = json_object();
    for (int32_t i = 0; i < top_count; i++) add_top(map, tokenizer, tops[i]);
    add_top(map, tokenizer, chosen);
    json_array_append_new(columns->offsets, json_integer((json_int_t)columns->characters));
    columns->characters += count_characters(json_string_value(text), json_string_length(text));
    json_array_append_new(columns->tokens, text);
    json_array_append_new(columns->logprobs, format_number(chosen.logprob));
    json_array_append_new(columns->tops, map);
}

/* Rows of the prompt; nothing comes before its first token, which has no figure. */
static void add_prompt(struct columns *columns, const struct generation *generation) {
    const struct tokenizer *tokenizer = generation->transcript.stream.tokenizer;
    int32_t width = generation->options->top_logprobs;
    for (int32_t i = 0; i < generation->sequence.prompt; i++) {
        struct token_chance chance = {generation->sequence.tokens[i], 0.0f};
        if (i > 0) chance = generation->prompt_chances[i];
        add_row(columns, tokenizer, chance, generation->prompt_tops + (int64_t)i * width,
                i > 0 ? width : 0);
        if (i > 0) continue;
        json_array_set_new(columns->logprobs, 0, json_null());
        json_array_set_new(columns->tops, 0, json_null());
    }
}

static void add_tokens(struct columns *columns, const struct generation *generation,
                       const struct transcript_token *tokens, size_t count) {
    for (size_t i = 0; i < count; i++)
        add_row(columns, generation->transcript.stream.tokenizer, tokens[i].chosen,
                generation->transcript.tops + tokens[i].top, tokens[i].top_count);
}

/* The prompt as it was sent, or as its tokens read. */
static json_t *prompt_text(const struct choice *choice) {
    if (choice->prompt_text) return json_incref((json_t *)choice->prompt_text);
    const struct generation *generation = choice->generation;
    char *text = NULL;
    size_t bytes = 0;
    if (tokenizer_decode(generation->transcript.stream.tokenizer, generation->sequence.tokens,
                         (size_t)generation->sequence.prompt, false, &text, &bytes) != STATUS_OK)
        return NULL;
    json_t *json = api_json_text(text, bytes);
    free(text);
    return json;
}

static enum status begin(struct choice *choice, struct http_reply *reply) {
    const struct api_request *request = &choice->owner->request;
    if (!request->echo) return STATUS_OK;
    json_t *text = prompt_text(choice), *logprobs = NULL;
    if (request->logprobs) {
        struct columns columns = open_columns(0);
        add_prompt(&columns, choice->generation);
        choice->characters = columns.characters;
        logprobs = close_columns(&columns, request->top_logprobs > 0);
    }
    return format_event(choice, text, logprobs, NULL, reply);
}

static enum status write_piece(struct choice *choice, const struct piece *piece,
                               struct http_reply *reply) {
    const struct api_request *request = &choice->owner->request;
    json_t *logprobs = NULL;
    if (request->logprobs) {
        struct columns columns = open_columns(choice->characters);
        add_tokens(&columns, choice->generation, piece->tokens, piece->count);
        choice->characters = columns.characters;
        logprobs = close_columns(&columns, request->top_logprobs > 0);
    }
    return format_event(choice, api_json_text(piece->text, piece->bytes), logprobs, NULL, reply);
}

static enum status end(struct choice *choice, struct http_reply *reply) {
    return format_event(choice, json_string(""), NULL, finish_name(choice->generation->finish),
                        reply);
}

/* Two texts in one; gives both back. */
static json_t *join(json_t *first, json_t *second) {
    size_t head = json_string_length(first), tail = json_string_length(second);
    char *both = first && second ? malloc(head + tail + 1) : NULL;
    json_t *joined = NULL;
    if (both) {
        memcpy(both, json_string_value(first), head);
        memcpy(both + head, json_string_value(second), tail);
        joined = json_stringn(both, head + tail);
    }
    free(both);
    json_decref(first);
    json_decref(second);
    return joined;
}

static json_t *whole_text(const struct choice *choice) {
    const struct transcript *transcript = &choice->generation->transcript;
    json_t *answer = api_json_text(transcript->text, transcript->visible);
    return choice->owner->request.echo ? join(prompt_text(choice), answer) : answer;
}

static json_t *whole_choice(const struct choice *choice) {
    const struct api_request *request = &choice->owner->request;
    const struct generation *generation = choice->generation;
    json_t *logprobs = NULL;
    if (request->logprobs) {
        struct columns columns = open_columns(0);
        if (request->echo) add_prompt(&columns, generation);
        add_tokens(&columns, generation, generation->transcript.tokens,
                   generation->transcript.ready);
        logprobs = close_columns(&columns, request->top_logprobs > 0);
    }
    return json_pack("{s:i, s:o, s:o?, s:s}", "index", choice->index, "text", whole_text(choice),
                     "logprobs", logprobs, "finish_reason", finish_name(generation->finish));
}

static const struct format_names names = {
    .whole = "text_completion",
    .event = "text_completion",
    .key = "text",
    .describe = whole_choice,
};

const struct completion_format format_text = {
    .stream_type = "text/event-stream",
    .begin = begin,
    .piece = write_piece,
    .end = end,
    .close = format_close,
    .whole = format_whole,
    .fail = format_fail,
    .names = &names,
};
