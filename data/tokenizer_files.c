#define _GNU_SOURCE
/* What lies beside a tokenizer: vocab.json with merges.txt, tokenizer_config.json,
 * special_tokens_map.json, added_tokens.json, chat_template.jinja. */
#include "data/tokenizer_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* "directory/name"; the caller frees it; NULL without memory. */
static char *path_in(const char *directory, const char *name) {
    size_t bytes = strlen(directory) + strlen(name) + 2;
    char *path = malloc(bytes);
    if (path) snprintf(path, bytes, "%s/%s", directory, name);
    return path;
}

/* *json is NULL when there is no such file. The caller owns it. */
static enum status load_beside(const char *directory, const char *name, json_t **json) {
    struct stat info;
    *json = NULL;
    char *path = path_in(directory, name);
    if (!path) return status_fail(STATUS_MEMORY, "no memory for a path");
    enum status status = STATUS_OK;
    if (stat(path, &info) == 0) {
        json_error_t error;
        *json = json_load_file(path, JSON_ALLOW_NUL, &error);
        if (!*json)
            status =
                status_fail(STATUS_FORMAT, "%s: JSON, line %d: %s", path, error.line, error.text);
    }
    free(path);
    return status;
}

static enum status read_merge_lines(struct tokenizer *tokenizer, const char *path) {
    char *text;
    size_t bytes;
    TRY(read_whole_file(path, &text, &bytes));
    enum status status = STATUS_OK;
    int32_t rank = 0;
    for (size_t at = 0, number = 1; at < bytes && status == STATUS_OK; number++) {
        const char *line = text + at, *end = memchr(line, '\n', bytes - at);
        size_t length = end ? (size_t)(end - line) : bytes - at;
        at += length + 1;
        if (length > 0 && line[length - 1] == '\r') length--;
        if (length == 0 || (number == 1 && strncmp(line, "#version", 8) == 0)) continue;
        const char *space = memchr(line, ' ', length);
        if (!space) {
            status = status_fail(STATUS_FORMAT, "%s: line %zu is not a pair", path, number);
            break;
        }
        size_t left = (size_t)(space - line);
        status = tokenizer_merge(tokenizer, rank++, line, left, space + 1, length - left - 1);
        if (status != STATUS_OK) status = status_context(status, "%s: line %zu", path, number);
    }
    free(text);
    return status;
}

static enum status read_words(struct tokenizer *tokenizer, const char *path) {
    json_error_t error;
    const char *key;
    size_t bytes;
    json_t *id, *vocab = json_load_file(path, JSON_ALLOW_NUL, &error);
    enum status status = STATUS_OK;
    if (!vocab)
        return status_fail(STATUS_FORMAT, "%s: JSON, line %d: %s", path, error.line, error.text);
    if (json_object_size(vocab) == 0)
        status = status_fail(STATUS_FORMAT, "%s: it is not an object with tokens", path);
    json_object_keylen_foreach(vocab, key, bytes, id) {
        if (status != STATUS_OK) break;
        status = json_is_integer(id) ? tokenizer_set_token(tokenizer, json_integer_value(id), key,
                                                           bytes, TOKEN_NORMAL, 0)
                                     : status_fail(STATUS_FORMAT, "%s: '%s' has no id", path, key);
    }
    json_decref(vocab);
    return status;
}

/* A tokenizer_class whose tokenizer is made by code: Qwen2's regex and NFC, else GPT-2's. */
static enum status set_code_steps(struct tokenizer *tokenizer, const char *directory) {
    json_t *config;
    TRY(load_beside(directory, "tokenizer_config.json", &config));
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    bool qwen = name ? strncmp(name, "Qwen", 4) == 0 : tokenizer->token_count >= 151643;
    bool prefix = json_flag(config, "add_prefix_space", false);
    json_decref(config);
    tokenizer->decoder.byte_level = true;
    if (!qwen) return tokenizer_bytes_op(tokenizer, prefix, true);
    tokenizer_normalize_nfc(tokenizer);
    TRY(tokenizer_split_by(tokenizer, pretokenize_qwen2, strlen(pretokenize_qwen2), SPLIT_ISOLATED,
                           false, false));
    return tokenizer_bytes_op(tokenizer, prefix, false);
}

