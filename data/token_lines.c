#define _GNU_SOURCE
#include "data/token_lines.h"

#include "core/json_util.h"
#include "core/path_hint.h"
#include "data/token_file.h"
#include "data/tokenizer_parts.h"
#include "data/utf8.h"
#include "kernels/base/units.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void token_lines_free(struct token_lines *lines) {
    token_list_free(&lines->ids);
    free(lines->weights);
    free(lines->start);
    *lines = (struct token_lines){0};
}

/* The ids pushed since the last end are a sequence. */
static enum status end_sequence(struct token_lines *lines) {
    if (!array_reserve(&lines->start, &lines->capacity, lines->count + 2, sizeof *lines->start))
        return status_fail(STATUS_MEMORY, "no memory for %zu sequences", lines->count + 1);
    if (lines->count == 0) lines->start[0] = 0;
    lines->start[++lines->count] = (int64_t)lines->ids.count;
    return STATUS_OK;
}

static enum status push_id(struct token_lines *lines, int64_t id, int64_t vocab) {
    if (id < 0 || id >= vocab)
        return status_fail(STATUS_FORMAT, "token %lld is not in the vocabulary of %lld",
                           (long long)id, (long long)vocab);
    if (token_list_push(&lines->ids, (int32_t)id)) return STATUS_OK;
    return status_fail(STATUS_MEMORY, "no memory for %zu tokens", lines->ids.count + 1);
}

static enum status push_line(struct token_lines *lines, const json_t *line, int64_t vocab,
                             int64_t context) {
    const json_t *id, *tokens = json_object_get(line, "tokens");
    const json_t *ids = json_object_get(line, "ids"), *list = tokens ? tokens : ids;
    size_t index, count = json_array_size(list);
    if (tokens && ids)
        return status_fail(STATUS_FORMAT, "it has both \"tokens\" and \"ids\", which are the same");
    if (!json_is_array(list))
        return status_fail(STATUS_FORMAT,
                           "it is not {\"tokens\": [id, ...]} or {\"ids\": [id, ...]}");
    if (count == 0) return status_fail(STATUS_FORMAT, "it has no tokens");
    if ((int64_t)count > context)
        return status_fail(STATUS_FORMAT, "%zu tokens are more than the context of %lld", count,
                           (long long)context);
    json_array_foreach(list, index, id) {
        if (!json_is_integer(id))
            return status_fail(STATUS_FORMAT, "%s[%zu] is not an integer",
                               tokens ? "tokens" : "ids", index);
        TRY(push_id(lines, json_integer_value(id), vocab));
    }
    return end_sequence(lines);
}

static enum status parse_line(struct token_lines *lines, const char *text, size_t bytes,
                              int64_t vocab, int64_t context) {
    json_t *line;
    TRY(json_parse_bytes(&line, text, bytes, NULL, JSON_ALLOW_NUL));
    enum status status = push_line(lines, line, vocab, context);
    json_decref(line);
    return status;
}

static enum status read_file(struct token_lines *lines, FILE *in, const char *path, int64_t vocab,
                             int64_t context) {
    char *text = NULL;
    size_t capacity = 0, number = 0, before = lines->count;
    ssize_t bytes;
    enum status status = STATUS_OK;
    while (status == STATUS_OK && (bytes = getline(&text, &capacity, in)) >= 0) {
        number++;
        size_t mark = number == 1 ? utf8_mark_bytes(text, (size_t)bytes) : 0;
        if (mark + strspn(text + mark, " \t\r\n") == (size_t)bytes) continue;
        status = parse_line(lines, text + mark, (size_t)bytes - mark, vocab, context);
        if (status != STATUS_OK) status_context(status, "%s: line %zu", path, number);
    }
    free(text);
    if (status == STATUS_OK && ferror(in))
        status = status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    if (status == STATUS_OK && lines->count == before)
        status = status_fail(STATUS_FORMAT, "%s: there is no line {\"tokens\": [id, ...]}", path);
    return status;
}

enum status token_lines_read(struct token_lines *lines, const char *path, int64_t vocab,
                             int64_t context) {
    FILE *in = fopen(path, "rb");
    if (!in) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    enum status status = read_file(lines, in, path, vocab, context);
    fclose(in);
    return status;
}

