#define _GNU_SOURCE
#include "parallel/watchdog.h"

#include "core/log.h"
#include "kernels/base/clock.h"
#include "parallel/verdict.h"
#include "parallel/watch_link.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    HOST_BYTES = 64,
    CONNECT_SECONDS = 10,
    END_SECONDS = 5, /* until a process that should have been ended ends itself */
    EXIT_HUNG = 1
};

enum message_kind {
    MESSAGE_BEAT,    /* I run */
    MESSAGE_OVERDUE, /* I have been inside a call for too long */
    MESSAGE_FAILED,  /* a call of mine failed */
    MESSAGE_COLLECT, /* give me your rings */
    MESSAGE_RINGS,   /* rings_pack's bytes */
    MESSAGE_VERDICT, /* there is one: end yourself */
    MESSAGE_BYE,     /* I leave in good order */
    MESSAGE_ABORT    /* I end the job for a reason of my own */
};

enum request { REQUEST_NONE, REQUEST_ACCUSE, REQUEST_ABORT, REQUEST_CLOSE };

/* What the judge knows of a rank. */
struct seat {
    struct watch_link link;
    enum presence presence;
    double heard;
    bool asked;              /* in the present case, and has not answered */
    void *answer;            /* rings_pack's bytes */
    struct rings_copy rings; /* of them */
};

struct watchdog {
    int rank, size, deputy;
    double seconds, tick;
    char *folder; /* NULL: none */
    void (*end_job)(void);
    struct rings *rings;
    char (*hosts)[HOST_BYTES];
    struct seat *seats;          /* (size); mine has no link */
    struct verdict_rank *judged; /* (size) */
    struct pollfd *polled;

    pthread_t thread;
    bool started;
    int wake[2]; /* a pipe: a request has come */
    _Atomic int request, answered;

    double looped, awake, beaten; /* clock_seconds of: the last loop; since when I have not been
                                     stopped; the last heartbeat */
    bool overdue, failed;         /* reasons for a case */
    bool open;                    /* a case is */
    double deadline;
    double ending; /* when to end after another one's MESSAGE_ABORT; 0: none came */
};

static double least(double a, double b) {
    return a < b ? a : b;
}

static bool dead(const struct watchdog *w, int rank) {
    return rank != w->rank && w->seats[rank].presence != PRESENT;
}

static bool i_judge(const struct watchdog *w) {
    if (w->rank == 0) return true;
    return dead(w, 0) && (w->rank == w->deputy || dead(w, w->deputy));
}

/* The other ranks' words are gone. */
static void forget_answers(struct watchdog *w) {
    for (int r = 0; r < w->size; r++) {
        rings_copy_free(&w->seats[r].rings);
        free(w->seats[r].answer);
        w->seats[r].answer = NULL;
        w->seats[r].asked = false;
    }
}

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

static void tell(struct watchdog *w, int rank, enum message_kind kind, const void *data,
                 size_t bytes) {
    if (w->seats[rank].link.fd < 0) return;
    if (!watch_send(&w->seats[rank].link, kind, data, bytes)) lose_broken(w, rank);
}

static void tell_all(struct watchdog *w, enum message_kind kind) {
    for (int r = 0; r < w->size; r++) tell(w, r, kind, NULL, 0);
}

/* To those who may judge. */
static void tell_judges(struct watchdog *w, enum message_kind kind) {
    if (w->rank != 0) tell(w, 0, kind, NULL, 0);
    if (w->rank != w->deputy) tell(w, w->deputy, kind, NULL, 0);
}

static void keep_answer(struct watchdog *w, int rank, void *bytes, size_t count) {
    struct seat *seat = &w->seats[rank];
    rings_copy_free(&seat->rings);
    free(seat->answer);
    seat->answer = bytes;
    seat->asked = false;
    if (bytes && rings_unpack(&seat->rings, bytes, count) == STATUS_OK) return;
    free(seat->answer);
    seat->answer = NULL;
}

