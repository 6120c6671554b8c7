#define _GNU_SOURCE
#include "data/document.h"

#include "core/json_util.h"
#include <stdlib.h>
#include <string.h>

void document_free(struct document *document) {
    token_list_free(&document->tokens);
    token_list_free(&document->prefix);
    free(document->weights);
    *document = (struct document){0};
}

static enum status push_token(struct document *document, int32_t id) {
    struct token_list *list = &document->tokens;
    if (list->count == list->capacity) {
        size_t capacity = 2 * list->capacity + 256;
        int32_t *ids = realloc(list->ids, capacity * sizeof *ids);
        if (!ids) return status_fail(STATUS_MEMORY, "no memory for %zu tokens", capacity);
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->count++] = id;
    return STATUS_OK;
}

/* Room for the weights of all tokens; those from `first` on become `weight`. */
static enum status weigh(struct document *document, size_t first, float weight) {
    if (document->tokens.count > document->capacity) {
        size_t capacity = document->tokens.capacity;
        float *weights = realloc(document->weights, capacity * sizeof *weights);
        if (!weights) return status_fail(STATUS_MEMORY, "no memory for %zu weights", capacity);
        document->weights = weights;
        document->capacity = capacity;
    }
    for (size_t i = first; i < document->tokens.count; i++) document->weights[i] = weight;
    return STATUS_OK;
}

static enum status push_bos(struct document *document, const struct tokenizer *tokenizer) {
    int32_t bos = tokenizer_bos(tokenizer);
    return tokenizer_adds_bos(tokenizer) && bos >= 0 ? push_token(document, bos) : STATUS_OK;
}

/* EOS is always learned: a model that never saw it doesn't stop. */
static enum status push_eos(struct document *document, const struct tokenizer *tokenizer) {
    if (tokenizer_eos(tokenizer) < 0) return STATUS_OK;
    TRY(push_token(document, tokenizer_eos(tokenizer)));
    return weigh(document, document->tokens.count - 1, 1);
}

/* How many tokens of the text, which begin at tokens.ids[begin], are the same when it ends after
 * `bytes`: those that hold no byte beyond. */
static enum status count_before(struct document *document, const struct tokenizer *tokenizer,
                                unsigned flags, const char *text, size_t bytes, size_t begin,
                                size_t *count) {
    const int32_t *ids = document->tokens.ids + begin;
    size_t most = document->tokens.count - begin;
    document->prefix.count = 0;
    *count = 0;
    if (bytes == 0) return STATUS_OK;
    TRY(tokenizer_encode(tokenizer, text, bytes, flags, &document->prefix));
    if (document->prefix.count < most) most = document->prefix.count;
    while (*count < most && document->prefix.ids[*count] == ids[*count]) ++*count;
    return STATUS_OK;
}

/* Appends the text; weight 1 for tokens with bytes in [first, end), 0 for the others before. */
static enum status weigh_span(struct document *document, const struct tokenizer *tokenizer,
                              unsigned flags, const char *text, size_t first, size_t end,
                              size_t bytes, size_t begin) {
    size_t from, to = document->tokens.count - begin;
    TRY(count_before(document, tokenizer, flags, text, first, begin, &from));
    if (end < bytes) TRY(count_before(document, tokenizer, flags, text, end, begin, &to));
    for (size_t i = from; i < to; i++) document->weights[begin + i] = 1;
    return STATUS_OK;
}

static unsigned text_flags(const struct document_rules *rules) {
    return rules->literal ? TOKENIZER_PLAIN : TOKENIZER_PARSE_SPECIAL;
}

static enum status build_text(struct document *document, const struct document_rules *rules,
                              const char *text, size_t bytes) {
    TRY(push_bos(document, rules->tokenizer));
    TRY(tokenizer_encode(rules->tokenizer, text, bytes, text_flags(rules), &document->tokens));
    TRY(weigh(document, 0, 1));
    return push_eos(document, rules->tokenizer);
}

static enum status build_completion(struct document *document, const struct document_rules *rules,
                                    const json_t *prompt, const json_t *completion) {
    if (!json_is_string(prompt) || !json_is_string(completion))
        return status_fail(STATUS_FORMAT, "\"prompt\" and \"completion\" must be strings");
    size_t first = json_string_length(prompt), bytes = first + json_string_length(completion);
    char *text = malloc(bytes + 1);
    if (!text) return status_fail(STATUS_MEMORY, "no memory for %zu bytes", bytes);
    memcpy(text, json_string_value(prompt), first);
    memcpy(text + first, json_string_value(completion), bytes - first + 1);
    unsigned flags = text_flags(rules);
    enum status status = push_bos(document, rules->tokenizer);
    size_t begin = document->tokens.count;
    if (status == STATUS_OK)
        status = tokenizer_encode(rules->tokenizer, text, bytes, flags, &document->tokens);
    if (status == STATUS_OK) status = weigh(document, 0, 0);
    if (status == STATUS_OK)
        status = weigh_span(document, rules->tokenizer, flags, text, first, bytes, bytes, begin);
    free(text);
    TRY(status);
    return push_eos(document, rules->tokenizer);
}

