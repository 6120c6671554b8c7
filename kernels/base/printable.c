#include "kernels/base/printable.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t utf8_character(const char *text, size_t bytes) {
    if (bytes == 0) return 0;
    const unsigned char *u = (const unsigned char *)text;
    if (u[0] < 0x80) return 1;
    if (u[0] < 0xc2 || u[0] > 0xf4) return 0;
    size_t length = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
    if (length > bytes) return 0;
    for (size_t i = 1; i < length; i++)
        if ((u[i] & 0xc0) != 0x80) return 0;
    if (u[0] == 0xe0 && u[1] < 0xa0) return 0; /* overlong */
    if (u[0] == 0xed && u[1] > 0x9f) return 0; /* a surrogate */
    if (u[0] == 0xf0 && u[1] < 0x90) return 0; /* overlong */
    if (u[0] == 0xf4 && u[1] > 0x8f) return 0; /* beyond U+10FFFF */
    return length;
}

/* C0, DEL and the two-byte C1 controls move a terminal's cursor or worse. */
bool printable_is_control(const char *text, size_t length) {
    unsigned char first = (unsigned char)text[0];
    if (length == 1) return first < 0x20 || first == 0x7f;
    return length == 2 && first == 0xc2 && (unsigned char)text[1] < 0xa0;
}

char *printable(char *out, size_t size, const char *text, size_t bytes) {
    assert(size >= 8);
    size_t used = 0, room = size - 4; /* "..." and the NUL always fit */
    for (size_t at = 0; at < bytes;) {
        size_t length = utf8_character(text + at, bytes - at);
        int escape = length == 0 || printable_is_control(text + at, length);
        if (length == 0) length = 1;
        if (used + (escape ? 4 * length : length) > room) {
            memcpy(out + used, "...", 4);
            return out;
        }
        for (size_t i = 0; escape && i < length; i++, used += 4)
            snprintf(out + used, 5, "\\x%02x", (unsigned char)text[at + i]);
        if (!escape) {
            memcpy(out + used, text + at, length);
            used += length;
        }
        at += length;
    }
    out[used] = '\0';
    return out;
}

char *utf8_clean(const char *text, size_t bytes, size_t *length) {
    if (bytes > (SIZE_MAX - 1) / 3) return NULL;
    char *out = malloc(3 * bytes + 1);
    if (!out) return NULL;
    size_t used = 0;
    for (size_t at = 0; at < bytes;) {
        size_t character = utf8_character(text + at, bytes - at);
        memcpy(out + used, character ? text + at : "\xef\xbf\xbd", character ? character : 3);
        used += character ? character : 3;
        at += character ? character : 1;
    }
    out[used] = '\0';
    *length = used;
    return out;
}
