/* OpenAI's chat completions: chat.completion, and chat.completion.chunk over server-sent events. */
#define _GNU_SOURCE
#include "serve/completion.h"
#include "serve/format.h"

/* {token, logprob, bytes} */
static json_t *describe_token(const struct tokenizer *tokenizer, struct token_chance chance) {
    struct token_bytes token = tokenizer_token(tokenizer, chance.id, true);
    json_t *bytes = json_array();
    for (size_t i = 0; i < token.count; i++)
        json_array_append_new(bytes, json_integer((unsigned char)token.bytes[i]));
    return json_pack("{s:o, s:o, s:o}", "token", api_json_text(token.bytes, token.count), "logprob",
                     format_number(chance.logprob), "bytes", bytes);
}

static json_t *logprobs_of(const struct generation *generation,
                           const struct transcript_token *tokens, size_t count) {
    const struct tokenizer *tokenizer = generation->transcript.stream.tokenizer;
    json_t *content = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *tops = json_array();
        for (int32_t j = 0; j < tokens[i].top_count; j++)
            json_array_append_new(
                tops,
                describe_token(tokenizer, generation->transcript.tops[tokens[i].top + (size_t)j]));
        json_t *entry = describe_token(tokenizer, tokens[i].chosen);
        json_object_set_new(entry, "top_logprobs", tops);
        json_array_append_new(content, entry);
    }
    return json_pack("{s:o}", "content", content);
}

static enum status begin(struct choice *choice, struct http_reply *reply) {
    return format_event(choice, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL,
                        NULL, reply);
}

static enum status write_piece(struct choice *choice, const struct piece *piece,
                               struct http_reply *reply) {
    json_t *logprobs = NULL;
    if (choice->owner->request.logprobs)
        logprobs = logprobs_of(choice->generation, piece->tokens, piece->count);
    json_t *delta = json_pack("{s:o}", "content", api_json_text(piece->text, piece->bytes));
    return format_event(choice, delta, logprobs, NULL, reply);
}

static enum status end(struct choice *choice, struct http_reply *reply) {
    return format_event(choice, json_object(), NULL, finish_name(choice->generation->finish),
                        reply);
}

static json_t *whole_choice(const struct choice *choice) {
    const struct generation *generation = choice->generation;
    const struct transcript *transcript = &generation->transcript;
    json_t *logprobs = NULL;
    if (choice->owner->request.logprobs)
        logprobs = logprobs_of(generation, transcript->tokens, transcript->ready);
    return json_pack("{s:i, s:{s:s, s:o}, s:o?, s:s}", "index", choice->index, "message", "role",
                     "assistant", "content", api_json_text(transcript->text, transcript->visible),
                     "logprobs", logprobs, "finish_reason", finish_name(generation->finish));
}

static const struct format_names names = {
    .whole = "chat.completion",
    .event = "chat.completion.chunk",
    .key = "delta",
    .describe = whole_choice,
};

const struct completion_format format_chat = {
    .stream_type = "text/event-stream",
    .begin = begin,
    .piece = write_piece,
    .end = end,
    .close = format_close,
    .whole = format_whole,
    .fail = format_fail,
    .names = &names,
};
