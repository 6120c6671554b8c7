/* The known word that a mistyped one probably means. */
#ifndef STRATA_CORE_NEAREST_H
#define STRATA_CORE_NEAREST_H

enum { NEAREST_MAX_BYTES = 255 }; /* of a known word */

/* Levenshtein's distance; `b` has at most NEAREST_MAX_BYTES bytes. */
int edit_distance(const char *a, const char *b);

/* Of `count` words (NULLs are passed over) the one with the smallest distance, the first of equals;
 * NULL where there is none. Borrowed. */
const char *nearest_word(const char *word, const char *const *words, int count);

#endif
