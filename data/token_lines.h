/* Sequences of token ids in memory: lines {"tokens": [...]} of a file, the documents of a token
 * file, or a text in pieces. */
#ifndef STRATA_DATA_TOKEN_LINES_H
#define STRATA_DATA_TOKEN_LINES_H

#include "data/tokenizer.h"

struct token_lines {
    struct token_list ids; /* of all sequences, one after another */
    float *weights;        /* (ids.count) loss weight of each as a target; NULL: all are 1 */
    int64_t *start;        /* (count + 1): where sequence i begins in ids */
    size_t count, capacity;
};

/* Appends the sequences of a JSONL file; blank lines are skipped. STATUS_FORMAT names file and line
 * of what is not {"tokens": [id, ...]} (or {"ids": [id, ...]}, the same), of an id that isn't below
 * `vocab`, and of a sequence of more than `context` tokens; a file without sequences is one too. */
enum status token_lines_read(struct token_lines *lines, const char *path, int64_t vocab,
                             int64_t context);

/* The documents of a token file (data/token_file.h), and their loss weights where it has some; for
 * empty lines only. A document of more than `context` tokens (at least 2) is cut into several
 * sequences, of which each begins with the last token of the one before: every target stays one.
 * Empty documents are skipped. STATUS_FORMAT names the file where it was made with another
 * tokenizer than `tokenizer` (of `model`, a path for people; NULL, or a file made with none: not
 * compared), where it is none, where an id isn't below `vocab`, or where no document has a token.
 */
enum status token_lines_read_token_file(struct token_lines *lines, const char *path,
                                        const struct tokenizer *tokenizer, const char *model,
                                        int64_t vocab, int64_t context);

/* Appends a text file's ids in pieces of at most `context`. Each begins with BOS where the
 * tokenizer adds one; without it the first token of a piece is context only. */
enum status token_lines_read_text(struct token_lines *lines, const char *path,
                                  const struct tokenizer *tokenizer, int64_t vocab,
                                  int64_t context);

/* Tokens of sequence i. */
static inline int64_t token_lines_length(const struct token_lines *lines, size_t i) {
    return lines->start[i + 1] - lines->start[i];
}

void token_lines_free(struct token_lines *lines); /* may be called twice, and on zeroes */

#endif
