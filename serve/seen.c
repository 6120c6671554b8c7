#include "serve/seen.h"

#include "serve/grow.h"

#include <string.h>

void seen_free(struct seen_list *list) {
    free(list->items);
    *list = (struct seen_list){0};
}

/* The first entry whose token is not below `token`. */
static size_t lower_bound(const struct seen_list *list, int32_t token) {
    size_t low = 0, high = list->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (list->items[middle].token < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct sample_seen *seen_entry(struct seen_list *list, int32_t token) {
    size_t at = lower_bound(list, token);
    if (at < list->count && list->items[at].token == token) return &list->items[at];
    if (grow_array((void **)&list->items, &list->capacity, list->count + 1, sizeof *list->items) !=
        STATUS_OK)
        return NULL;
    memmove(list->items + at + 1, list->items + at, (list->count - at) * sizeof *list->items);
    list->count++;
    list->items[at] = (struct sample_seen){.token = token};
    return &list->items[at];
}

enum status seen_add_prompt(struct seen_list *list, const int32_t *tokens, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        struct sample_seen *entry = seen_entry(list, tokens[i]);
        if (!entry) return STATUS_MEMORY;
        entry->anywhere = 1;
    }
    return STATUS_OK;
}

enum status seen_add_output(struct seen_list *list, int32_t token) {
    struct sample_seen *entry = seen_entry(list, token);
    if (!entry) return STATUS_MEMORY;
    entry->anywhere = 1;
    entry->generated++;
    return STATUS_OK;
}

enum status seen_set_bias(struct seen_list *list, int32_t token, float bias) {
    struct sample_seen *entry = seen_entry(list, token);
    if (!entry) return STATUS_MEMORY;
    entry->bias = bias;
    return STATUS_OK;
}
