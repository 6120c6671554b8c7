#define _GNU_SOURCE
#include "core/progress.h"

#include "core/log.h"
#include "kernels/base/clock.h"

#include <stdio.h>
#include <unistd.h>

enum { BAR_CELLS = 30 };

void progress_begin(struct progress *progress, const char *task, int64_t total) {
    double now = clock_seconds();
    *progress = (struct progress){.task = task,
                                  .total = total,
                                  .terminal = isatty(STDERR_FILENO),
                                  .started = now,
                                  .shown = now,
                                  .first = -1};
}

double progress_seconds(const struct progress *progress) {
    return clock_seconds() - progress->started;
}

/* "3:07 left", from the pace since the first update; empty while there is none. */
static void format_left(const struct progress *progress, double now, int64_t done, char text[32]) {
    int64_t advanced = done - progress->first, left = progress->total - done;
    text[0] = 0;
    if (advanced <= 0 || left < 0) return;
    double seconds = (now - progress->first_seconds) / (double)advanced * (double)left;
    int64_t whole = seconds < 360000.0 ? (int64_t)(seconds + 0.5) : 360000;
    if (whole >= 3600)
        snprintf(text, 32, "%d:%02d:%02d left", (int)(whole / 3600), (int)(whole / 60 % 60),
                 (int)(whole % 60));
    else
        snprintf(text, 32, "%d:%02d left", (int)(whole / 60), (int)(whole % 60));
}

static void draw_bar(const struct progress *progress, double part, const char *details,
                     const char *left) {
    char bar[BAR_CELLS + 1];
    for (int i = 0; i < BAR_CELLS; i++) bar[i] = i < (int)(part * BAR_CELLS) ? '#' : '.';
    bar[BAR_CELLS] = 0;
    fprintf(stderr, "\r%s [%s] %3.0f%% %s %s\033[K", progress->task, bar, 100 * part, details,
            left);
    fflush(stderr);
}

void progress_update(struct progress *progress, int64_t done, const char *details) {
    double now = clock_seconds();
    if (progress->first < 0) {
        progress->first = done;
        progress->first_seconds = now;
    }
    if (now - progress->shown < (progress->terminal ? 0.1 : 10)) return;
    progress->shown = now;
    double part = progress->total > 0 ? (double)done / (double)progress->total : 0;
    if (part > 1) part = 1;
    char left[32];
    format_left(progress, now, done, left);
    if (progress->terminal)
        draw_bar(progress, part, details, left);
    else
        log_line(LOG_INFO, "event=%s percent=%.1f %s", progress->task, 100 * part, details);
}

void progress_end(struct progress *progress) {
    if (!progress->terminal) return;
    fprintf(stderr, "\r\033[K");
    fflush(stderr);
}
