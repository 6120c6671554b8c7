#define _GNU_SOURCE
#include "core/log.h"

#include <stdarg.h>
#include <stdio.h>
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
