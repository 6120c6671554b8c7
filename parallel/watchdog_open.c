#define _GNU_SOURCE
#include "parallel/watchdog_internal.h"

#include "kernels/base/clock.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { CONNECT_SECONDS = 10 };

static void free_all(struct watchdog *w) {
    for (int r = 0; w->seats && r < w->size; r++) watch_link_close(&w->seats[r].link);
    if (w->seats) watchdog_forget_answers(w);
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
        watchdog_ask(w, REQUEST_CLOSE, 2.0);
        pthread_join(w->thread, NULL);
    } else {
        watchdog_say_goodbye(w);
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
    int error = pthread_create(&w->thread, NULL, watchdog_loop, w);
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
    char host[WATCHDOG_HOST_BYTES] = "";
    gethostname(host, sizeof host - 1);
    comm_all_gather(world, stream, w->hosts, host, WATCHDOG_HOST_BYTES, DTYPE_U8);
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
