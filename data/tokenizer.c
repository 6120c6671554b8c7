#define _GNU_SOURCE
/* Opening by what a path is, and the questions that need no work. */
#include "core/log.h"
#include "core/text.h"
#include "data/tokenizer_parts.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

bool token_list_push(struct token_list *list, int32_t id) {
    if (list->count == list->capacity &&
        !array_reserve(&list->ids, &list->capacity, list->count + 1, sizeof *list->ids))
        return false;
    list->ids[list->count++] = id;
    return true;
}

void tokenizer_close(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    free(tokenizer->tokens);
    buffer_free(&tokenizer->texts);
    string_map_free(&tokenizer->literals);
    free(tokenizer->added);
    trie_free(&tokenizer->added_raw);
    trie_free(&tokenizer->added_normalized);
    normalizer_free(&tokenizer->normalizer);
    pretokenizer_free(&tokenizer->pretokenizer);
    bpe_free(&tokenizer->bpe);
    unigram_free(&tokenizer->unigram);
    free(tokenizer->prefix);
    free(tokenizer->suffix);
    for (int i = 0; i < tokenizer->decoder.replacement_count; i++) {
        buffer_free(&tokenizer->decoder.replacements[i].pattern);
        buffer_free(&tokenizer->decoder.replacements[i].content);
    }
    free(tokenizer->chat_template);
    free(tokenizer);
}

int32_t tokenizer_size(const struct tokenizer *tokenizer) {
    return (int32_t)tokenizer->token_count;
}

/* Vocabularies are padded to a multiple that suits a device: at most by so much. */
static bool is_padding(int64_t tokens, int64_t vocab) {
    return vocab - tokens < 1024 || vocab - tokens < tokens / 20;
}

static bool is_used(const struct token *token) {
    return token->kind != TOKEN_ABSENT && token->kind != TOKEN_UNUSED;
}

/* Added tokens (a pad token, a chat's marks) often lie above the vocabulary of a model that was
 * fine-tuned without them; ordinary ones never do. */
static bool is_added(const struct token *token) {
    return token->kind == TOKEN_CONTROL || token->kind == TOKEN_USER;
}

enum status tokenizer_check_vocabulary(const struct tokenizer *tokenizer, int64_t vocab,
                                       const char *name) {
    int64_t tokens = tokenizer_size(tokenizer), beyond = 0;
    for (int64_t id = vocab; id < tokens; id++) {
        const struct token *token = &tokenizer->tokens[id];
        if (is_used(token) && !is_added(token))
            return status_fail(STATUS_SHAPE,
                               "%s: the tokenizer has %lld tokens, the model's vocabulary only "
                               "%lld: it is another model's tokenizer",
                               name, (long long)tokens, (long long)vocab);
        beyond += is_used(token);
    }
    const char *text = NULL;
    if (beyond > 0)
        text = "the model lacks the tokenizer's added tokens: text that holds one is refused";
    else if (tokens < vocab)
        text = is_padding(tokens, vocab)
                   ? "the ids above the tokenizer's are padding"
                   : "far fewer tokens than ids: is it this model's tokenizer?";
    if (text)
        log_line(LOG_WARN, "event=vocabulary model=\"%s\" tokens=%lld vocabulary=%lld text=\"%s\"",
                 name, (long long)tokens, (long long)vocab, text);
    return STATUS_OK;
}

size_t tokenizer_max_bytes(const struct tokenizer *tokenizer) {
    return tokenizer->max_bytes;
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t tokenizer_eos(const struct tokenizer *tokenizer) {
    return tokenizer->eos;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text) {
    return string_map_get(&tokenizer->literals, text, strlen(text));
}

bool tokenizer_is_control(const struct tokenizer *tokenizer, int32_t id) {
    return id >= 0 && (size_t)id < tokenizer->token_count &&
           tokenizer->tokens[id].kind == TOKEN_CONTROL;
}

bool tokenizer_adds_bos(const struct tokenizer *tokenizer) {
    return tokenizer->prefix_count > 0 && tokenizer->prefix[0] == tokenizer->bos;
}

const char *tokenizer_chat_template(const struct tokenizer *tokenizer) {
    return tokenizer->chat_template;
}

uint64_t tokenizer_hash(const struct tokenizer *tokenizer) {
    return tokenizer->hash;
}

enum status read_whole_file(const char *path, char **data, size_t *bytes) {
    struct stat info;
    *data = NULL;
    FILE *file = fopen(path, "rb");
    if (!file) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode)) {
        fclose(file);
        return status_fail(STATUS_IO, "%s: not a regular file", path);
    }
    *bytes = (size_t)info.st_size;
    *data = malloc(*bytes + 1);
    bool whole = *data && fread(*data, 1, *bytes, file) == *bytes;
    fclose(file);
    if (whole) {
        (*data)[*bytes] = 0;
        return STATUS_OK;
    }
    enum status status =
        *data ? status_fail(STATUS_IO, "%s: can't be read whole", path)
              : status_fail(STATUS_MEMORY, "%s: no memory for %zu bytes", path, *bytes);
    free(*data);
    *data = NULL;
    return status;
}

