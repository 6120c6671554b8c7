/* Reading JSON that may be hostile: parsing within limits, and fields whose errors name them.
 * Source: RFC 8259; the parser is jansson. */
#ifndef STRATA_CORE_JSON_UTIL_H
#define STRATA_CORE_JSON_UTIL_H

#include "kernels/base/status.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    JSON_MAX_DEPTH = 128,                /* objects and arrays inside each other */
    JSON_MAX_FILE_BYTES = 256 * 1000000, /* the largest tokenizer.json is about 35 MB */
};

/* A document of `size` bytes (no NUL needed). `what` names it in messages, which are one line; NULL
 * where the caller's status_context does (its first line then counts as part of a larger file and
 * is not numbered). `flags` are jansson's, 0 or of JSON_REJECT_DUPLICATES (a
 * key twice in an object is refused; else the last one counts), JSON_ALLOW_NUL (\u0000 in a string)
 * and JSON_DECODE_ANY (not only an object or an array). The caller gives *root back with
 * json_decref. On failure *root is NULL and the status STATUS_FORMAT. */
enum status json_parse_bytes(json_t **root, const char *bytes, size_t size, const char *what,
                             size_t flags);

/* A whole file of at most JSON_MAX_FILE_BYTES, named by its path. STATUS_IO when unreadable. */
enum status json_parse_file(json_t **root, const char *path);

enum json_need { JSON_OPTIONAL, JSON_REQUIRED };

/* Fields of an object. Where the key is absent or null, an optional field leaves *out as it was
 * and a required one fails; a value of another type or out of bounds always fails. The message is
 * "`what`: `key` ..." with STATUS_FORMAT. Strings, objects and arrays are borrowed from `object`.
 */
enum status json_field_i64(const json_t *object, const char *what, const char *key,
                           enum json_need need, int64_t min, int64_t max, int64_t *out);
enum status json_field_f64(const json_t *object, const char *what, const char *key,
                           enum json_need need, double *out); /* integers convert */
enum status json_field_bool(const json_t *object, const char *what, const char *key,
                            enum json_need need, bool *out);
enum status json_field_string(const json_t *object, const char *what, const char *key,
                              enum json_need need, const char **out);
enum status json_field_object(const json_t *object, const char *what, const char *key,
                              enum json_need need, json_t **out);
enum status json_field_array(const json_t *object, const char *what, const char *key,
                             enum json_need need, json_t **out);

#endif
