/* Small questions about strings. */
#ifndef STRATA_CORE_TEXT_H
#define STRATA_CORE_TEXT_H

#include <stdbool.h>
#include <string.h>

static inline bool ends_with(const char *text, const char *ending) {
    size_t bytes = strlen(text), tail = strlen(ending);
    return bytes >= tail && strcmp(text + bytes - tail, ending) == 0;
}

#endif