static void answer(struct watchdog *w, int rank) {
    size_t bytes = 0;
    void *data = rings_pack(w->rings, &bytes);
    if (data) tell(w, rank, MESSAGE_RINGS, data, bytes);
    free(data);
}

static void take_answer(struct watchdog *w, int rank, const struct watch_message *message) {
    if (!w->open) return;
    void *copy = malloc(message->bytes + 1);
    if (copy) memcpy(copy, message->data, message->bytes);
    keep_answer(w, rank, copy, message->bytes);
}

/* A rank ends the job: what it pulls along is no hang, but nobody may stay behind. */
static void expect_end(struct watchdog *w) {
    if (w->ending > 0.0) return;
    w->ending = clock_seconds() + END_SECONDS;
    if (w->rank == 0 || w->rank == w->deputy) tell_all(w, MESSAGE_ABORT);
}

static void obey(struct watchdog *w, int rank, const struct watch_message *message) {
    switch ((enum message_kind)message->kind) {
    case MESSAGE_BEAT:
        break;
    case MESSAGE_OVERDUE:
        w->overdue = true;
        break;
    case MESSAGE_FAILED:
        w->failed = true;
        break;
    case MESSAGE_COLLECT:
        answer(w, rank);
        break;
    case MESSAGE_RINGS:
        take_answer(w, rank, message);
        break;
    case MESSAGE_VERDICT:
        _exit(EXIT_HUNG);
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
    if (w->open) until = least(until, w->deadline);
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
        if (w->seats[r].link.out_bytes == 0) tell(w, r, MESSAGE_BEAT, NULL, 0);
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
    forget_answers(w);
    w->open = true;
    w->deadline = clock_seconds() + patience(w);
    for (int r = 0; r < w->size; r++) {
        struct seat *seat = &w->seats[r];
        if (seat->link.fd < 0 || seat->presence != PRESENT) continue;
        seat->asked = true;
        tell(w, r, MESSAGE_COLLECT, NULL, 0);
    }
    size_t bytes = 0;
    void *mine = rings_pack(w->rings, &bytes);
    keep_answer(w, w->rank, mine, bytes);
}

static void *end_anyway(void *unused) {
    (void)unused;
    sleep(END_SECONDS);
    _exit(EXIT_HUNG);
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
    tell_all(w, MESSAGE_VERDICT);
    if (w->end_job) w->end_job();
    _exit(EXIT_HUNG);
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
    w->overdue = w->failed = false;
    if (verdict_decide(&verdict, ranks, w->size, w->rank, limit) == STATUS_OK) {
        if (verdict.kind != VERDICT_NONE) pronounce(w, &verdict, ranks);
        verdict_free(&verdict);
    }
    forget_answers(w);
}

static void judge(struct watchdog *w) {
    bool reason = w->overdue || w->failed || anyone(w, GONE) || anyone(w, SILENT);
    if (!i_judge(w) || w->ending > 0.0) return;
    if (!w->open && reason) open_case(w);
    if (w->open && (all_answered(w) || clock_seconds() >= w->deadline)) close_case(w);
}

/* Lets the others read the goodbye: a socket closed with bytes to read would take it back. */
static void say_goodbye(struct watchdog *w) {
    double until = clock_seconds() + least(0.5, w->seconds);
    tell_all(w, MESSAGE_BYE);
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
        w->failed = true;
        tell_judges(w, MESSAGE_FAILED);
    }
    if (request == REQUEST_ABORT) {
        expect_end(w);
        tell_judges(w, MESSAGE_ABORT);
    }
    if (request == REQUEST_CLOSE) say_goodbye(w);
    atomic_store(&w->answered, request);
    return request != REQUEST_CLOSE;
}

