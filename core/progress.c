#define _GNU_SOURCE
#include "core/progress.h"

#include "core/log.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { BAR_CELLS = 30 };

static double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void progress_begin(struct progress *progress, const char *task, int64_t total) {
    double now = clock_seconds();
    *progress = (struct progress){task, total, isatty(STDERR_FILENO), now, now};
}

double progress_seconds(const struct progress *progress) {
    return clock_seconds() - progress->started;
}

void progress_update(struct progress *progress, int64_t done, const char *details) {
    double now = clock_seconds();
    if (now - progress->shown < (progress->terminal ? 0.1 : 10)) return;
    progress->shown = now;
    double part = progress->total > 0 ? (double)done / (double)progress->total : 0;
    if (part > 1) part = 1;
    if (!progress->terminal) {
        log_line(LOG_INFO, "event=%s percent=%.1f %s", progress->task, 100 * part, details);
        return;
    }
    char bar[BAR_CELLS + 1];
    for (int i = 0; i < BAR_CELLS; i++) bar[i] = i < (int)(part * BAR_CELLS) ? '#' : '.';
    bar[BAR_CELLS] = 0;
    fprintf(stderr, "\r%s [%s] %3.0f%% %s\033[K", progress->task, bar, 100 * part, details);
    fflush(stderr);
}

void progress_end(struct progress *progress) {
    if (!progress->terminal) return;
    fprintf(stderr, "\r\033[K");
    fflush(stderr);
}
