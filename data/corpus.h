/* The records of a corpus: what becomes one document each, in the order of the files.
 *
 *   text        a file is a record
 *   paragraphs  lines up to a blank one (or the end of the file) are a record
 *   jsonl       a line is a record; blank lines are skipped
 *   auto        jsonl for names that end in .jsonl, .ndjson or .json, else text
 *
 * A byte order mark before a file is skipped; the path "-" is standard input. */
#ifndef STRATA_DATA_CORPUS_H
#define STRATA_DATA_CORPUS_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum corpus_format { CORPUS_AUTO, CORPUS_TEXT, CORPUS_PARAGRAPHS, CORPUS_JSONL };

struct record {
    char *text; /* owned; UTF-8, NUL-terminated, without other NULs */
    size_t bytes;
    const char *path;
    int64_t line;   /* its first one, from 1 */
    int64_t offset; /* of its first byte in the file */
    bool json;
};
void record_free(struct record *record);

struct corpus {
    char *const *paths; /* borrowed */
    int count, next;
    enum corpus_format format;
    FILE *file;           /* of paths[next - 1]; NULL between files */
    int64_t line, offset; /* behind what was read of the file */
    int64_t bytes_read, bytes_total;
};

/* Looks at every file first: STATUS_IO names one that can't be read. */
enum status corpus_open(struct corpus *corpus, char *const *paths, int count,
                        enum corpus_format format);

/* The next record; *found is false after the last. STATUS_FORMAT names a file that is no text and
 * its first byte that is a NUL or no UTF-8 (from 0), lines of JSON that auto would take for a text,
 * and JSON that is one value, not lines. */
enum status corpus_next(struct corpus *corpus, struct record *record, bool *found);
void corpus_close(struct corpus *corpus);

#endif
