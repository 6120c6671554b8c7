/* SentencePiece's precompiled_charsmap: a double-array trie (darts-clone's layout) from byte
 * strings to their replacements. Layout: u32 bytes of the trie, the trie's u32 units, then the
 * NUL-terminated replacements; all little-endian. Source: sentencepiece, src/normalizer.cc. */
#ifndef STRATA_DATA_CHARSMAP_H
#define STRATA_DATA_CHARSMAP_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct charsmap {
    uint32_t *units; /* owned */
    size_t unit_count;
    char *texts; /* owned; the last byte is NUL */
    size_t text_bytes;
};

/* Copies `data`. STATUS_FORMAT when the sizes don't fit. */
enum status charsmap_open(struct charsmap *map, const char *data, size_t bytes);
void charsmap_close(struct charsmap *map);

/* The replacement for the longest (or shortest) known string that `text` starts with, and in
 * *consumed its bytes; NULL when there is none. Borrowed, NUL-terminated. */
const char *charsmap_find(const struct charsmap *map, const char *text, size_t bytes, bool shortest,
                          size_t *consumed);

#endif
