#define _GNU_SOURCE
#include "core/json_util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The parser recurses; so depth is measured before it starts. A bracket inside a string doesn't
 * count, and an unbalanced text is left to the parser to refuse. */
static bool too_deep(const char *bytes, size_t size) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        char c = bytes[i];
        if (in_string) {
            if (c == '\\') i++;
            if (c == '"') in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_MAX_DEPTH) return true;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return false;
}

enum status json_parse_bytes(json_t **root, const char *bytes, size_t size, const char *what,
                             size_t flags) {
    const char *name = what ? what : "", *colon = what ? ": " : "";
    *root = NULL;
    if (too_deep(bytes, size))
        return status_fail(STATUS_FORMAT, "%s%sJSON is nested deeper than %d", name, colon,
                           JSON_MAX_DEPTH);
    json_error_t error;
    *root = json_loadb(bytes, size, flags, &error);
    if (*root) return STATUS_OK;
    if (!what && error.line == 1)
        return status_fail(STATUS_FORMAT, "not valid JSON at column %d: %s", error.column,
                           error.text);
    return status_fail(STATUS_FORMAT, "%s%snot valid JSON at line %d, column %d: %s", name, colon,
                       error.line, error.column, error.text);
}

static enum status read_whole(const char *path, FILE *in, char **bytes, size_t *size) {
    struct stat info;
    if (fstat(fileno(in), &info) != 0)
        return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return status_fail(STATUS_IO, "%s: not a regular file", path);
    if (info.st_size > JSON_MAX_FILE_BYTES)
        return status_fail(STATUS_FORMAT, "%s: %lld bytes are too many for a JSON file", path,
                           (long long)info.st_size);
    *size = (size_t)info.st_size;
    *bytes = malloc(*size + 1);
    if (!*bytes) return status_fail(STATUS_MEMORY, "%s: no memory for %zu bytes", path, *size);
    if (fread(*bytes, 1, *size, in) != *size)
        return status_fail(STATUS_IO, "%s: could not be read whole", path);
    return STATUS_OK;
}

enum status json_parse_file(json_t **root, const char *path) {
    *root = NULL;
    FILE *in = fopen(path, "rbe");
    if (!in) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    char *bytes = NULL;
    size_t size = 0;
    enum status status = read_whole(path, in, &bytes, &size);
    fclose(in);
    if (status == STATUS_OK) status = json_parse_bytes(root, bytes, size, path, 0);
    free(bytes);
    return status;
}

/* Looks the field up; *value stays NULL where it is absent or null and optional. */
static enum status find_field(const json_t *object, const char *what, const char *key,
                              enum json_need need, const char *expected, json_t **value) {
    *value = json_object_get(object, key);
    if (json_is_null(*value)) *value = NULL;
    if (!*value && need == JSON_REQUIRED)
        return status_fail(STATUS_FORMAT, "%s: %s is missing (%s)", what, key, expected);
    return STATUS_OK;
}

static enum status wrong_type(const char *what, const char *key, const char *expected) {
    return status_fail(STATUS_FORMAT, "%s: %s must be %s", what, key, expected);
}

enum status json_field_i64(const json_t *object, const char *what, const char *key,
                           enum json_need need, int64_t min, int64_t max, int64_t *out) {
    json_t *value;
    TRY(find_field(object, what, key, need, "an integer", &value));
    if (!value) return STATUS_OK;
    if (!json_is_integer(value)) return wrong_type(what, key, "an integer");
    int64_t number = json_integer_value(value);
    if (number < min || number > max)
        return status_fail(STATUS_FORMAT,
                           "%s: %s is %" PRId64 ", must be from %" PRId64 " to %" PRId64, what, key,
                           number, min, max);
    *out = number;
    return STATUS_OK;
}

enum status json_field_f64(const json_t *object, const char *what, const char *key,
                           enum json_need need, double *out) {
    json_t *value;
    TRY(find_field(object, what, key, need, "a number", &value));
    if (!value) return STATUS_OK;
    if (!json_is_number(value)) return wrong_type(what, key, "a number");
    *out = json_number_value(value);
    return STATUS_OK;
}

enum status json_field_bool(const json_t *object, const char *what, const char *key,
                            enum json_need need, bool *out) {
    json_t *value;
    TRY(find_field(object, what, key, need, "true or false", &value));
    if (!value) return STATUS_OK;
    if (!json_is_boolean(value)) return wrong_type(what, key, "true or false");
    *out = json_is_true(value);
    return STATUS_OK;
}

enum status json_field_string(const json_t *object, const char *what, const char *key,
                              enum json_need need, const char **out) {
    json_t *value;
    TRY(find_field(object, what, key, need, "a string", &value));
    if (!value) return STATUS_OK;
    if (!json_is_string(value)) return wrong_type(what, key, "a string");
    *out = json_string_value(value);
    return STATUS_OK;
}

enum status json_field_object(const json_t *object, const char *what, const char *key,
                              enum json_need need, json_t **out) {
    json_t *value;
    TRY(find_field(object, what, key, need, "an object", &value));
    if (!value) return STATUS_OK;
    if (!json_is_object(value)) return wrong_type(what, key, "an object");
    *out = value;
    return STATUS_OK;
}

enum status json_field_array(const json_t *object, const char *what, const char *key,
                             enum json_need need, json_t **out) {
    json_t *value;
    TRY(find_field(object, what, key, need, "an array", &value));
    if (!value) return STATUS_OK;
    if (!json_is_array(value)) return wrong_type(what, key, "an array");
    *out = value;
    return STATUS_OK;
}