/* {"<|im_end|>": 151645, ...}; special when special_tokens_map.json or the like says so, which
 * read_config applies later. */
static enum status read_added_ids(struct tokenizer *tokenizer, const char *directory) {
    json_t *list, *id;
    const char *key;
    size_t bytes;
    TRY(load_beside(directory, "added_tokens.json", &list));
    enum status status = STATUS_OK;
    json_object_keylen_foreach(list, key, bytes, id) {
        if (status != STATUS_OK) break;
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= TOKENIZER_MAX_TOKENS) {
            status = status_fail(STATUS_FORMAT, "%s/added_tokens.json: '%s' has no valid id",
                                 directory, key);
            break;
        }
        struct added_token added = {
            .id = (int32_t)json_integer_value(id), .bytes = (uint32_t)bytes, .special = true};
        status = tokenizer_add(tokenizer, &added, key);
    }
    json_decref(list);
    return status;
}

/* tokenizer_config.json's {"151643": {"content": ..., "special": ...}, ...}. */
static enum status read_added_decoder(struct tokenizer *tokenizer, const char *directory) {
    json_t *config, *entry;
    const char *key;
    TRY(load_beside(directory, "tokenizer_config.json", &config));
    enum status status = STATUS_OK;
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, entry) {
        const json_t *content = json_object_get(entry, "content");
        char *end;
        long id = strtol(key, &end, 10);
        if (status != STATUS_OK) break;
        if (*end || end == key || id < 0 || id >= TOKENIZER_MAX_TOKENS ||
            !json_is_string(content)) {
            status = status_fail(STATUS_FORMAT,
                                 "%s/tokenizer_config.json: added_tokens_decoder['%s'] is no token",
                                 directory, key);
            break;
        }
        struct added_token added = {.id = (int32_t)id,
                                    .bytes = (uint32_t)json_string_length(content),
                                    .special = json_flag(entry, "special", false),
                                    .single_word = json_flag(entry, "single_word", false),
                                    .lstrip = json_flag(entry, "lstrip", false),
                                    .rstrip = json_flag(entry, "rstrip", false),
                                    .normalized = json_flag(entry, "normalized", true)};
        status = tokenizer_add(tokenizer, &added, json_string_value(content));
    }
    json_decref(config);
    return status;
}

static enum status read_vocab_with(struct tokenizer *tokenizer, const char *path,
                                   const char *directory, const char *merges) {
    TRY(read_words(tokenizer, path));
    TRY(set_code_steps(tokenizer, directory));
    TRY(tokenizer_byte_words(tokenizer));
    TRY(read_merge_lines(tokenizer, merges));
    TRY(read_added_decoder(tokenizer, directory));
    TRY(read_added_ids(tokenizer, directory));
    /* GPT-2's files say nowhere that this one is special */
    static const char end_of_text[] = "<|endoftext|>";
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        if (token->kind != TOKEN_NORMAL || token->literal_bytes != sizeof end_of_text - 1 ||
            memcmp(token_literal(tokenizer, token), end_of_text, sizeof end_of_text - 1) != 0)
            continue;
        struct added_token added = {
            .id = (int32_t)id, .bytes = sizeof end_of_text - 1, .special = true};
        return tokenizer_add(tokenizer, &added, end_of_text);
    }
    return STATUS_OK;
}

enum status tokenizer_read_vocab(struct tokenizer *tokenizer, const char *path,
                                 const char *directory) {
    /* prefix-vocab.json goes with prefix-merges.txt */
    size_t stem = strlen(path) - strlen("vocab.json");
    char *merges = malloc(stem + sizeof "merges.txt");
    if (!merges) return status_fail(STATUS_MEMORY, "no memory for a path");
    memcpy(merges, path, stem);
    memcpy(merges + stem, "merges.txt", sizeof "merges.txt");
    enum status status = read_vocab_with(tokenizer, path, directory, merges);
    free(merges);
    return status;
}

/* "bos_token": "<s>", or an object with its content. Leaves *id when there is none. */
static void find_named(const struct tokenizer *tokenizer, const json_t *config, const char *key,
                       int32_t *id) {
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (!json_is_string(value)) return;
    for (size_t i = 0; i < tokenizer->token_count; i++) {
        const struct token *token = &tokenizer->tokens[i];
        if (token->kind == TOKEN_ABSENT || token->literal_bytes != json_string_length(value) ||
            memcmp(token_literal(tokenizer, token), json_string_value(value),
                   token->literal_bytes) != 0)
            continue;
        *id = (int32_t)i;
        return;
    }
}

