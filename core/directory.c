#define _GNU_SOURCE
#include "core/directory.h"

#include "core/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum status directory_sync(const char *path) {
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return status_fail(STATUS_IO, "can't open '%s': %s", path, strerror(errno));
    int code = descriptor_sync(descriptor);
    enum status status = code == 0
                             ? STATUS_OK
                             : status_fail(STATUS_IO, "can't sync '%s': %s", path, strerror(errno));
    close(descriptor);
    return status;
}

/* Bytes of the part of a path that names its parent, its last '/' included; 0 where it has none. */
static size_t parent_bytes(const char *path) {
    size_t bytes = strlen(path);
    while (bytes > 1 && path[bytes - 1] == '/') bytes--;
    while (bytes > 0 && path[bytes - 1] != '/') bytes--;
    return bytes;
}

/* The caller frees it. */
static enum status parent_of(const char *path, char **parent) {
    size_t bytes = parent_bytes(path);
    *parent = bytes ? strndup(path, bytes) : strdup(".");
    return *parent ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for a path");
}

enum status directory_sync_parent(const char *path) {
    char *parent;
    TRY(parent_of(path, &parent));
    enum status status = directory_sync(parent);
    free(parent);
    return status;
}

/* One folder; the one above it is there. A file system that can't sync folders has no promise to
 * give. */
static enum status make_one(const char *path) {
    struct stat found;
    if (mkdir(path, 0777) == 0) {
        (void)directory_sync_parent(path);
        return STATUS_OK;
    }
    int error = errno;
    if (stat(path, &found) != 0) return status_fail(STATUS_IO, "%s: %s", path, strerror(error));
    if (S_ISDIR(found.st_mode)) return STATUS_OK;
    return status_fail(STATUS_IO, "%s: a file is in the way of the folder", path);
}

enum status directory_make(const char *path) {
    char *part = strdup(path);
    if (!part) return status_fail(STATUS_MEMORY, "no memory for a path");
    enum status status = STATUS_OK;
    size_t bytes = strlen(part);
    while (bytes > 1 && part[bytes - 1] == '/') part[--bytes] = '\0';
    for (char *slash = part; status == STATUS_OK && (slash = strchr(slash + 1, '/'));) {
        if (slash[-1] == '/') continue;
        *slash = '\0';
        status = make_one(part);
        *slash = '/';
    }
    if (status == STATUS_OK) status = make_one(part);
    free(part);
    return status;
}

enum status directory_make_for(const char *path) {
    char *parent;
    TRY(parent_of(path, &parent));
    enum status status = directory_make(parent);
    free(parent);
    return status;
}
