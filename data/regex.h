/* Regular expressions of tokenizers, run by PCRE2 with its JIT. The patterns were written for
 * Oniguruma or Rust's fancy-regex: \s and \w are spelled out so that they mean Unicode's
 * White_Space and word characters as they do there. */
#ifndef STRATA_DATA_REGEX_H
#define STRATA_DATA_REGEX_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>

struct regex; /* immutable; shared by threads */

/* `lines`: ^ and $ match at line breaks (Oniguruma's way). STATUS_FORMAT says where it is wrong. */
enum status regex_compile(struct regex **regex, const char *pattern, size_t bytes, bool lines);
void regex_free(struct regex *regex);

/* What one thread needs for matching; zeroed before its first use. */
struct regex_scratch {
    void *match, *context, *stack;
};
void regex_scratch_free(struct regex_scratch *scratch);

/* Walks the matches of a valid UTF-8 text, left to right, not overlapping; an empty match counts,
 * but not right behind another match. Start with a zeroed cursor. When memory or PCRE2's own
 * limits run out the walk ends early. */
struct regex_cursor {
    size_t start, end; /* the match */
    size_t next;
    bool matched; /* before */
};
bool regex_next(const struct regex *regex, struct regex_scratch *scratch, const char *text,
                size_t bytes, struct regex_cursor *cursor);

#endif
