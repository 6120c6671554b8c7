/* The known word that a mistyped one probably means. */
#ifndef STRATA_CORE_NEAREST_H
#define STRATA_CORE_NEAREST_H

#include <stdbool.h>

enum { NEAREST_MAX_BYTES = 255 }; /* of a known word */

/* Levenshtein's distance; `b` has at most NEAREST_MAX_BYTES bytes. */
int edit_distance(const char *a, const char *b);

/* Whether words that far apart can be one mistyped: no more than half of the longer's letters
 * differ. */
bool nearest_is_near(const char *a, const char *b, int distance);

/* Of `count` words (NULLs are passed over) the one with the smallest distance, the first of equals;
 * NULL where none is near. Borrowed. */
const char *nearest_word(const char *word, const char *const *words, int count);

#endif
