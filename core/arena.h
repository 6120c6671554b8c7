/* A region of memory with one lifetime, handed out by bumping an offset.
 *
 * Every layout function runs twice with the same code: on a counting arena (arena_count) that owns
 * no memory and returns addresses nobody may read, to learn the bytes, and on a real one of that
 * size. So a plan and the program can't disagree, and nothing is allocated after "ready".
 *
 *     +-----------+-----------+---------------------+
 *     | push 0    | push 1    |  free ...           |
 *     +-----------+-----------+---------------------+
 *     base                    ^ used                ^ capacity
 */
#ifndef STRATA_CORE_ARENA_H
#define STRATA_CORE_ARENA_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>

enum { ARENA_ALIGN = 64 }; /* a cache line and an AVX-512 register */

struct arena {
    const char *name; /* in error messages: "weights", "activations", ... */
    char *base;       /* while counting: an address to count from */
    size_t used, peak, capacity;
    bool counting;
    bool mapped; /* on a file */
};

/* A counting arena: arena_push only adds up; what passes SIZE_MAX stays there. */
void arena_count(struct arena *arena, const char *name);

/* Allocates `bytes`, zeroed by the system lazily. STATUS_MEMORY names the arena and the size. */
enum status arena_create(struct arena *arena, const char *name, size_t bytes);

/* The same in a file of `directory` that has no name, and is gone when the arena is: what is not in
 * use need not be in memory. Its room is taken at once. STATUS_IO names the directory. */
enum status arena_map(struct arena *arena, const char *name, size_t bytes, const char *directory);

/* What is in memory of an arena on a file goes back to it; nothing is lost. */
void arena_rest(const struct arena *arena);

/* Gives the memory back; may be called twice. */
void arena_free(struct arena *arena);

/* `bytes` aligned to ARENA_ALIGN; never NULL. Running out of an arena that was
 * measured with the same code is a bug, and asserts. */
void *arena_push(struct arena *arena, size_t bytes);

/* Marks and releases: everything pushed after `mark` is free again. */
static inline size_t arena_mark(const struct arena *arena) {
    return arena->used;
}
void arena_release(struct arena *arena, size_t mark);

#endif
