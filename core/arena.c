#define _GNU_SOURCE
#include "core/arena.h"

#include "kernels/base/units.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void arena_count(struct arena *arena, const char *name) {
    /* not NULL, so that address arithmetic on what is pushed stays defined */
    *arena = (struct arena){.name = name, .base = (char *)ARENA_ALIGN, .counting = true};
}

enum status arena_create(struct arena *arena, const char *name, size_t bytes) {
    *arena = (struct arena){.name = name, .capacity = bytes};
    if (bytes == 0) return STATUS_OK;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        arena->capacity = 0;
        return status_fail(STATUS_MEMORY, "no memory for arena '%s' (%.1f MiB)", name,
                           to_mib(bytes));
    }
    madvise(base, bytes, MADV_HUGEPAGE); /* advice: fewer TLB misses where the kernel agrees */
    arena->base = base;
    return STATUS_OK;
}

/* -1 with errno set. */
static int create_nameless(const char *directory, size_t bytes) {
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/.strata-XXXXXX", directory);
    if (length < 0 || (size_t)length >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int file = mkostemp(path, O_CLOEXEC);
    if (file < 0) return -1;
    unlink(path);
    int error = posix_fallocate(file, 0, (off_t)bytes);
    if (error == 0) return file;
    close(file);
    errno = error;
    return -1;
}

enum status arena_map(struct arena *arena, const char *name, size_t bytes, const char *directory) {
    *arena = (struct arena){.name = name, .capacity = bytes, .mapped = true};
    if (bytes == 0) return STATUS_OK;
    int file = create_nameless(directory, bytes);
    void *base =
        file < 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    int error = errno;
    if (file >= 0) close(file);
    if (base == MAP_FAILED) {
        arena->capacity = 0;
        return status_fail(STATUS_IO, "%s: no file of %.1f MiB for %s: %s", directory,
                           to_mib(bytes), name, strerror(error));
    }
    arena->base = base;
    return STATUS_OK;
}

void arena_rest(const struct arena *arena) {
    if (arena->mapped && arena->base) madvise(arena->base, arena->capacity, MADV_DONTNEED);
}

void arena_free(struct arena *arena) {
    if (arena->base && !arena->counting) munmap(arena->base, arena->capacity);
    *arena = (struct arena){.name = arena->name};
}

void *arena_push(struct arena *arena, size_t bytes) {
    size_t start = arena->used, end;
    bool overflows = __builtin_add_overflow(start, bytes, &end) ||
                     __builtin_add_overflow(end, ARENA_ALIGN - 1, &end);
    arena->used = overflows ? SIZE_MAX : end / ARENA_ALIGN * ARENA_ALIGN;
    if (arena->used > arena->peak) arena->peak = arena->used;
    if (arena->counting && overflows) return arena->base; /* no address is so far off */
    if (!arena->counting && arena->used > arena->capacity) {
        fprintf(stderr, "bug: arena '%s' of %zu bytes asked for %zu at %zu\n", arena->name,
                arena->capacity, bytes, start);
        abort();
    }
    return arena->base + start;
}

void arena_release(struct arena *arena, size_t mark) {
    assert(mark <= arena->used);
    arena->used = mark;
}
