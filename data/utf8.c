#include "data/utf8.h"

#include <string.h>

bool utf8_is_prefix(const char *text, size_t bytes) {
    const unsigned char *s = (const unsigned char *)text;
    if (bytes == 0 || s[0] < 0xC2 || s[0] > 0xF4) return false;
    size_t length = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (bytes >= length) return false;
    for (size_t i = 1; i < bytes; i++)
        if ((s[i] & 0xC0) != 0x80) return false;
    if (bytes < 2) return true;
    /* the second byte already decides overlong forms, surrogates and what is past U+10FFFF */
    if (s[0] == 0xE0) return s[1] >= 0xA0;
    if (s[0] == 0xED) return s[1] < 0xA0;
    if (s[0] == 0xF0) return s[1] >= 0x90;
    if (s[0] == 0xF4) return s[1] < 0x90;
    return true;
}

size_t utf8_valid_prefix(const char *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        uint64_t word;
        if (at + 8 <= bytes && (memcpy(&word, text + at, 8), (word & 0x8080808080808080u) == 0)) {
            at += 8;
            continue;
        }
        uint32_t point;
        int length = utf8_decode(text + at, bytes - at, &point);
        if (length == 0) break;
        at += (size_t)length;
    }
    return at;
}

size_t utf8_bad_part(const char *text, size_t bytes) {
    size_t length = 1;
    while (length < bytes && length < 3 && utf8_is_prefix(text, length + 1)) length++;
    return length;
}
