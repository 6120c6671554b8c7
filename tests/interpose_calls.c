/* Loaded before the C library (LD_PRELOAD) by tests of `strata train`: counts the calls with which
 * a rank changes its folder of checkpoints, whatever thread makes them. STRATA_TEST_CALL_LOG=FILE
 * a line for each: rank, number from 1, call, path STRATA_TEST_KILL_AT=R,N      rank R kills itself
 * inside its Nth; a write is half done by then A save makes its calls one after another, so the Nth
 * is the same one in every run. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INTERPOSED __attribute__((visibility("default")))
#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

static int rank_here(void) {
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    return rank ? atoi(rank) : 0;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether the process ends in this call: the caller may begin it. */
static bool is_last(const char *call, const char *path) {
    static atomic_int calls;
    const char *log = getenv("STRATA_TEST_CALL_LOG"), *at = getenv("STRATA_TEST_KILL_AT");
    char *comma = NULL;
    if (!strstr(path, "/checkpoints")) return false;
    int number = atomic_fetch_add(&calls, 1) + 1;
    bool last = at && strtol(at, &comma, 10) == rank_here() && atoi(comma + 1) == number;
    FILE *file = log && (!at || last) ? fopen(log, "a") : NULL;
    if (file) {
        fprintf(file, "%d %d %s %s\n", rank_here(), number, call, path);
        fclose(file);
    }
    return last;
}

static bool is_last_of(const char *call, int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t bytes = readlink(link, path, sizeof path - 1);
    path[bytes < 0 ? 0 : bytes] = '\0';
    return is_last(call, path);
}

INTERPOSED ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t at) {
    bool last = is_last_of("write", descriptor);
    ssize_t done = syscall(SYS_pwrite64, descriptor, data, last ? bytes / 2 : bytes, at);
    if (last) die();
    return done;
}

INTERPOSED int fsync(int descriptor) {
    if (is_last_of("sync", descriptor)) die();
    return (int)syscall(SYS_fsync, descriptor);
}

INTERPOSED int ftruncate(int descriptor, off_t bytes) {
    if (is_last_of("truncate", descriptor)) die();
    return (int)syscall(SYS_ftruncate, descriptor, bytes);
}

INTERPOSED int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    if (flags & O_CREAT && is_last("create", path)) die();
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

INTERPOSED int mkdir(const char *path, mode_t mode) {
    if (is_last("mkdir", path)) die();
    return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

INTERPOSED int rename(const char *from, const char *to) {
    if (is_last("rename", to)) die();
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

INTERPOSED int remove(const char *path) {
    if (is_last("remove", path)) die();
    return NEXT(int (*)(const char *), "remove")(path);
}