/* One document's tokens [first, first + count) as a sequence. */
static enum status push_span(struct token_lines *lines, struct token_file *file, int64_t first,
                             int64_t count, int64_t vocab) {
    size_t begin = lines->ids.count, room = begin + (size_t)count;
    if (!array_reserve(&lines->ids.ids, &lines->ids.capacity, room, sizeof *lines->ids.ids))
        return status_fail(STATUS_MEMORY, "no memory for %zu tokens", room);
    TRY(token_file_read(file, first, count, lines->ids.ids + begin,
                        lines->weights ? lines->weights + begin : NULL));
    for (size_t i = begin; i < room; i++)
        if (lines->ids.ids[i] >= vocab)
            return status_fail(STATUS_FORMAT, "%s: token %d is not in the vocabulary of %lld",
                               token_file_path(file), lines->ids.ids[i], (long long)vocab);
    lines->ids.count = room;
    return end_sequence(lines);
}

/* Tokens of all documents as sequences: a cut repeats one. */
static int64_t count_spans(const int64_t *documents, int64_t count, int64_t context) {
    int64_t tokens = documents[count];
    for (int64_t d = 0; d < count; d++) {
        int64_t length = documents[d + 1] - documents[d];
        if (length > context) tokens += (length - 2) / (context - 1);
    }
    return tokens;
}

static enum status push_documents(struct token_lines *lines, struct token_file *file, int64_t vocab,
                                  int64_t context) {
    const int64_t *documents = token_file_documents(file);
    int64_t count = token_file_info(file)->documents;
    size_t room = (size_t)count_spans(documents, count, context);
    if (token_file_info(file)->weighted) {
        lines->weights = malloc((room + 1) * sizeof *lines->weights);
        if (!lines->weights) return status_fail(STATUS_MEMORY, "no memory for %zu weights", room);
    }
    for (int64_t d = 0; d < count; d++) {
        int64_t first = documents[d], end = documents[d + 1];
        if (first == end) continue;
        do {
            TRY(push_span(lines, file, first, min_i64(end - first, context), vocab));
            first += context - 1;
        } while (first + 1 < end);
    }
    if (lines->count) return STATUS_OK;
    return status_fail(STATUS_FORMAT, "%s: no document has a token", token_file_path(file));
}

enum status token_lines_read_token_file(struct token_lines *lines, const char *path,
                                        const struct tokenizer *tokenizer, const char *model,
                                        int64_t vocab, int64_t context) {
    struct token_file *file;
    assert(lines->count == 0 && context >= 2);
    TRY(token_file_open(&file, path));
    uint64_t made_with = token_file_info(file)->tokenizer_hash; /* 0: with none */
    enum status status = STATUS_OK;
    if (tokenizer && made_with)
        status = token_file_check_tokenizer(file, tokenizer_hash(tokenizer), model);
    if (status == STATUS_OK) status = push_documents(lines, file, vocab, context);
    token_file_close(file);
    return status;
}

static enum status push_pieces(struct token_lines *lines, const struct token_list *ids,
                               const struct tokenizer *tokenizer, int64_t vocab, int64_t context) {
    bool bos = tokenizer_adds_bos(tokenizer) && tokenizer_bos(tokenizer) >= 0;
    size_t room = (size_t)context - bos;
    for (size_t first = 0; first < ids->count; first += room) {
        if (bos) TRY(push_id(lines, tokenizer_bos(tokenizer), vocab));
        for (size_t i = first; i < ids->count && i < first + room; i++)
            TRY(push_id(lines, ids->ids[i], vocab));
        TRY(end_sequence(lines));
    }
    return STATUS_OK;
}

/* The perplexity of bytes that are no text would be a number without a meaning. */
static enum status check_text(const char *text, size_t bytes) {
    size_t valid = utf8_valid_prefix(text, bytes);
    const char *what = path_hint_bytes(text, bytes);
    if (valid == bytes) return STATUS_OK;
    if (what) return status_fail(STATUS_FORMAT, "not UTF-8 text, but %s", what);
    return status_fail(STATUS_FORMAT,
                       "not UTF-8: byte %zu is 0x%02X; iconv -f latin1 -t utf8 converts an older "
                       "Western text",
                       valid, (unsigned char)text[valid]);
}

enum status token_lines_read_text(struct token_lines *lines, const char *path,
                                  const struct tokenizer *tokenizer, int64_t vocab,
                                  int64_t context) {
    char *text;
    size_t bytes;
    struct token_list ids = {0};
    TRY(read_whole_file(path, &text, &bytes));
    enum status status = check_text(text, bytes);
    size_t mark = utf8_mark_bytes(text, bytes);
    if (status == STATUS_OK)
        status = tokenizer_encode(tokenizer, text + mark, bytes - mark, TOKENIZER_PLAIN, &ids);
    free(text);
    if (status == STATUS_OK) status = push_pieces(lines, &ids, tokenizer, vocab, context);
    if (status == STATUS_OK && ids.count == 0) status = status_fail(STATUS_FORMAT, "it is empty");
    token_list_free(&ids);
    return status == STATUS_OK ? status : status_context(status, "%s", path);
}
