/* Names to small integers: an open-addressing hash table over names that someone else owns. */
#ifndef STRATA_CORE_NAME_INDEX_H
#define STRATA_CORE_NAME_INDEX_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct name_slot {
    const char *name; /* NULL while free */
    size_t bytes;
    uint32_t hash;
    int32_t value;
};

struct name_index {
    struct name_slot *slots;
    size_t capacity; /* 0 or a power of two */
    size_t count;
};

/* Puts `name` (borrowed: it must outlive the index, and needs no NUL) under `value`.
 * Sets *duplicate, and changes nothing, when the name is there already. */
enum status name_index_add(struct name_index *index, const char *name, size_t bytes, int32_t value,
                           bool *duplicate);

/* -1 when absent. */
int32_t name_index_find(const struct name_index *index, const char *name, size_t bytes);

/* May be called twice, and on a zeroed struct. */
void name_index_free(struct name_index *index);

#endif
