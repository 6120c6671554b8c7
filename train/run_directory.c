#define _GNU_SOURCE
#include "train/run_directory.h"

#include "core/atomic_file.h"
#include "core/directory.h"
#include "core/log.h"
#include "parallel/checkpoint_claim.h"
#include "train/checkpoints.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOCK_TRIES = 4 };

/* Whether the file that was locked is still the one of that name. */
static bool is_at(int descriptor, const char *path) {
    struct stat locked, named;
    return fstat(descriptor, &locked) == 0 && stat(path, &named) == 0 &&
           locked.st_dev == named.st_dev && locked.st_ino == named.st_ino;
}

/* The lock lasts as long as the process; its descriptor is left to the system to close. */
static enum status lock(const char *out) {
    char path[4096], checkpoints[4096];
    const struct checkpoint_start start = checkpoint_start_of_job();
    snprintf(path, sizeof path, "%s/lock", out);
    checkpoints_directory(out, checkpoints);
    for (int i = 0; i < LOCK_TRIES; i++) {
        int descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
        if (descriptor < 0) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
        bool held = flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
        /* a file system without locks is no reason not to train */
        if (!held && is_at(descriptor, path)) return STATUS_OK;
        close(descriptor);
        if (!held) continue; /* who had it was just taken over from */
        if (!checkpoint_claim_is_former(checkpoints, &start)) break;
        log_line(LOG_WARN, "event=takeover job=%lld restart=%lld out=%s", (long long)start.job,
                 (long long)start.restart, log_value(&(struct log_text){0}, out));
        unlink(path); /* the former start keeps a lock that has no name any more */
    }
    return status_fail(STATUS_CONFIG, "train.out: another process is training in %s", out);
}

enum status run_directory_take(const char *out) {
    enum status status = directory_make(out);
    if (status != STATUS_OK) return status_context(status, "train.out");
    return lock(out);
}

enum status run_directory_store_config(const char *out, const struct config_table *tables) {
    char path[4096], *yaml = NULL;
    TRY(config_dump(tables, RUN_TABLES, &yaml));
    snprintf(path, sizeof path, "%s/config.yaml", out);
    enum status status = atomic_file_replace(path, yaml, strlen(yaml));
    free(yaml);
    return status;
}
