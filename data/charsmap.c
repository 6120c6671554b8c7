#include "data/charsmap.h"

#include "data/utf8.h"
#include <stdlib.h>
#include <string.h>

enum status charsmap_open(struct charsmap *map, const char *data, size_t bytes) {
    *map = (struct charsmap){0};
    uint32_t trie_bytes;
    if (bytes < 4) return status_fail(STATUS_FORMAT, "precompiled_charsmap has %zu bytes", bytes);
    memcpy(&trie_bytes, data, 4);
    if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > bytes - 4)
        return status_fail(STATUS_FORMAT,
                           "precompiled_charsmap: a trie of %u bytes in a map of %zu bytes",
                           trie_bytes, bytes);
    map->unit_count = trie_bytes / 4;
    map->text_bytes = bytes - 4 - trie_bytes + 1;
    map->units = malloc(trie_bytes);
    map->texts = malloc(map->text_bytes);
    if (!map->units || !map->texts) {
        charsmap_close(map);
        return status_fail(STATUS_MEMORY, "no memory for a charsmap of %zu bytes", bytes);
    }
    memcpy(map->units, data + 4, trie_bytes);
    memcpy(map->texts, data + 4 + trie_bytes, map->text_bytes - 1);
    map->texts[map->text_bytes - 1] = 0;
    if (utf8_valid_prefix(map->texts, map->text_bytes) != map->text_bytes) {
        charsmap_close(map);
        return status_fail(STATUS_FORMAT, "precompiled_charsmap: a replacement is not UTF-8");
    }
    return STATUS_OK;
}

void charsmap_close(struct charsmap *map) {
    free(map->units);
    free(map->texts);
    *map = (struct charsmap){0};
}

static bool is_inside_character(char byte) {
    return ((unsigned char)byte & 0xC0) == 0x80;
}

/* A unit: bits 0-7 label (bit 31 set in a value), bit 8 "a value follows", bit 9 and 10-31 the
 * offset to the children, counted in units or in blocks of 256. */
static uint32_t unit_offset(uint32_t unit) {
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

const char *charsmap_find(const struct charsmap *map, const char *text, size_t bytes, bool shortest,
                          size_t *consumed) {
    const char *found = NULL;
    if (map->unit_count == 0) return NULL;
    uint32_t node = unit_offset(map->units[0]);
    for (size_t i = 0; i < bytes; i++) {
        node ^= (unsigned char)text[i];
        if (node >= map->unit_count) break;
        uint32_t unit = map->units[node];
        if ((unit & 0x800000FFu) != (unsigned char)text[i]) break;
        node ^= unit_offset(unit);
        if (!(unit >> 8 & 1)) continue;
        if (node >= map->unit_count) break;
        uint32_t value = map->units[node] & 0x7FFFFFFFu;
        if (value >= map->text_bytes || is_inside_character(map->texts[value])) break;
        if (i + 1 < bytes && is_inside_character(text[i + 1])) continue;
        found = map->texts + value;
        *consumed = i + 1;
        if (shortest) break;
    }
    return found;
}
