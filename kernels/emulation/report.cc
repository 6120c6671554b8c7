#include "kernels/emulation/machine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace emulation {

static void say_place(FILE *file, struct place place) {
    fprintf(file, "%s", place.call ? place.call : "?");
    if (place.file) fprintf(file, " at %s:%d", place.file, place.line);
}

static void say_where(FILE *file) {
    if (current_launch()) fprintf(file, "op %s: ", current_launch()->op);
    if (!self) return;
    const struct cta *cta = self->cta;
    fprintf(file, "block (%u,%u,%u) thread %d, ", cta->index.x, cta->index.y, cta->index.z,
            self->number);
    say_place(file, self->at);
    fprintf(file, ": ");
}

void fail(const char *format, ...) {
    fprintf(stderr, "emulation: ");
    say_where(stderr);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    fflush(stderr);
    abort();
}

static bool same_place(const struct thread *a, const struct thread *b) {
    return a->state == b->state && a->at.call == b->at.call && a->at.file == b->at.file &&
           a->at.line == b->at.line;
}

/* A line for each run of threads that are at the same place. */
static void say_cta(const struct cta *cta) {
    for (int first = 0, end; first < cta->threads; first = end) {
        const struct thread *thread = &cta->thread[(size_t)first];
        for (end = first + 1; end < cta->threads; end++)
            if (!same_place(thread, &cta->thread[(size_t)end])) break;
        fprintf(stderr, "  block (%u,%u,%u) threads %d-%d: ", cta->index.x, cta->index.y,
                cta->index.z, first, end - 1);
        if (thread->state == THREAD_ENDED) {
            fprintf(stderr, "ended\n");
            continue;
        }
        fprintf(stderr, thread->state == THREAD_SPINS ? "look again and again in " : "wait in ");
        say_place(stderr, thread->at);
        fprintf(stderr, "\n");
    }
}

void fail_deadlock(const std::vector<struct cta *> &ctas) {
    fprintf(stderr, "emulation: op %s: deadlock, no thread can go on\n", current_launch()->op);
    for (const struct cta *cta : ctas) {
        if (!cta->running) continue;
        say_cta(cta);
        asynchronous_report(cta);
        for (int id = 0; id < NAMED_BARRIERS; id++) {
            const struct barrier *barrier = &cta->barriers[id];
            if (barrier->arrived == 0) continue;
            int expected = barrier->expected == ALL_THREADS ? cta->live : barrier->expected;
            fprintf(stderr, "  block (%u,%u,%u) barrier %d: %d of %d threads arrived\n",
                    cta->index.x, cta->index.y, cta->index.z, id, barrier->arrived, expected);
        }
    }
    fflush(stderr);
    abort();
}

} // namespace emulation