static enum status weigh_turns(struct document *document, const struct tokenizer *tokenizer,
                               const struct chat_text *text) {
    TRY(tokenizer_encode(tokenizer, text->text, text->bytes, TOKENIZER_PARSE_SPECIAL,
                         &document->tokens));
    TRY(weigh(document, 0, 0));
    for (size_t end = 0, first; end < text->bytes;) {
        for (first = end; first < text->bytes && !text->assistant[first];) first++;
        for (end = first; end < text->bytes && text->assistant[end];) end++;
        if (first == end) break;
        TRY(weigh_span(document, tokenizer, TOKENIZER_PARSE_SPECIAL, text->text, first, end,
                       text->bytes, 0));
    }
    return STATUS_OK;
}

static const char *token_text(const struct tokenizer *tokenizer, int32_t id, char *copy,
                              size_t capacity) {
    copy[0] = 0;
    if (id < 0) return copy;
    struct token_bytes bytes = tokenizer_token(tokenizer, id, true);
    if (bytes.count >= capacity) return copy;
    memcpy(copy, bytes.bytes, bytes.count);
    copy[bytes.count] = 0;
    return copy;
}

static enum status build_messages(struct document *document, const struct document_rules *rules,
                                  const json_t *json) {
    if (rules->template_status != STATUS_OK)
        return status_fail(rules->template_status, "%s", rules->template_message);
    struct chat_messages messages;
    struct chat_text text;
    char bos[256], eos[256];
    const struct tokenizer *tokenizer = rules->tokenizer;
    TRY(chat_messages_read(&messages, json));
    enum status status = chat_template_render(
        &rules->template, token_text(tokenizer, tokenizer_bos(tokenizer), bos, sizeof bos),
        token_text(tokenizer, tokenizer_eos(tokenizer), eos, sizeof eos), &messages, false, &text);
    chat_messages_free(&messages);
    TRY(status);
    status = weigh_turns(document, tokenizer, &text);
    chat_text_free(&text);
    return status;
}

static enum status build_tokens(struct document *document, const struct document_rules *rules,
                                const json_t *tokens, const json_t *labels) {
    int32_t size = rules->vocabulary;
    if (!json_is_array(tokens)) return status_fail(STATUS_FORMAT, "\"tokens\" must be a list");
    size_t index, count = json_array_size(tokens);
    if (labels && (!json_is_array(labels) || json_array_size(labels) != count))
        return status_fail(STATUS_FORMAT, "\"labels\" must be a list as long as \"tokens\"");
    const json_t *item;
    json_array_foreach(tokens, index, item) {
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        if (id < 0 || id >= size)
            return status_fail(STATUS_FORMAT, "tokens[%zu] is not a token id below %d", index,
                               size);
        TRY(push_token(document, (int32_t)id));
    }
    TRY(weigh(document, 0, 1));
    for (index = 0; labels && index < count; index++) {
        item = json_array_get(labels, index);
        json_int_t label = json_is_integer(item) ? json_integer_value(item) : -1;
        if (label != -100 && label != document->tokens.ids[index])
            return status_fail(STATUS_FORMAT, "labels[%zu] is neither -100 nor its token", index);
        document->weights[index] = label != -100;
    }
    return STATUS_OK;
}

static enum status no_tokenizer(void) {
    return status_fail(STATUS_CONFIG, "is text, which needs --tokenizer");
}

static enum status build_json(struct document *document, const struct document_rules *rules,
                              const json_t *json) {
    const json_t *text = json_object_get(json, "text"), *tokens = json_object_get(json, "tokens");
    const json_t *messages = json_object_get(json, "messages");
    const json_t *prompt = json_object_get(json, "prompt");
    const json_t *completion = json_object_get(json, "completion");
    if (!json_is_object(json)) return status_fail(STATUS_FORMAT, "is not a JSON object");
    if (!text + !tokens + !messages + !(prompt || completion) != 3)
        return status_fail(STATUS_FORMAT, "must have one of \"text\", \"prompt\" with "
                                          "\"completion\", \"messages\" or \"tokens\"");
    if (tokens) return build_tokens(document, rules, tokens, json_object_get(json, "labels"));
    if (!rules->tokenizer) return no_tokenizer();
    if (messages) return build_messages(document, rules, messages);
    if (!text) return build_completion(document, rules, prompt, completion);
    if (!json_is_string(text)) return status_fail(STATUS_FORMAT, "\"text\" must be a string");
    return build_text(document, rules, json_string_value(text), json_string_length(text));
}

static enum status build_record(struct document *document, const struct document_rules *rules,
                                const struct record *record) {
    document->tokens.count = 0;
    if (!record->json && !rules->tokenizer) return no_tokenizer();
    if (!record->json) return build_text(document, rules, record->text, record->bytes);
    json_t *json;
    TRY(json_parse_bytes(&json, record->text, record->bytes, NULL,
                         JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES | JSON_DECODE_ANY));
    enum status status = build_json(document, rules, json);
    json_decref(json);
    return status;
}

enum status document_build(struct document *document, const struct document_rules *rules,
                           const struct record *record) {
    enum status status = build_record(document, rules, record);
    if (status != STATUS_OK)
        status_context(status, "%s:%lld", record->path, (long long)record->line);
    return status;
}
