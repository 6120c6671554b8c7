#define _GNU_SOURCE
#include "train/run_directory.h"

#include "core/atomic_file.h"
#include "core/directory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* The lock lasts as long as the process; its descriptor is left to the system to close. */
static enum status lock(const char *out) {
    char path[4096];
    snprintf(path, sizeof path, "%s/lock", out);
    int descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    if (descriptor < 0) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    if (flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(descriptor);
        return status_fail(STATUS_CONFIG, "train.out: another process is training in %s", out);
    }
    return STATUS_OK; /* a file system without locks is no reason not to train */
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
