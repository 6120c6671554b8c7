/* Text from files that may be hostile, made fit for one line of a terminal, a log or JSON. */
#ifndef STRATA_KERNELS_BASE_PRINTABLE_H
#define STRATA_KERNELS_BASE_PRINTABLE_H

#include <stdbool.h>
#include <stddef.h>

enum { PRINTABLE_SIZE = 128 };

/* Writes `text` (`bytes` long) with a NUL into `out` (room for `size`, at least 8): control
 * characters and bytes that are not UTF-8 become \xNN, what doesn't fit becomes "...".
 * Returns out. */
char *printable(char *out, size_t size, const char *text, size_t bytes);

/* Bytes (1-4) of the UTF-8 character at `text`, 0 where the `bytes` there start with none. Overlong
 * forms, surrogates and values beyond U+10FFFF are none. Source: RFC 3629. */
size_t utf8_character(const char *text, size_t bytes);

/* Whether the UTF-8 character of `length` bytes at `text` is a control character: C0, DEL, C1. */
bool printable_is_control(const char *text, size_t length);

/* A copy with a NUL in which every byte that is not UTF-8 became U+FFFD; the caller frees it, and
 * gets its length (NULs of the text are kept). NULL when there is no memory. */
char *utf8_clean(const char *text, size_t bytes, size_t *length);

#endif
