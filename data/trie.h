/* A set of byte strings, each with a number, walked byte by byte: added tokens in a text, pieces
 * of a unigram model. Edges live in a hash table. */
#ifndef STRATA_DATA_TRIE_H
#define STRATA_DATA_TRIE_H

#include "data/containers.h"

struct trie {
    struct pair_map edges; /* (node, byte) -> node */
    int32_t *values;       /* of each node; -1 where no string ends */
    size_t count, capacity;
    bool starts[256]; /* the first bytes of its strings */
};
enum { TRIE_ROOT = 0 };

/* Adds or replaces. `value` is not negative, the string not empty. */
enum status trie_put(struct trie *trie, const char *text, size_t bytes, int32_t value);
void trie_free(struct trie *trie);

/* The node behind `byte`, or -1. */
static inline int32_t trie_step(const struct trie *trie, int32_t node, unsigned char byte) {
    const struct pair_slot *slot = pair_map_get(&trie->edges, node, byte);
    return slot ? slot->result : -1;
}

/* Bytes of the longest string of the set that `text` starts with, its number in *value; or 0. */
size_t trie_longest(const struct trie *trie, const char *text, size_t bytes, int32_t *value);

#endif
