/* Loaded before the C library (LD_PRELOAD) by tests of `strata train`, so that what happens to a
 * writer of checkpoints happens at a moment that the test chose. It concerns files in folders of
 * unfinished checkpoints alone.
 *   STRATA_TEST_KILL_AT_SYNC=N   the process kills itself at its Nth sync
 *   STRATA_TEST_INTERRUPT=1      every other call is interrupted by a signal (EINTR)
 *   STRATA_TEST_SYNC_LOG=FILE    a line for every sync of a folder that holds checkpoints/, or what
 *                                STRATA_TEST_SYNC_NAME names */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INTERPOSED __attribute__((visibility("default")))

static bool in_checkpoint(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t bytes = readlink(link, path, sizeof path - 1);
    path[bytes < 0 ? 0 : bytes] = '\0';
    return strstr(path, "/.tmp-start-") != NULL;
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
    const char *at = getenv("STRATA_TEST_KILL_AT_SYNC");
    if (at && in_checkpoint(descriptor) && ++syncs == atoi(at)) kill(getpid(), SIGKILL);
    return interrupted(descriptor) ? -1 : (int)syscall(SYS_fsync, descriptor);
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
