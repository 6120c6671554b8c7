#include "data/base64.h"

#include <stdint.h>

static int base64_value(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

size_t base64_decode(const char *text, size_t bytes, char *out) {
    size_t count = 0;
    uint32_t bits = 0;
    int held = 0;
    while (bytes > 0 && text[bytes - 1] == '=') bytes--;
    for (size_t i = 0; i < bytes; i++) {
        int value = base64_value(text[i]);
        if (value < 0) return SIZE_MAX;
        bits = bits << 6 | (uint32_t)value;
        held += 6;
        if (held < 8) continue;
        held -= 8;
        out[count++] = (char)(bits >> held);
    }
    return count;
}

size_t base64_encode(const char *data, size_t bytes, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t count = 0;
    for (size_t i = 0; i < bytes; i += 3) {
        size_t held = bytes - i < 3 ? bytes - i : 3;
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; k++)
            bits = bits << 8 | (k < held ? (unsigned char)data[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            out[count++] = k <= held ? digits[bits >> (18 - 6 * k) & 63] : '=';
    }
    return count;
}
