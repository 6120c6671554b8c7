#define _GNU_SOURCE
#include "data/token_lines.h"

#include "core/json_util.h"
#include "core/path_hint.h"
#include "data/tokenizer_parts.h"
#include "data/utf8.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void token_lines_free(struct token_lines *lines) {
    token_list_free(&lines->ids);
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
    const json_t *id, *list = json_object_get(line, "tokens");
    size_t index, count = json_array_size(list);
    if (!json_is_array(list))
        return status_fail(STATUS_FORMAT, "it is not {\"tokens\": [id, ...]}");
    if (count == 0) return status_fail(STATUS_FORMAT, "it has no tokens");
    if ((int64_t)count > context)
        return status_fail(STATUS_FORMAT, "%zu tokens are more than the context of %lld", count,
                           (long long)context);
    json_array_foreach(list, index, id) {
        if (!json_is_integer(id))
            return status_fail(STATUS_FORMAT, "tokens[%zu] is not an integer", index);
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
        if (strspn(text, " \t\r\n") == (size_t)bytes) continue;
        status = parse_line(lines, text, (size_t)bytes, vocab, context);
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
    if (status == STATUS_OK)
        status = tokenizer_encode(tokenizer, text, bytes, TOKENIZER_PLAIN, &ids);
    free(text);
    if (status == STATUS_OK) status = push_pieces(lines, &ids, tokenizer, vocab, context);
    if (status == STATUS_OK && ids.count == 0) status = status_fail(STATUS_FORMAT, "it is empty");
    token_list_free(&ids);
    return status == STATUS_OK ? status : status_context(status, "%s", path);
}
