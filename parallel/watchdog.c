#define _GNU_SOURCE
#include "parallel/watchdog_internal.h"

#include "kernels/base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void lose(struct watchdog *w, int rank, enum presence presence) {
    struct seat *seat = &w->seats[rank];
    watch_link_close(&seat->link);
    seat->presence = presence;
    seat->asked = false;
}

/* Who dies while a case is open was pulled along by what opened it. */
static void lose_broken(struct watchdog *w, int rank) {
    lose(w, rank, w->open || w->ending > 0.0 ? UNKNOWN : GONE);
}

void watchdog_tell(struct watchdog *w, int rank, enum message_kind kind, const void *data,
                   size_t bytes) {
    if (w->seats[rank].link.fd < 0) return;
    if (!watch_send(&w->seats[rank].link, kind, data, bytes)) lose_broken(w, rank);
}

void watchdog_tell_all(struct watchdog *w, enum message_kind kind) {
    for (int r = 0; r < w->size; r++) watchdog_tell(w, r, kind, NULL, 0);
}

/* To those who may judge. */
static void tell_judges(struct watchdog *w, enum message_kind kind) {
    if (w->rank != 0) watchdog_tell(w, 0, kind, NULL, 0);
    if (w->rank != w->deputy) watchdog_tell(w, w->deputy, kind, NULL, 0);
}

static void answer(struct watchdog *w, int rank) {
    size_t bytes = 0;
    void *data = rings_pack(w->rings, &bytes);
    if (data) watchdog_tell(w, rank, MESSAGE_RINGS, data, bytes);
    free(data);
}

static void take_answer(struct watchdog *w, int rank, const struct watch_message *message) {
    if (!w->open) return;
    void *copy = malloc(message->bytes + 1);
    if (copy) memcpy(copy, message->data, message->bytes);
    watchdog_keep_answer(w, rank, copy, message->bytes);
}

/* A rank ends the job: what it pulls along is no hang, but nobody may stay behind. */
static void expect_end(struct watchdog *w) {
    if (w->ending > 0.0) return;
    w->ending = clock_seconds() + WATCHDOG_END_SECONDS;
    if (w->rank == 0 || w->rank == w->deputy) watchdog_tell_all(w, MESSAGE_ABORT);
}

static void take_accusation(struct watchdog *w) {
    w->accused = clock_seconds() + 0.8 * watchdog_accused_seconds(w); /* the verdict takes time */
    w->next_look = 0.0;
}

static void obey(struct watchdog *w, int rank, const struct watch_message *message) {
    switch ((enum message_kind)message->kind) {
    case MESSAGE_BEAT:
        break;
    case MESSAGE_OVERDUE:
        w->overdue = true;
        break;
    case MESSAGE_FAILED:
        take_accusation(w);
        break;
    case MESSAGE_COLLECT:
        answer(w, rank);
        break;
    case MESSAGE_RINGS:
        take_answer(w, rank, message);
        break;
    case MESSAGE_VERDICT:
        _exit(WATCHDOG_EXIT);
    case MESSAGE_BYE:
        w->seats[rank].presence = LEFT;
        break;
    case MESSAGE_ABORT:
        expect_end(w);
        break;
    }
}

static void receive(struct watchdog *w, int rank) {
    struct seat *seat = &w->seats[rank];
    struct watch_message message;
    bool whole = watch_fill(&seat->link);
    seat->heard = clock_seconds();
    if (seat->presence == SILENT) seat->presence = PRESENT;
    while (seat->link.fd >= 0 && watch_peek(&seat->link, &message)) {
        obey(w, rank, &message);
        watch_drop(&seat->link);
    }
    if (seat->presence == LEFT)
        lose(w, rank, LEFT);
    else if (!whole && seat->link.fd >= 0)
        lose_broken(w, rank);
}

/* Sleeps until something arrives, or for a tick. */
static void wait_for_news(struct watchdog *w) {
    double until = w->looped + w->tick;
    if (w->open)
        until = least(until, w->deadline);
    else if (w->next_look > w->looped && w->next_look < w->accused)
        until = least(until, w->next_look);
    int ms = (int)(1e3 * (until - clock_seconds())) + 1;
    w->polled[w->size] = (struct pollfd){.fd = w->wake[0], .events = POLLIN};
    for (int r = 0; r < w->size; r++) {
        const struct watch_link *link = &w->seats[r].link;
        short more = link->out_bytes > 0 ? POLLOUT : 0;
        w->polled[r] = (struct pollfd){.fd = link->fd, .events = (short)(POLLIN | more)};
    }
    if (poll(w->polled, (nfds_t)w->size + 1, ms < 0 ? 0 : ms) <= 0) return;
    char byte;
    while (w->polled[w->size].revents && read(w->wake[0], &byte, 1) == 1) continue;
    for (int r = 0; r < w->size; r++) {
        short events = w->polled[r].revents;
        if ((events & POLLOUT) && !watch_flush(&w->seats[r].link)) lose_broken(w, r);
        if ((events & (POLLIN | POLLERR | POLLHUP)) && w->seats[r].link.fd >= 0) receive(w, r);
    }
}

