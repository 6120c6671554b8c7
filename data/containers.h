/* Growing arrays and the two hash tables of the tokenizers: byte string -> int, and pair of ints
 * -> (rank, result). They free with the owner's close; failure to grow is STATUS_MEMORY. */
#ifndef STRATA_DATA_CONTAINERS_H
#define STRATA_DATA_CONTAINERS_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Makes room for `need` elements of `size` bytes at *array, growing by half; false when the memory
 * is not there. `array` is a pointer to the array's pointer. */
bool array_reserve(void *array, size_t *capacity, size_t need, size_t size);

struct byte_buffer {
    char *data; /* owned */
    size_t count, capacity;
};
bool buffer_append(struct byte_buffer *buffer, const char *data, size_t bytes);
void buffer_free(struct byte_buffer *buffer);

/* Byte strings, each with an int32 value. The strings are copied and stay where they are. */
struct string_slot {
    uint32_t hash, bytes;
    size_t offset; /* into blob */
    int32_t value; /* -1 marks a free slot */
};
struct string_map {
    struct byte_buffer blob;
    struct string_slot *slots;
    size_t count, capacity; /* capacity is 0 or a power of two */
};
/* Adds or replaces. `value` is not negative. */
enum status string_map_put(struct string_map *map, const char *text, size_t bytes, int32_t value);
int32_t string_map_get(const struct string_map *map, const char *text, size_t bytes); /* or -1 */
void string_map_free(struct string_map *map);

/* Two symbols that may be joined: the smaller rank first. */
struct pair_slot {
    int32_t left, right; /* left is INT32_MIN in a free slot */
    int32_t rank, result;
};
struct pair_map {
    struct pair_slot *slots;
    size_t count, capacity; /* capacity is 0 or a power of two */
    int shift;              /* 64 - log2(capacity): the index is the hash's high bits */
};
enum { PAIR_NONE = INT32_MAX }; /* the rank of a pair that is never joined */

enum status pair_map_reserve(struct pair_map *map, size_t count);
/* Adds or replaces. */
enum status pair_map_put(struct pair_map *map, int32_t left, int32_t right, int32_t rank,
                         int32_t result);
/* All `count` pairs by rank, those of one rank by left and right; the caller frees them. */
enum status pair_map_sorted(const struct pair_map *map, struct pair_slot **out);
void pair_map_free(struct pair_map *map);

static inline size_t pair_hash(const struct pair_map *map, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return (size_t)((key * 0x9E3779B97F4A7C15u) >> map->shift);
}

/* NULL when the pair is not there. */
static inline const struct pair_slot *pair_map_get(const struct pair_map *map, int32_t left,
                                                   int32_t right) {
    if (map->capacity == 0) return NULL;
    for (size_t at = pair_hash(map, left, right);; at = (at + 1) & (map->capacity - 1)) {
        const struct pair_slot *slot = &map->slots[at];
        if (slot->left == left && slot->right == right) return slot;
        if (slot->left == INT32_MIN) return NULL;
    }
}

#endif
