#define _GNU_SOURCE
#include "data/corpus.h"

#include "core/json_util.h"
#include "core/path_hint.h"
#include "data/utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

void record_free(struct record *record) {
    free(record->text);
    *record = (struct record){0};
}

/* What is opened for it. */
static const char *place_of(const char *path) {
    return strcmp(path, "-") == 0 ? "/dev/stdin" : path;
}

enum status corpus_open(struct corpus *corpus, char *const *paths, int count,
                        enum corpus_format format) {
    *corpus = (struct corpus){.paths = paths, .count = count, .format = format};
    for (int i = 0; i < count; i++) {
        struct stat stat_of;
        const char *place = place_of(paths[i]);
        if (stat(place, &stat_of) != 0 || access(place, R_OK) != 0)
            return status_fail(STATUS_IO, "%s: %s", paths[i], strerror(errno));
        if (S_ISDIR(stat_of.st_mode))
            return status_fail(STATUS_IO, "%s: is a folder; name its files", paths[i]);
        corpus->bytes_total += stat_of.st_size;
    }
    return STATUS_OK;
}

void corpus_close(struct corpus *corpus) {
    if (corpus->file) fclose(corpus->file);
    corpus->file = NULL;
}

static enum corpus_format format_of(const struct corpus *corpus, const char *path) {
    static const char *const endings[] = {".jsonl", ".ndjson", ".json"};
    if (corpus->format != CORPUS_AUTO) return corpus->format;
    size_t bytes = strlen(path);
    for (int i = 0; i < 3; i++) {
        size_t ending = strlen(endings[i]);
        if (bytes > ending && strcasecmp(path + bytes - ending, endings[i]) == 0)
            return CORPUS_JSONL;
    }
    return CORPUS_TEXT;
}

static bool is_blank(const char *line, size_t bytes) {
    size_t spaces = 0;
    while (spaces < bytes && strchr(" \t\r\n", line[spaces]) && line[spaces]) spaces++;
    return spaces == bytes;
}

/* Appends the next line to the record; false at the end of the file. */
static bool add_line(struct corpus *corpus, struct record *record, enum status *status) {
    char *line = NULL;
    size_t capacity = 0;
    errno = 0;
    ssize_t bytes = getline(&line, &capacity, corpus->file);
    if (bytes >= 0) {
        size_t mark = corpus->line == 0 ? utf8_mark_bytes(line, (size_t)bytes) : 0;
        size_t kept = (size_t)bytes - mark;
        char *text = realloc(record->text, record->bytes + kept + 1);
        if (text) {
            memcpy(text + record->bytes, line + mark, kept + 1);
            record->text = text;
            record->bytes += kept;
        } else {
            errno = ENOMEM;
            bytes = -1;
        }
    }
    free(line);
    if (bytes < 0 && errno)
        *status = status_fail(errno == ENOMEM ? STATUS_MEMORY : STATUS_IO, "%s:%lld: %s",
                              record->path, (long long)corpus->line + 1, strerror(errno));
    if (bytes < 0) return false;
    corpus->line++;
    corpus->offset += bytes;
    corpus->bytes_read += bytes;
    return true;
}

/* One record of lines: a JSON line, or lines up to a blank one. */
static enum status read_lines(struct corpus *corpus, struct record *record, bool paragraph) {
    enum status status = STATUS_OK;
    for (size_t before = 0; add_line(corpus, record, &status); before = record->bytes) {
        bool blank = is_blank(record->text + before, record->bytes - before);
        if (blank) record->bytes = before;
        if (before == 0 && !blank) {
            record->line = corpus->line;
            record->offset = corpus->offset - (int64_t)record->bytes;
        }
        if (before > 0 ? blank : !blank && !paragraph) break;
    }
    return status;
}

static enum status read_whole(struct corpus *corpus, struct record *record) {
    size_t capacity = 1 << 16, got = 0;
    record->line = 1;
    do {
        record->bytes += got;
        if (record->bytes + 1 >= capacity || !record->text) {
            char *text = realloc(record->text, capacity *= 2);
            if (!text) return status_fail(STATUS_MEMORY, "%s: no memory for it", record->path);
            record->text = text;
        }
        got = fread(record->text + record->bytes, 1, capacity - record->bytes - 1, corpus->file);
    } while (got > 0);
    if (ferror(corpus->file))
        return status_fail(STATUS_IO, "%s: %s", record->path, strerror(errno));
    corpus->bytes_read += (int64_t)record->bytes;
    size_t mark = utf8_mark_bytes(record->text, record->bytes);
    record->offset = (int64_t)mark;
    record->bytes -= mark;
    memmove(record->text, record->text + mark, record->bytes);
    record->text[record->bytes] = 0;
    return STATUS_OK;
}