static void *watch(void *context) {
    struct watchdog *w = context;
    while (serve_request(w)) {
        wait_for_news(w);
        notice_own_stop(w);
        if (w->ending > 0.0 && w->looped > w->ending) _exit(EXIT_HUNG);
        beat(w);
        notice_silence(w);
        judge(w);
    }
    return NULL;
}

static void ask_thread(struct watchdog *w, enum request request, double seconds) {
    double until = clock_seconds() + seconds;
    atomic_store(&w->request, request);
    while (write(w->wake[1], "", 1) < 0 && errno == EINTR) continue;
    while (atomic_load(&w->answered) != (int)request && clock_seconds() < until)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

void watchdog_accuse(struct watchdog *w) {
    if (!w || !w->started) return;
    double wait = least(0.5 * w->seconds, 1.0);
    ask_thread(w, REQUEST_ACCUSE, wait);
    nanosleep(
        &(struct timespec){.tv_sec = wait >= 1.0, .tv_nsec = wait >= 1.0 ? 0 : (long)(1e9 * wait)},
        NULL);
    ask_thread(w, REQUEST_ABORT, wait);
}

static void free_all(struct watchdog *w) {
    for (int r = 0; w->seats && r < w->size; r++) watch_link_close(&w->seats[r].link);
    if (w->seats) forget_answers(w);
    for (int i = 0; i < 2; i++)
        if (w->wake[i] >= 0) close(w->wake[i]);
    free(w->seats);
    free(w->judged);
    free(w->polled);
    free(w->hosts);
    free(w->folder);
    free(w);
}

void watchdog_close(struct watchdog *w) {
    if (!w) return;
    if (w->started) {
        ask_thread(w, REQUEST_CLOSE, 2.0);
        pthread_join(w->thread, NULL);
    } else {
        say_goodbye(w);
    }
    free_all(w);
}

static struct watchdog *create(const struct comm *world, struct rings *rings,
                               const struct watchdog_options *options) {
    struct watchdog *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    size_t size = (size_t)world->size;
    *w = (struct watchdog){.rank = world->rank,
                           .size = world->size,
                           .seconds = options->seconds,
                           .tick = least(options->seconds / 8.0, 5.0),
                           .end_job = options->end_job,
                           .rings = rings,
                           .wake = {-1, -1}};
    w->hosts = calloc(size, sizeof *w->hosts);
    w->seats = calloc(size, sizeof *w->seats);
    w->judged = calloc(size, sizeof *w->judged);
    w->polled = calloc(size + 1, sizeof *w->polled);
    w->folder = options->folder ? strdup(options->folder) : NULL;
    bool whole = w->hosts && w->seats && w->judged && w->polled && (w->folder || !options->folder);
    for (size_t r = 0; w->seats && r < size; r++)
        w->seats[r] = (struct seat){.link = {.fd = -1}, .presence = UNKNOWN};
    if (whole && pipe2(w->wake, O_CLOEXEC | O_NONBLOCK) == 0) return w;
    free_all(w);
    return NULL;
}

/* The first rank of another host than rank 0's, so that a host that goes takes only one judge. */
static int choose_deputy(const struct watchdog *w) {
    for (int r = 1; r < w->size; r++)
        if (strcmp(w->hosts[r], w->hosts[0]) != 0) return r;
    return 1;
}

/* Judges have a connection a rank: the soft limit is often 1024. */
static void allow_descriptors(int ranks) {
    struct rlimit limit;
    rlim_t needed = (rlim_t)ranks + 256;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed) return;
    limit.rlim_cur = limit.rlim_max < needed ? limit.rlim_max : needed;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* Everybody learns where both judges listen, and connects; a rank that can't says so in `status`,
 * and goes on through what is collective. */
static enum status connect_all(struct watchdog *w, struct comm *world, struct stream *stream) {
    struct watch_link *links = calloc((size_t)w->size, sizeof *links);
    bool *expected = calloc((size_t)w->size, sizeof *expected);
    struct watch_address judges[2] = {0};
    const int ranks[2] = {0, w->deputy};
    int listener = -1, mine = w->rank == 0 ? 0 : w->rank == w->deputy ? 1 : -1;
    enum status status = links && expected
                             ? STATUS_OK
                             : status_fail(STATUS_MEMORY, "no memory for %d links", w->size);
    for (int r = 0; links && r < w->size; r++) links[r].fd = -1;
    if (mine >= 0 && status == STATUS_OK) status = watch_listen(&listener, &judges[mine], w->size);
    for (int i = 0; i < 2; i++)
        comm_broadcast(world, stream, &judges[i], sizeof judges[i], DTYPE_U8, ranks[i]);
    for (int i = 0; i < 2 && status == STATUS_OK; i++)
        if (w->rank != 0 && w->rank != ranks[i])
            status = watch_connect(&links[ranks[i]], &judges[i], w->rank, CONNECT_SECONDS);
    for (int r = 0; expected && r < w->size; r++) expected[r] = r != 0 && r != w->rank;
    if (mine >= 0 && status == STATUS_OK)
        status =
            watch_accept(links, expected, w->size, listener, judges[mine].token, CONNECT_SECONDS);
    if (listener >= 0) close(listener);
    for (int r = 0; links && r < w->size; r++) w->seats[r].link = links[r];
    free(links);
    free(expected);
    return status;
}

/* Signals are the main thread's. */
static enum status start_thread(struct watchdog *w) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&w->thread, NULL, watch, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) return status_fail(STATUS_MEMORY, "the watchdog has no thread: %s", strerror(error));
    w->started = true;
    return STATUS_OK;
}

