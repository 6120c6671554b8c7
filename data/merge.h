/* Byte-pair merging: the neighbours with the smallest rank are joined, the leftmost first, until
 * none is left that may be. Short words scan an array, long ones use a heap (n log n). */
#ifndef STRATA_DATA_MERGE_H
#define STRATA_DATA_MERGE_H

#include "data/containers.h"

/* Buffers of one caller; zeroed before the first use. */
struct merge_scratch {
    int32_t *symbols; /* in: the word's first symbols, out: what is left of them */
    size_t count, capacity;
    struct merge_node *nodes;
    size_t node_capacity;
    uint64_t *heap;
    size_t heap_count, heap_capacity;
};
void merge_scratch_free(struct merge_scratch *scratch);

static inline bool merge_push(struct merge_scratch *scratch, int32_t symbol) {
    if (!array_reserve(&scratch->symbols, &scratch->capacity, scratch->count + 1,
                       sizeof *scratch->symbols))
        return false;
    scratch->symbols[scratch->count++] = symbol;
    return true;
}

/* Merges scratch->symbols in place. Pairs that give `forbidden` (-1: none) are left. False when
 * memory ran out. */
bool merge_run(const struct pair_map *pairs, struct merge_scratch *scratch, int32_t forbidden);

#endif
