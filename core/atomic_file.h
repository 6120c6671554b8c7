/* A file that appears whole or not at all: written beside its place under a temporary name, synced,
 * then renamed over what was there. */
#ifndef STRATA_CORE_ATOMIC_FILE_H
#define STRATA_CORE_ATOMIC_FILE_H

#include "kernels/base/status.h"
#include <stddef.h>
#include <stdint.h>

struct atomic_file {
    char *path;      /* owned; links followed */
    char *temporary; /* NULL while no file is open */
    int descriptor;
};

/* Creates `path`.tmp-N, with the permissions a new file gets, and takes `bytes` of disk for it (0
 * where the size isn't known): a disk that is too small is told here, not after hours. What a
 * symbolic link points to is replaced, not the link; anything at `path` but a regular file (a
 * device, a pipe, a folder) is refused. Like every failure below, STATUS_IO, naming the path and
 * the reason. */
enum status atomic_file_create(struct atomic_file *file, const char *path, uint64_t bytes);

/* Writes at a byte offset; offsets may come in any order. */
enum status atomic_file_write(struct atomic_file *file, uint64_t offset, const void *data,
                              size_t bytes);

/* Syncs, renames and syncs the directory: after STATUS_OK the new file is there for good, after a
 * failure the old one is untouched. Closes the file either way. */
enum status atomic_file_commit(struct atomic_file *file);

/* Removes the temporary file unless it was committed. May be called twice, and on a zeroed struct.
 */
void atomic_file_close(struct atomic_file *file);

/* All of it at once: `bytes` bytes become the file at `path`. */
enum status atomic_file_replace(const char *path, const void *data, size_t bytes);

/* fsync and ftruncate, called again where a signal interrupts them; -1 sets errno. */
int descriptor_sync(int descriptor);
int descriptor_cut(int descriptor, uint64_t bytes);

/* Writing over what is being read would lose it: STATUS_CONFIG when `out` is one of the inputs, by
 * whatever name or link. Paths that don't exist yet are none. */
enum status atomic_file_spares(const char *out, const char *const *inputs, int count);

#endif