static const char *skip_blank(const char *text) {
    return text + strspn(text, " \t\r\n");
}

/* JSON lines whose name doesn't say so (a pipe's) would be learned as a text, braces and all. */
static enum status check_not_json(const struct record *record) {
    static const char *const keys[] = {"text", "prompt", "messages", "tokens"};
    const char *line = skip_blank(record->text);
    json_t *json;
    bool known = false;
    if (*line != '{' || json_parse_bytes(&json, line, strcspn(line, "\n"), NULL, JSON_ALLOW_NUL))
        return STATUS_OK;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        known = known || json_object_get(json, keys[i]);
    json_decref(json);
    if (!known) return STATUS_OK;
    return status_fail(STATUS_FORMAT,
                       "%s: its first line is JSON with a document: say --format jsonl to read "
                       "lines of JSON, --format text to take it as a text",
                       record->path);
}

/* The first line of a file that is JSON as a whole. */
static enum status check_lines(const struct record *record) {
    const char *line = skip_blank(record->text);
    bool object = *line == '{' && !*skip_blank(line + 1);
    if (*line != '[' && !object) return STATUS_OK;
    return status_fail(STATUS_FORMAT,
                       "%s: a JSON %s, not JSON lines: one object a line (jq -c '%s' FILE > "
                       "FILE.jsonl)",
                       record->path, object ? "object over several lines" : "array",
                       object ? "." : ".[]");
}

static enum status read_record(struct corpus *corpus, struct record *record, bool *found) {
    enum corpus_format format = format_of(corpus, record->path);
    record->json = format == CORPUS_JSONL;
    if (format == CORPUS_TEXT) {
        TRY(read_whole(corpus, record));
        if (corpus->format == CORPUS_AUTO) TRY(check_not_json(record));
        *found = true;
        corpus_close(corpus);
        return STATUS_OK;
    }
    bool first = corpus->line == 0;
    TRY(read_lines(corpus, record, format == CORPUS_PARAGRAPHS));
    *found = record->bytes > 0;
    if (*found && first && record->json) TRY(check_lines(record));
    while (record->bytes > 0 && strchr("\r\n", record->text[record->bytes - 1])) record->bytes--;
    if (*found) record->text[record->bytes] = 0;
    if (!*found) corpus_close(corpus);
    return STATUS_OK;
}

/* Ids of bytes that are no text would be learned all the same. */
static enum status check_text(const struct record *record) {
    const char *nul = memchr(record->text, 0, record->bytes);
    size_t bytes = nul ? (size_t)(nul - record->text) : record->bytes;
    size_t valid = utf8_valid_prefix(record->text, bytes);
    if (valid == record->bytes) return STATUS_OK;
    const char *what = record->offset == 0 ? path_hint_bytes(record->text, record->bytes) : NULL;
    unsigned byte = (unsigned char)record->text[valid];
    return status_fail(STATUS_FORMAT, "%s: not UTF-8 text: byte %lld is 0x%02X%s%s", record->path,
                       (long long)record->offset + (long long)valid, byte,
                       what   ? "; it looks like "
                       : !nul ? "; iconv -f latin1 -t utf8 converts an older Western text"
                              : "",
                       what ? what : "");
}

enum status corpus_next(struct corpus *corpus, struct record *record, bool *found) {
    *found = false;
    while (!*found && (corpus->file || corpus->next < corpus->count)) {
        if (!corpus->file) {
            corpus->file = fopen(place_of(corpus->paths[corpus->next]), "rb");
            corpus->line = corpus->offset = 0;
            if (!corpus->file)
                return status_fail(STATUS_IO, "%s: %s", corpus->paths[corpus->next],
                                   strerror(errno));
            corpus->next++;
        }
        *record = (struct record){.path = corpus->paths[corpus->next - 1]};
        enum status status = read_record(corpus, record, found);
        if (status == STATUS_OK && *found) status = check_text(record);
        if (status != STATUS_OK || !*found) record_free(record);
        TRY(status);
    }
    return STATUS_OK;
}