/* The files a directory may hold, in the order in which they are looked for. */
static const char *const names[] = {"tokenizer.json", "tokenizer.model", "vocab.json"};

/* The first file of `directory` in the order of names, or by name the first that ends in
 * `.tiktoken` or `.gguf`; the caller frees it. */
static enum status find_in_directory(const char *directory, char **path) {
    struct stat info;
    size_t room = strlen(directory) + 300;
    *path = malloc(room);
    if (!*path) return status_fail(STATUS_MEMORY, "no memory for a path");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(*path, room, "%s/%s", directory, names[i]);
        if (stat(*path, &info) == 0) return STATUS_OK;
    }
    struct dirent **entries;
    int count = scandir(directory, &entries, NULL, alphasort);
    bool found = false;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < count && !found; i++) {
            if (!ends_with(entries[i]->d_name, pass == 0 ? ".tiktoken" : ".gguf")) continue;
            snprintf(*path, room, "%s/%s", directory, entries[i]->d_name);
            found = true;
        }
    for (int i = 0; i < count; i++) free(entries[i]);
    if (count >= 0) free(entries);
    if (found) return STATUS_OK;
    free(*path);
    *path = NULL;
    return status_fail(STATUS_IO,
                       "%s: no tokenizer.json, tokenizer.model, vocab.json, *.tiktoken or *.gguf",
                       directory);
}

/* A protobuf starts with the key of a message, a tiktoken file with base64. */
static bool looks_like_tiktoken(const char *data, size_t bytes) {
    size_t i = 0;
    while (i < bytes && i < 4096 && data[i] != ' ' && (unsigned char)data[i] > 0x20) i++;
    return i > 0 && i + 1 < bytes && data[i] == ' ' && data[i + 1] >= '0' && data[i + 1] <= '9';
}

static enum status read_data(struct tokenizer *tokenizer, const char *data, size_t bytes) {
    size_t at = 0;
    while (at < bytes &&
           (data[at] == ' ' || data[at] == '\n' || data[at] == '\r' || data[at] == '\t'))
        at++;
    if (at < bytes && data[at] == '{') return tokenizer_read_json(tokenizer, data, bytes);
    if (looks_like_tiktoken(data, bytes)) return tokenizer_read_tiktoken(tokenizer, data, bytes);
    return tokenizer_read_model(tokenizer, data, bytes);
}

static enum status read_file(struct tokenizer *tokenizer, const char *path, const char *directory) {
    if (ends_with(path, "vocab.json")) {
        TRY(tokenizer_read_vocab(tokenizer, path, directory));
    } else {
        char *data;
        size_t bytes;
        TRY(read_whole_file(path, &data, &bytes));
        enum status status = read_data(tokenizer, data, bytes);
        free(data);
        if (status != STATUS_OK) return status_context(status, "%s", path);
    }
    TRY(tokenizer_read_config(tokenizer, directory));
    enum status status = tokenizer_finish(tokenizer);
    return status == STATUS_OK ? status : status_context(status, "%s", path);
}

static enum status open_file(struct tokenizer **tokenizer, const char *path) {
    char *copy = strdup(path);
    if (!copy) return status_fail(STATUS_MEMORY, "no memory for a path");
    const char *directory = dirname(copy);
    enum status status = tokenizer_create(tokenizer);
    if (status == STATUS_OK) status = read_file(*tokenizer, path, directory);
    free(copy);
    return status;
}

static enum status open_gguf_path(struct tokenizer **tokenizer, const char *path) {
    struct model_file file = {0};
    TRY(model_file_open(&file, path, true));
    enum status status = tokenizer_open_gguf(tokenizer, &file);
    model_file_close(&file);
    return status;
}

enum status tokenizer_open(struct tokenizer **tokenizer, const char *path) {
    struct stat info;
    char *found = NULL;
    *tokenizer = NULL;
    if (stat(path, &info) != 0) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) TRY(find_in_directory(path, &found));
    const char *file = found ? found : path;
    enum status status =
        ends_with(file, ".gguf") ? open_gguf_path(tokenizer, file) : open_file(tokenizer, file);
    free(found);
    if (status == STATUS_OK) return STATUS_OK;
    tokenizer_close(*tokenizer);
    *tokenizer = NULL;
    return status;
}

enum status tokenizer_open_bytes(struct tokenizer **tokenizer, const char *data, size_t bytes,
                                 const char *name) {
    TRY(tokenizer_create(tokenizer));
    enum status status = read_data(*tokenizer, data, bytes);
    if (status == STATUS_OK) {
        tokenizer_guess_ends(*tokenizer);
        status = tokenizer_finish(*tokenizer);
    }
    if (status == STATUS_OK) return STATUS_OK;
    tokenizer_close(*tokenizer);
    *tokenizer = NULL;
    return status_context(status, "%s", name);
}
