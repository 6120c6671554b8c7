/* UTF-8 by the letter of RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef STRATA_DATA_UTF8_H
#define STRATA_DATA_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* The code point at `text` into *point; returns its bytes (1-4), or 0 when the bytes there are no
 * whole character. `bytes` is at least 1. */
static inline int utf8_decode(const char *text, size_t bytes, uint32_t *point) {
    const unsigned char *s = (const unsigned char *)text;
    if (s[0] < 0x80) {
        *point = s[0];
        return 1;
    }
    int length = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
    if (s[0] < 0xC2 || s[0] > 0xF4 || bytes < (size_t)length) return 0;
    uint32_t value = s[0] & (0x7Fu >> length);
    for (int i = 1; i < length; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
        value = value << 6 | (s[i] & 0x3F);
    }
    if (length == 3 && (value < 0x800 || (value >= 0xD800 && value < 0xE000))) return 0;
    if (length == 4 && (value < 0x10000 || value > 0x10FFFF)) return 0;
    *point = value;
    return length;
}

/* Writes a code point (below 0x110000) to out[4]; returns its bytes. */
static inline int utf8_encode(uint32_t point, char out[4]) {
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        out[0] = (char)(0xC0 | point >> 6);
        out[1] = (char)(0x80 | (point & 0x3F));
        return 2;
    }
    if (point < 0x10000) {
        out[0] = (char)(0xE0 | point >> 12);
        out[1] = (char)(0x80 | (point >> 6 & 0x3F));
        out[2] = (char)(0x80 | (point & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | point >> 18);
    out[1] = (char)(0x80 | (point >> 12 & 0x3F));
    out[2] = (char)(0x80 | (point >> 6 & 0x3F));
    out[3] = (char)(0x80 | (point & 0x3F));
    return 4;
}

/* Bytes of a text known to be valid, by its first byte. */
static inline int utf8_width(unsigned char first) {
    return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

/* Could these bytes (no whole character) still become one with more bytes behind them? */
bool utf8_is_prefix(const char *text, size_t bytes);

/* Bytes of valid UTF-8 that `text` starts with. */
size_t utf8_valid_prefix(const char *text, size_t bytes);

/* Bytes of the ill-formed part at `text` that one U+FFFD stands for: the longest prefix of a
 * character, else one byte (Unicode 15, 3.9, "substitution of maximal subparts"). */
size_t utf8_bad_part(const char *text, size_t bytes);

/* White_Space of Unicode, what \s means to the regexes of every tokenizer. */
static inline bool utf8_is_space(uint32_t point) {
    return (point >= 9 && point <= 13) || point == 0x20 || point == 0x85 || point == 0xA0 ||
           point == 0x1680 || (point >= 0x2000 && point <= 0x200A) || point == 0x2028 ||
           point == 0x2029 || point == 0x202F || point == 0x205F || point == 0x3000;
}

/* The bytes of the mark (U+FEFF) that some editors put before a text: 3, or 0 without one. */
static inline size_t utf8_mark_bytes(const char *text, size_t bytes) {
    return bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
}

#endif
