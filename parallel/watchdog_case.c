#define _GNU_SOURCE
#include "parallel/watchdog_internal.h"

#include "core/log.h"
#include "kernels/base/clock.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

void watchdog_forget_answers(struct watchdog *w) {
    for (int r = 0; r < w->size; r++) {
        rings_copy_free(&w->seats[r].rings);
        free(w->seats[r].answer);
        w->seats[r].answer = NULL;
        w->seats[r].asked = false;
    }
}

void watchdog_keep_answer(struct watchdog *w, int rank, void *bytes, size_t count) {
    struct seat *seat = &w->seats[rank];
    rings_copy_free(&seat->rings);
    free(seat->answer);
    seat->answer = bytes;
    seat->asked = false;
    if (bytes && rings_unpack(&seat->rings, bytes, count) == STATUS_OK) return;
    free(seat->answer);
    seat->answer = NULL;
}

static bool dead(const struct watchdog *w, int rank) {
    return rank != w->rank && w->seats[rank].presence != PRESENT;
}

static bool i_judge(const struct watchdog *w) {
    if (w->rank == 0) return true;
    return dead(w, 0) && (w->rank == w->deputy || dead(w, w->deputy));
}

static bool anyone(const struct watchdog *w, enum presence presence) {
    for (int r = 0; r < w->size; r++)
        if (w->seats[r].presence == presence) return true;
    return false;
}

static bool all_answered(const struct watchdog *w) {
    for (int r = 0; r < w->size; r++)
        if (w->seats[r].asked) return false;
    return true;
}

/* How long answers may take. Launchers kill the others soon after one died. */
static double patience(const struct watchdog *w) {
    if (anyone(w, GONE)) return least(0.25 * w->seconds, 0.25);
    if (w->overdue) return least(0.5 * w->seconds, 10.0);
    return least(0.25 * w->seconds, 0.5);
}

static void open_case(struct watchdog *w) {
    watchdog_forget_answers(w);
    w->open = true;
    w->deadline = clock_seconds() + patience(w);
    for (int r = 0; r < w->size; r++) {
        struct seat *seat = &w->seats[r];
        if (seat->link.fd < 0 || seat->presence != PRESENT) continue;
        seat->asked = true;
        watchdog_tell(w, r, MESSAGE_COLLECT, NULL, 0);
    }
    size_t bytes = 0;
    void *mine = rings_pack(w->rings, &bytes);
    watchdog_keep_answer(w, w->rank, mine, bytes);
}

static void *end_anyway(void *unused) {
    (void)unused;
    sleep(WATCHDOG_END_SECONDS);
    _exit(WATCHDOG_EXIT);
}

/* "FOLDER/hang-20260131-235959.txt"; "" when it can't be written. */
static void write_table(const struct watchdog *w, const struct verdict *verdict,
                        const struct verdict_rank *ranks, char path[4096]) {
    time_t now = time(NULL);
    struct tm parts;
    char when[32] = "";
    strftime(when, sizeof when, "%Y%m%d-%H%M%S", gmtime_r(&now, &parts));
    path[0] = '\0';
    if (w->folder) snprintf(path, 4096, "%s/hang-%s.txt", w->folder, when);
    FILE *file = *path ? fopen(path, "w") : stderr;
    if (!file) {
        path[0] = '\0';
        file = stderr;
    }
    verdict_table(verdict, ranks, file);
    if (file != stderr) fclose(file);
}

/* Ends the process, whatever holds the other threads. */
static _Noreturn void pronounce(struct watchdog *w, const struct verdict *verdict,
                                const struct verdict_rank *ranks) {
    pthread_t guard;
    char line[1024], path[4096];
    pthread_create(&guard, NULL, end_anyway, NULL);
    verdict_line(verdict, ranks, line, sizeof line);
    write_table(w, verdict, ranks, path);
    struct log_text texts[2];
    log_line(LOG_ERROR, "event=hang verdict=%s%s%s", log_value(&texts[0], line),
             *path ? " table=" : "", *path ? log_value(&texts[1], path) : "");
    watchdog_tell_all(w, MESSAGE_VERDICT);
    if (w->end_job) w->end_job();
    _exit(WATCHDOG_EXIT);
}

/* A call failed because ranks made different ones, and some have not come to theirs: who is right
 * shows better, and all are named, when they have. */
static bool more_may_come(const struct watchdog *w, const struct verdict *verdict) {
    int judged = 0;
    if (verdict->kind != VERDICT_MISMATCH || verdict->pair || w->next_look >= w->accused)
        return false;
    for (int r = 0; r < verdict->ranks; r++) judged += verdict->culprit[r] || verdict->waiting[r];
    return judged < verdict->call.ring->size;
}

/* Decides on what has come in. */
static void close_case(struct watchdog *w) {
    struct verdict verdict;
    struct verdict_rank *ranks = w->judged;
    w->open = false;
    /* who answers nothing while calls are overdue holds them up */
    enum presence mute = w->overdue ? SILENT : UNKNOWN;
    for (int r = 0; r < w->size; r++) {
        const struct seat *seat = &w->seats[r];
        ranks[r] = (struct verdict_rank){.presence = seat->asked ? mute : seat->presence,
                                         .host = w->hosts[r],
                                         .rings = seat->answer ? &seat->rings : NULL};
        if (ranks[r].presence == PRESENT && !ranks[r].rings) ranks[r].presence = UNKNOWN;
    }
    double limit = w->overdue ? w->seconds : 1e9; /* else only what is wrong at any age */
    w->overdue = false;
    w->next_look = clock_seconds() + 1e-3 * WATCHDOG_LOOK_MS;
    if (verdict_decide(&verdict, ranks, w->size, w->rank, limit) == STATUS_OK) {
        if (verdict.kind != VERDICT_NONE && !more_may_come(w, &verdict))
            pronounce(w, &verdict, ranks);
        verdict_free(&verdict);
    }
    watchdog_forget_answers(w);
}

void watchdog_judge(struct watchdog *w) {
    bool reason = w->overdue || watchdog_looks_again(w, clock_seconds()) || anyone(w, GONE) ||
                  anyone(w, SILENT);
    if (!i_judge(w) || w->ending > 0.0) return;
    if (!w->open && reason) open_case(w);
    if (w->open && (all_answered(w) || clock_seconds() >= w->deadline)) close_case(w);
}
