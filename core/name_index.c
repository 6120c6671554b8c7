#include "core/name_index.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { FIRST_CAPACITY = 64 };

static uint32_t hash_name(const char *name, size_t bytes) {
    return (uint32_t)XXH3_64bits(name, bytes);
}

/* The slot that holds the name, or the free one where it belongs. The table is never full. */
static struct name_slot *find_slot(const struct name_index *index, const char *name, size_t bytes,
                                   uint32_t hash) {
    size_t mask = index->capacity - 1;
    for (size_t at = hash & mask;; at = (at + 1) & mask) {
        struct name_slot *slot = &index->slots[at];
        if (!slot->name) return slot;
        if (slot->hash == hash && slot->bytes == bytes && memcmp(slot->name, name, bytes) == 0)
            return slot;
    }
}

static enum status grow(struct name_index *index) {
    struct name_index larger = {.capacity = index->capacity ? 2 * index->capacity : FIRST_CAPACITY,
                                .count = index->count};
    larger.slots = calloc(larger.capacity, sizeof *larger.slots);
    if (!larger.slots)
        return status_fail(STATUS_MEMORY, "no memory for an index of %zu names", index->count);
    for (size_t i = 0; i < index->capacity; i++) {
        const struct name_slot *old = &index->slots[i];
        if (old->name) *find_slot(&larger, old->name, old->bytes, old->hash) = *old;
    }
    free(index->slots);
    *index = larger;
    return STATUS_OK;
}

enum status name_index_add(struct name_index *index, const char *name, size_t bytes, int32_t value,
                           bool *duplicate) {
    if (2 * (index->count + 1) > index->capacity) TRY(grow(index));
    uint32_t hash = hash_name(name, bytes);
    struct name_slot *slot = find_slot(index, name, bytes, hash);
    *duplicate = slot->name != NULL;
    if (*duplicate) return STATUS_OK;
    *slot = (struct name_slot){.name = name, .bytes = bytes, .hash = hash, .value = value};
    index->count++;
    return STATUS_OK;
}

int32_t name_index_find(const struct name_index *index, const char *name, size_t bytes) {
    if (index->count == 0) return -1;
    const struct name_slot *slot = find_slot(index, name, bytes, hash_name(name, bytes));
    return slot->name ? slot->value : -1;
}

void name_index_free(struct name_index *index) {
    free(index->slots);
    *index = (struct name_index){0};
}
