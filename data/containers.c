#include "data/containers.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

bool array_reserve(void *array, size_t *capacity, size_t need, size_t size) {
    if (need <= *capacity) return true;
    size_t wanted = *capacity + *capacity / 2;
    if (wanted < need) wanted = need;
    if (wanted < 16) wanted = 16;
    if (wanted > SIZE_MAX / size) return false;
    void *old, *grown;
    memcpy(&old, array, sizeof old);
    grown = realloc(old, wanted * size);
    if (!grown) return false;
    memcpy(array, &grown, sizeof grown);
    *capacity = wanted;
    return true;
}

bool buffer_append(struct byte_buffer *buffer, const char *data, size_t bytes) {
    if (bytes == 0) return true;
    if (!array_reserve(&buffer->data, &buffer->capacity, buffer->count + bytes, 1)) return false;
    memcpy(buffer->data + buffer->count, data, bytes);
    buffer->count += bytes;
    return true;
}

void buffer_free(struct byte_buffer *buffer) {
    free(buffer->data);
    *buffer = (struct byte_buffer){0};
}

static uint32_t string_hash(const char *text, size_t bytes) {
    return (uint32_t)XXH3_64bits(text, bytes);
}

static struct string_slot *string_slot_of(const struct string_map *map, const char *text,
                                          size_t bytes, uint32_t hash) {
    size_t at = hash & (map->capacity - 1);
    for (;; at = (at + 1) & (map->capacity - 1)) {
        struct string_slot *slot = &map->slots[at];
        if (slot->value < 0) return slot;
        if (slot->hash == hash && slot->bytes == bytes &&
            (bytes == 0 || memcmp(map->blob.data + slot->offset, text, bytes) == 0))
            return slot;
    }
}

static enum status string_map_grow(struct string_map *map) {
    struct string_map grown = *map;
    grown.capacity = map->capacity ? map->capacity * 2 : 64;
    grown.slots = malloc(grown.capacity * sizeof *grown.slots);
    if (!grown.slots)
        return status_fail(STATUS_MEMORY, "no memory for %zu vocabulary entries", grown.capacity);
    for (size_t i = 0; i < grown.capacity; i++) grown.slots[i].value = -1;
    for (size_t i = 0; i < map->capacity; i++) {
        const struct string_slot *slot = &map->slots[i];
        if (slot->value < 0) continue;
        size_t at = slot->hash & (grown.capacity - 1);
        while (grown.slots[at].value >= 0) at = (at + 1) & (grown.capacity - 1);
        grown.slots[at] = *slot;
    }
    free(map->slots);
    *map = grown;
    return STATUS_OK;
}

enum status string_map_put(struct string_map *map, const char *text, size_t bytes, int32_t value) {
    assert(value >= 0);
    if (bytes > UINT32_MAX) return status_fail(STATUS_FORMAT, "a token of %zu bytes", bytes);
    if ((map->count + 1) * 2 > map->capacity) TRY(string_map_grow(map));
    uint32_t hash = string_hash(text, bytes);
    struct string_slot *slot = string_slot_of(map, text, bytes, hash);
    if (slot->value < 0) {
        size_t offset = map->blob.count;
        if (!buffer_append(&map->blob, text, bytes))
            return status_fail(STATUS_MEMORY, "no memory for the vocabulary's text");
        *slot = (struct string_slot){hash, (uint32_t)bytes, offset, value};
        map->count++;
    }
    slot->value = value;
    return STATUS_OK;
}

int32_t string_map_get(const struct string_map *map, const char *text, size_t bytes) {
    if (map->capacity == 0 || bytes > UINT32_MAX) return -1;
    return string_slot_of(map, text, bytes, string_hash(text, bytes))->value;
}

void string_map_free(struct string_map *map) {
    buffer_free(&map->blob);
    free(map->slots);
    *map = (struct string_map){0};
}

static struct pair_slot *pair_slot_of(const struct pair_map *map, int32_t left, int32_t right) {
    for (size_t at = pair_hash(map, left, right);; at = (at + 1) & (map->capacity - 1)) {
        struct pair_slot *slot = &map->slots[at];
        if (slot->left == INT32_MIN || (slot->left == left && slot->right == right)) return slot;
    }
}

enum status pair_map_reserve(struct pair_map *map, size_t count) {
    if (map->capacity && count * 2 <= map->capacity) return STATUS_OK;
    struct pair_map grown = {.capacity = 64, .shift = 58, .count = map->count};
    while (grown.capacity < count * 2) {
        grown.capacity *= 2;
        grown.shift--;
    }
    grown.slots = malloc(grown.capacity * sizeof *grown.slots);
    if (!grown.slots) return status_fail(STATUS_MEMORY, "no memory for %zu merges", count);
    for (size_t i = 0; i < grown.capacity; i++) grown.slots[i].left = INT32_MIN;
    for (size_t i = 0; i < map->capacity; i++)
        if (map->slots[i].left != INT32_MIN)
            *pair_slot_of(&grown, map->slots[i].left, map->slots[i].right) = map->slots[i];
    free(map->slots);
    *map = grown;
    return STATUS_OK;
}

enum status pair_map_put(struct pair_map *map, int32_t left, int32_t right, int32_t rank,
                         int32_t result) {
    TRY(pair_map_reserve(map, map->count + 1));
    struct pair_slot *slot = pair_slot_of(map, left, right);
    if (slot->left == INT32_MIN) map->count++;
    *slot = (struct pair_slot){left, right, rank, result};
    return STATUS_OK;
}

void pair_map_free(struct pair_map *map) {
    free(map->slots);
    *map = (struct pair_map){0};
}

static int by_rank(const void *left, const void *right) {
    const struct pair_slot *a = left, *b = right;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    if (a->left != b->left) return a->left < b->left ? -1 : 1;
    return a->right < b->right ? -1 : a->right > b->right;
}

enum status pair_map_sorted(const struct pair_map *pairs, struct pair_slot **out) {
    size_t count = 0;
    *out = malloc((pairs->count + 1) * sizeof **out);
    if (!*out) return status_fail(STATUS_MEMORY, "no memory for %zu merges", pairs->count);
    for (size_t i = 0; i < pairs->capacity; i++)
        if (pairs->slots[i].left != INT32_MIN) (*out)[count++] = pairs->slots[i];
    qsort(*out, count, sizeof **out, by_rank);
    return STATUS_OK;
}