/* A process that was stopped has heard nobody: that says nothing about them. */
static void notice_own_stop(struct watchdog *w) {
    double now = clock_seconds();
    if (now - w->looped > 4.0 * w->tick) {
        w->awake = now;
        for (int r = 0; r < w->size; r++) w->seats[r].heard = now;
    }
    w->looped = now;
}

static void beat(struct watchdog *w) {
    if (w->looped - w->beaten < w->tick) return;
    w->beaten = w->looped;
    for (int r = 0; r < w->size; r++)
        if (w->seats[r].link.out_bytes == 0) watchdog_tell(w, r, MESSAGE_BEAT, NULL, 0);
    if (!rings_overdue(w->rings, w->seconds, w->awake)) return;
    w->overdue = true;
    tell_judges(w, MESSAGE_OVERDUE);
}

static void notice_silence(struct watchdog *w) {
    for (int r = 0; r < w->size; r++) {
        struct seat *seat = &w->seats[r];
        if (seat->link.fd < 0 || seat->presence != PRESENT) continue;
        if (w->looped - seat->heard < w->seconds + w->tick) continue;
        seat->presence = SILENT;
        seat->asked = false;
    }
}

void watchdog_say_goodbye(struct watchdog *w) {
    double until = clock_seconds() + least(0.5, w->seconds);
    watchdog_tell_all(w, MESSAGE_BYE);
    for (int r = 0; r < w->size; r++)
        if (w->seats[r].link.fd >= 0 && w->seats[r].link.out_bytes == 0)
            shutdown(w->seats[r].link.fd, SHUT_WR);
    for (bool more = true; more && clock_seconds() < until;) {
        more = false;
        for (int r = 0; r < w->size; r++) {
            struct watch_link *link = &w->seats[r].link;
            if (link->fd < 0) continue;
            struct pollfd one = {.fd = link->fd, .events = POLLIN};
            link->in_bytes = 0;
            if (poll(&one, 1, 10) > 0 && !watch_fill(link)) watch_link_close(link);
            more |= link->fd >= 0;
        }
    }
}

/* False when the thread is to end. */
static bool serve_request(struct watchdog *w) {
    int request = atomic_exchange(&w->request, REQUEST_NONE);
    if (request == REQUEST_NONE) return true;
    if (request == REQUEST_ACCUSE) {
        take_accusation(w);
        tell_judges(w, MESSAGE_FAILED);
    }
    if (request == REQUEST_ABORT) {
        expect_end(w);
        tell_judges(w, MESSAGE_ABORT);
    }
    if (request == REQUEST_CLOSE) watchdog_say_goodbye(w);
    atomic_store(&w->answered, request);
    return request != REQUEST_CLOSE;
}

void *watchdog_loop(void *context) {
    struct watchdog *w = context;
    while (serve_request(w)) {
        wait_for_news(w);
        notice_own_stop(w);
        if (w->ending > 0.0 && w->looped > w->ending) _exit(WATCHDOG_EXIT);
        beat(w);
        notice_silence(w);
        watchdog_judge(w);
    }
    return NULL;
}

void watchdog_ask(struct watchdog *w, enum request request, double seconds) {
    double until = clock_seconds() + seconds;
    atomic_store(&w->request, request);
    while (write(w->wake[1], "", 1) < 0 && errno == EINTR) continue;
    while (atomic_load(&w->answered) != (int)request && clock_seconds() < until)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

void watchdog_accuse(struct watchdog *w) {
    if (!w || !w->started) return;
    double wait = watchdog_accused_seconds(w);
    watchdog_ask(w, REQUEST_ACCUSE, wait);
    nanosleep(
        &(struct timespec){.tv_sec = wait >= 1.0, .tv_nsec = wait >= 1.0 ? 0 : (long)(1e9 * wait)},
        NULL);
    watchdog_ask(w, REQUEST_ABORT, wait);
}