/* 1 when every rank's status is OK. */
static int32_t agree(struct comm *world, struct stream *stream, enum status status) {
    int32_t good = status == STATUS_OK;
    comm_all_reduce(world, stream, &good, 1, DTYPE_I32, COMM_MIN);
    return good;
}

static enum status open_connected(struct watchdog *w, struct comm *world, struct stream *stream) {
    char host[HOST_BYTES] = "";
    gethostname(host, sizeof host - 1);
    comm_all_gather(world, stream, w->hosts, host, HOST_BYTES, DTYPE_U8);
    w->deputy = choose_deputy(w);
    if (w->rank == 0 || w->rank == w->deputy) allow_descriptors(w->size);
    enum status status = connect_all(w, world, stream);
    if (!agree(world, stream, status))
        return status != STATUS_OK ? status
                                   : status_fail(STATUS_PEER, "watchdogs of other ranks can't be "
                                                              "reached");
    w->looped = w->awake = clock_seconds();
    for (int r = 0; r < w->size; r++) {
        w->seats[r].heard = w->looped;
        if (w->seats[r].link.fd >= 0 || r == w->rank) w->seats[r].presence = PRESENT;
    }
    status = start_thread(w);
    if (agree(world, stream, status) || status != STATUS_OK) return status;
    return status_fail(STATUS_MEMORY, "another rank's watchdog has no thread");
}

enum status watchdog_open(struct watchdog **watchdog, struct comm *world, struct rings *rings,
                          const struct watchdog_options *options) {
    assert(world->size > 1 && options->seconds > 0.0);
    struct stream stream;
    stream_open_cpu(&stream, 1);
    *watchdog = NULL;
    struct watchdog *w = create(world, rings, options);
    enum status status =
        w ? STATUS_OK
          : status_fail(STATUS_MEMORY, "no memory for the watchdog of rank %d", world->rank);
    bool good = agree(world, &stream, status);
    if (good) status = open_connected(w, world, &stream);
    if (status == STATUS_OK && !good)
        status = status_fail(STATUS_MEMORY, "another rank has no memory for its watchdog");
    enum status failed = stream_check(&stream);
    if (failed != STATUS_OK) status = failed;
    if (status == STATUS_OK)
        *watchdog = w;
    else
        watchdog_close(w);
    return status;
}
