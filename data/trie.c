#include "data/trie.h"

#include <assert.h>
#include <stdlib.h>

static enum status trie_add_node(struct trie *trie, int32_t *node) {
    if (trie->count >= INT32_MAX ||
        !array_reserve(&trie->values, &trie->capacity, trie->count + 1, sizeof *trie->values))
        return status_fail(STATUS_MEMORY, "no memory for the tokens' prefix tree");
    trie->values[trie->count] = -1;
    *node = (int32_t)trie->count++;
    return STATUS_OK;
}

enum status trie_put(struct trie *trie, const char *text, size_t bytes, int32_t value) {
    assert(value >= 0 && bytes > 0);
    int32_t node = TRIE_ROOT;
    if (trie->count == 0) TRY(trie_add_node(trie, &node));
    for (size_t i = 0; i < bytes; i++) {
        int32_t next = trie_step(trie, node, (unsigned char)text[i]);
        if (next < 0) {
            TRY(trie_add_node(trie, &next));
            TRY(pair_map_put(&trie->edges, node, (unsigned char)text[i], 0, next));
        }
        node = next;
    }
    trie->values[node] = value;
    trie->starts[(unsigned char)text[0]] = true;
    return STATUS_OK;
}

void trie_free(struct trie *trie) {
    pair_map_free(&trie->edges);
    free(trie->values);
    *trie = (struct trie){0};
}

size_t trie_longest(const struct trie *trie, const char *text, size_t bytes, int32_t *value) {
    size_t longest = 0;
    if (trie->count == 0 || bytes == 0 || !trie->starts[(unsigned char)text[0]]) return 0;
    int32_t node = TRIE_ROOT;
    for (size_t i = 0; i < bytes; i++) {
        node = trie_step(trie, node, (unsigned char)text[i]);
        if (node < 0) break;
        if (trie->values[node] < 0) continue;
        longest = i + 1;
        *value = trie->values[node];
    }
    return longest;
}
