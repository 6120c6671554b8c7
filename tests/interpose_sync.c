/* Loaded before the C library (LD_PRELOAD) by tests of `strata train`, so that what happens to a
 * run happens at a moment that the test chose. What is about files concerns those in folders of
 * unfinished checkpoints alone.
 *
 *   STRATA_TEST_KILL_AT_SYNC=N   the process kills itself at its Nth sync
 *
 *   STRATA_TEST_SYNC_MS=N        a sync takes so many milliseconds longer
 *
 *   STRATA_TEST_MEMINFO=FILE     is what is read as /proc/meminfo
 *
 *   STRATA_TEST_STOP_AT=N,K      it stops itself (SIGSTOP) when it next looks at the clock for the
 *                                Kth time after its Nth line of metrics.jsonl
 *
 *   STRATA_TEST_INTERRUPT=1      every other call is interrupted by a signal (EINTR)
 *
 *   STRATA_TEST_SYNC_LOG=FILE    a line for every sync of a folder that holds checkpoints/, or what
 *                                STRATA_TEST_SYNC_NAME names */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define INTERPOSED __attribute__((visibility("default")))

static bool is_in(int descriptor, const char *part) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t bytes = readlink(link, path, sizeof path - 1);
    path[bytes < 0 ? 0 : bytes] = '\0';
    return strstr(path, part) != NULL;
}

static bool in_checkpoint(int descriptor) {
    return is_in(descriptor, "/.tmp-start-");
}

/* True every other time. One thread writes checkpoints. */
static bool interrupted(int descriptor) {
    static unsigned calls;
    if (!getenv("STRATA_TEST_INTERRUPT") || !in_checkpoint(descriptor) || ++calls % 2 == 0)
        return false;
    errno = EINTR;
    return true;
}

static void write_down(int descriptor) {
    const char *log = getenv("STRATA_TEST_SYNC_LOG");
    const char *name = getenv("STRATA_TEST_SYNC_NAME");
    if (!log || faccessat(descriptor, name ? name : "checkpoints", F_OK, 0) != 0) return;
    FILE *file = fopen(log, "a");
    if (!file) return;
    fputs("synced\n", file);
    fclose(file);
}

INTERPOSED int fsync(int descriptor) {
    static int syncs;
    write_down(descriptor);
    const char *longer = getenv("STRATA_TEST_SYNC_MS");
    if (longer && in_checkpoint(descriptor))
        nanosleep(&(struct timespec){atoi(longer) / 1000, atoi(longer) % 1000 * 1000000L}, NULL);
    const char *at = getenv("STRATA_TEST_KILL_AT_SYNC");
    if (at && in_checkpoint(descriptor) && ++syncs == atoi(at)) kill(getpid(), SIGKILL);
    return interrupted(descriptor) ? -1 : (int)syscall(SYS_fsync, descriptor);
}

INTERPOSED FILE *fopen(const char *path, const char *mode) {
    FILE *(*next)(const char *, const char *) =
        (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen");
    const char *other = strcmp(path, "/proc/meminfo") == 0 ? getenv("STRATA_TEST_MEMINFO") : NULL;
    return next(other ? other : path, mode);
}

INTERPOSED ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t at) {
    return interrupted(descriptor) ? -1 : syscall(SYS_pwrite64, descriptor, data, bytes, at);
}

INTERPOSED int ftruncate(int descriptor, off_t bytes) {
    return interrupted(descriptor) ? -1 : (int)syscall(SYS_ftruncate, descriptor, bytes);
}

INTERPOSED int fallocate(int descriptor, int mode, off_t at, off_t bytes) {
    return interrupted(descriptor) ? -1 : (int)syscall(SYS_fallocate, descriptor, mode, at, bytes);
}

static int lines; /* of metrics.jsonl */

INTERPOSED int fflush(FILE *file) {
    int (*next)(FILE *) = (int (*)(FILE *))dlsym(RTLD_NEXT, "fflush");
    int code = next(file);
    if (file && getenv("STRATA_TEST_STOP_AT")) lines += is_in(fileno(file), "/metrics.jsonl");
    return code;
}

INTERPOSED int clock_gettime(clockid_t clock, struct timespec *now) {
    static int calls;
    const char *at = lines > 0 ? getenv("STRATA_TEST_STOP_AT") : NULL;
    char *after;
    if (at && lines >= strtol(at, &after, 10) && ++calls == atoi(after + 1)) raise(SIGSTOP);
    return (int)syscall(SYS_clock_gettime, clock, now);
}
