#define _GNU_SOURCE
#include "core/atomic_file.h"

#include "core/directory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_ATTEMPTS = 100 };

static enum status fail_errno(const struct atomic_file *file, const char *verb) {
    return status_fail(STATUS_IO, "%s: can't %s it: %s", file->path, verb, strerror(errno));
}

int descriptor_sync(int descriptor) {
    int code;
    do code = fsync(descriptor);
    while (code != 0 && errno == EINTR);
    return code;
}

int descriptor_cut(int descriptor, uint64_t bytes) {
    int code;
    do code = ftruncate(descriptor, (off_t)bytes);
    while (code != 0 && errno == EINTR);
    return code;
}

/* A name that no other process has taken. */
static enum status create_temporary(struct atomic_file *file) {
    for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
        if (asprintf(&file->temporary, "%s.tmp-%ld-%d", file->path, (long)getpid(), attempt) < 0) {
            file->temporary = NULL;
            return status_fail(STATUS_MEMORY, "%s: no memory for a name", file->path);
        }
        file->descriptor = open(file->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file->descriptor >= 0) return STATUS_OK;
        free(file->temporary);
        file->temporary = NULL;
        if (errno != EEXIST) break;
    }
    return fail_errno(file, "create");
}

/* Filesystems that can't reserve say so, and are believed. */
static enum status reserve(struct atomic_file *file, uint64_t bytes) {
    if (bytes > INT64_MAX) return status_fail(STATUS_IO, "%s: too large for a file", file->path);
    if (bytes == 0) return STATUS_OK;
    int code;
    do code = fallocate(file->descriptor, 0, 0, (off_t)bytes);
    while (code != 0 && errno == EINTR);
    if (code == 0) return STATUS_OK;
    if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return STATUS_OK;
    return status_fail(STATUS_IO, "%s: can't reserve its %llu bytes: %s", file->path,
                       (unsigned long long)bytes, strerror(errno));
}

/* A rename would put a file where a device, a pipe or a symbolic link stands: those are refused,
 * and of a link the target is replaced. */
static enum status find_target(struct atomic_file *file) {
    struct stat found;
    if (lstat(file->path, &found) != 0) return STATUS_OK; /* nothing there, or create says why */
    if (S_ISLNK(found.st_mode)) {
        char *target = realpath(file->path, NULL);
        if (!target) return fail_errno(file, "follow");
        free(file->path);
        file->path = target;
        if (lstat(file->path, &found) != 0) return fail_errno(file, "follow");
    }
    if (S_ISREG(found.st_mode)) return STATUS_OK;
    return status_fail(STATUS_IO, "%s: not a regular file", file->path);
}

enum status atomic_file_create(struct atomic_file *file, const char *path, uint64_t bytes) {
    *file = (struct atomic_file){.path = strdup(path), .descriptor = -1};
    if (!file->path) return status_fail(STATUS_MEMORY, "%s: no memory for a name", path);
    enum status status = find_target(file);
    if (status == STATUS_OK) status = create_temporary(file);
    if (status == STATUS_OK) status = reserve(file, bytes);
    if (status != STATUS_OK) atomic_file_close(file);
    return status;
}

enum status atomic_file_write(struct atomic_file *file, uint64_t offset, const void *data,
                              size_t bytes) {
    assert(file->temporary);
    const char *from = data;
    while (bytes > 0) {
        ssize_t written = pwrite(file->descriptor, from, bytes, (off_t)offset);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return fail_errno(file, "write");
        if (written == 0) {
            errno = ENOSPC;
            return fail_errno(file, "write");
        }
        from += written;
        offset += (uint64_t)written;
        bytes -= (size_t)written;
    }
    return STATUS_OK;
}

enum status atomic_file_commit(struct atomic_file *file) {
    assert(file->temporary);
    enum status status = STATUS_OK;
    if (descriptor_sync(file->descriptor) != 0) status = fail_errno(file, "sync");
    int closed = close(file->descriptor); /* interrupted, it is closed all the same: close(2) */
    file->descriptor = -1;
    if (status == STATUS_OK && closed != 0 && errno != EINTR) status = fail_errno(file, "close");
    if (status == STATUS_OK && rename(file->temporary, file->path) != 0)
        status = fail_errno(file, "rename");
    if (status == STATUS_OK) {
        free(file->temporary);
        file->temporary = NULL;
        /* The rename itself must outlive a crash too. A folder that can't be opened or synced (some
         * network file systems) has no such promise to give. */
        (void)directory_sync_parent(file->path);
    }
    atomic_file_close(file);
    return status;
}

void atomic_file_close(struct atomic_file *file) {
    if (file->temporary) {
        if (file->descriptor >= 0) close(file->descriptor);
        unlink(file->temporary);
    }
    free(file->temporary);
    free(file->path);
    *file = (struct atomic_file){.descriptor = -1};
}

enum status atomic_file_replace(const char *path, const void *data, size_t bytes) {
    struct atomic_file file = {0};
    enum status status = atomic_file_create(&file, path, bytes);
    if (status == STATUS_OK) status = atomic_file_write(&file, 0, data, bytes);
    if (status == STATUS_OK) status = atomic_file_commit(&file);
    atomic_file_close(&file);
    return status;
}

enum status atomic_file_spares(const char *out, const char *const *inputs, int count) {
    struct stat target, source;
    if (stat(out, &target) != 0) return STATUS_OK;
    for (int i = 0; i < count; i++)
        if (stat(inputs[i], &source) == 0 && source.st_dev == target.st_dev &&
            source.st_ino == target.st_ino)
            return status_fail(STATUS_CONFIG, "%s is both source and destination", out);
    return STATUS_OK;
}
