#define _GNU_SOURCE
#include "core/log.h"

#include "kernels/base/printable.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The process's identity and threshold: written once at start, read by every thread. */
static struct {
    int rank, ranks;
    enum log_level level;
} process = {0, 1, LOG_INFO};

void log_identify(int rank, int ranks) {
    process.rank = rank;
    process.ranks = ranks;
}

void log_set_level(enum log_level level) {
    process.level = level;
}

void log_line(enum log_level level, const char *format, ...) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    if (level < process.level || (level <= LOG_INFO && process.rank != 0)) return;
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (level >= LOG_WARN && process.ranks > 1) {
        char host[256] = "?";
        gethostname(host, sizeof host - 1);
        fprintf(stderr, "level=%s rank=%d host=%s %s\n", names[level], process.rank, host, text);
    } else {
        fprintf(stderr, "level=%s %s\n", names[level], text);
    }
}

/* Whether the character may stand in a value as it is; length 0 = it isn't UTF-8. */
static bool is_plain(const char *text, size_t length) {
    return length > 0 && !printable_is_control(text, length);
}

static bool needs_quotes(const char *value) {
    if (!*value) return true;
    size_t bytes = strlen(value), length;
    for (size_t at = 0; at < bytes; at += length) {
        length = utf8_character(value + at, bytes - at);
        if (!is_plain(value + at, length) || strchr(" \"\\=", value[at])) return true;
    }
    return false;
}

/* The escape of one character of `length` bytes (0: one byte that isn't UTF-8), or the character
 * itself; at most 8 bytes. */
static int escape(char out[12], const char *text, size_t length) {
    static const char from[] = "\"\\\n\r\t", to[] = "\"\\nrt";
    const char *known = *text ? strchr(from, *text) : NULL;
    if (known) return snprintf(out, 12, "\\%c", to[known - from]);
    if (is_plain(text, length)) return snprintf(out, 12, "%.*s", (int)length, text);
    int used = 0;
    for (size_t i = 0; i < (length ? length : 1); i++)
        used += snprintf(out + used, 12 - (size_t)used, "\\x%02x", (unsigned char)text[i]);
    return used;
}

const char *log_value(struct log_text *room, const char *value) {
    enum { TAIL = 5 }; /* ..." and the NUL */
    size_t bytes = strlen(value), used = 0, length;
    if (!needs_quotes(value) && bytes < sizeof room->text) {
        memcpy(room->text, value, bytes + 1);
        return room->text;
    }
    room->text[used++] = '"';
    for (size_t at = 0; at < bytes; at += length ? length : 1) {
        char piece[12];
        length = utf8_character(value + at, bytes - at);
        int count = escape(piece, value + at, length);
        if (used + (size_t)count > sizeof room->text - TAIL) {
            memcpy(room->text + used, "...", 3);
            used += 3;
            break;
        }
        memcpy(room->text + used, piece, (size_t)count);
        used += (size_t)count;
    }
    memcpy(room->text + used, "\"", 2);
    return room->text;
}