/* Llama's and Gemma's classes put BOS and EOS by these two keys, whatever the template says. */
static enum status apply_bos_eos(struct tokenizer *tokenizer, const json_t *config) {
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    const json_t *add_bos = json_object_get(config, "add_bos_token");
    const json_t *add_eos = json_object_get(config, "add_eos_token");
    if (!name || (!strstr(name, "Llama") && !strstr(name, "Gemma"))) return STATUS_OK;
    if (json_is_boolean(add_bos)) {
        tokenizer->prefix_count = 0;
        if (json_is_true(add_bos) && tokenizer->bos >= 0)
            TRY(tokenizer_add_prefix(tokenizer, tokenizer->bos));
    }
    if (json_is_boolean(add_eos)) {
        tokenizer->suffix_count = 0;
        if (json_is_true(add_eos) && tokenizer->eos >= 0)
            TRY(tokenizer_add_suffix(tokenizer, tokenizer->eos));
    }
    return STATUS_OK;
}

/* A string, or a list of {"name", "template"} of which "default" counts. */
static enum status keep_template(struct tokenizer *tokenizer, const json_t *json) {
    size_t index;
    const json_t *entry, *text = json_is_string(json) ? json : NULL;
    json_array_foreach(json, index, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0) text = json_object_get(entry, "template");
    }
    if (!json_is_string(text)) return STATUS_OK;
    tokenizer->chat_template = strdup(json_string_value(text));
    return tokenizer->chat_template ? STATUS_OK
                                    : status_fail(STATUS_MEMORY, "no memory for the chat template");
}

static enum status read_template_file(struct tokenizer *tokenizer, const char *directory) {
    struct stat info;
    size_t bytes;
    char *path = path_in(directory, "chat_template.jinja");
    if (!path) return status_fail(STATUS_MEMORY, "no memory for a path");
    enum status status = STATUS_OK;
    if (stat(path, &info) == 0) status = read_whole_file(path, &tokenizer->chat_template, &bytes);
    free(path);
    return status;
}

void tokenizer_guess_ends(struct tokenizer *tokenizer) {
    static const char *const starts[] = {"<s>", "<|begin_of_text|>", "<bos>", NULL};
    static const char *const ends[] = {
        "</s>", "<|eot_id|>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>", "<eos>", NULL};
    json_t *config = json_object();
    if (tokenizer->bos < 0 && tokenizer->prefix_count > 0) tokenizer->bos = tokenizer->prefix[0];
    for (int i = 0; config && starts[i] && tokenizer->bos < 0; i++) {
        json_object_set_new(config, "token", json_string(starts[i]));
        find_named(tokenizer, config, "token", &tokenizer->bos);
    }
    for (int i = 0; config && ends[i] && tokenizer->eos < 0; i++) {
        json_object_set_new(config, "token", json_string(ends[i]));
        find_named(tokenizer, config, "token", &tokenizer->eos);
    }
    json_decref(config);
}

enum status tokenizer_read_config(struct tokenizer *tokenizer, const char *directory) {
    json_t *config, *map;
    TRY(load_beside(directory, "tokenizer_config.json", &config));
    enum status status = load_beside(directory, "special_tokens_map.json", &map);
    if (status == STATUS_OK) {
        find_named(tokenizer, map, "bos_token", &tokenizer->bos);
        find_named(tokenizer, map, "eos_token", &tokenizer->eos);
        find_named(tokenizer, config, "bos_token", &tokenizer->bos);
        find_named(tokenizer, config, "eos_token", &tokenizer->eos);
        if (tokenizer->bos < 0 && tokenizer->prefix_count > 0)
            tokenizer->bos = tokenizer->prefix[0];
        if (!config && !map) tokenizer_guess_ends(tokenizer);
        status = apply_bos_eos(tokenizer, config);
    }
    if (status == STATUS_OK) status = read_template_file(tokenizer, directory);
    if (status == STATUS_OK && !tokenizer->chat_template)
        status = keep_template(tokenizer, json_object_get(config, "chat_template"));
    json_decref(config);
    json_decref(map);
    return status;
}
