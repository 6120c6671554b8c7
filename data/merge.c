#include "data/merge.h"

#include <stdlib.h>
#include <string.h>

enum { SHORT_WORD = 40 }; /* symbols; beyond, the heap wins */

struct merge_node {
    int32_t symbol, rank, result; /* of this and the next symbol */
    uint32_t previous, next;      /* UINT32_MAX at the ends */
};

void merge_scratch_free(struct merge_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->nodes);
    free(scratch->heap);
    *scratch = (struct merge_scratch){0};
}

static int32_t rank_of(const struct pair_map *pairs, int32_t left, int32_t right, int32_t forbidden,
                       int32_t *result) {
    const struct pair_slot *slot = pair_map_get(pairs, left, right);
    if (!slot || slot->result == forbidden) return PAIR_NONE;
    *result = slot->result;
    return slot->rank;
}

static size_t merge_short(const struct pair_map *pairs, int32_t *symbols, size_t count,
                          int32_t forbidden) {
    int32_t ranks[SHORT_WORD], results[SHORT_WORD];
    for (size_t i = 0; i + 1 < count; i++)
        ranks[i] = rank_of(pairs, symbols[i], symbols[i + 1], forbidden, &results[i]);
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == PAIR_NONE) break;
        symbols[best] = results[best];
        count--;
        size_t moved = count - best - 1;
        memmove(symbols + best + 1, symbols + best + 2, moved * sizeof *symbols);
        memmove(ranks + best, ranks + best + 1, moved * sizeof *ranks);
        memmove(results + best, results + best + 1, moved * sizeof *results);
        if (best > 0)
            ranks[best - 1] =
                rank_of(pairs, symbols[best - 1], symbols[best], forbidden, &results[best - 1]);
        if (best + 1 < count)
            ranks[best] =
                rank_of(pairs, symbols[best], symbols[best + 1], forbidden, &results[best]);
    }
    return count;
}

/* A heap of (rank, position), the smallest first. */
static bool heap_push(struct merge_scratch *scratch, int32_t rank, uint32_t position) {
    if (!array_reserve(&scratch->heap, &scratch->heap_capacity, scratch->heap_count + 1,
                       sizeof *scratch->heap))
        return false;
    uint64_t key = (uint64_t)(uint32_t)rank << 32 | position;
    size_t at = scratch->heap_count++;
    while (at > 0 && scratch->heap[(at - 1) / 2] > key) {
        scratch->heap[at] = scratch->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    scratch->heap[at] = key;
    return true;
}

static uint64_t heap_pop(struct merge_scratch *scratch) {
    uint64_t *heap = scratch->heap, top = heap[0], last = heap[--scratch->heap_count];
    size_t at = 0, count = scratch->heap_count;
    for (size_t child = 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

static bool rate_pair(const struct pair_map *pairs, struct merge_scratch *scratch, uint32_t at,
                      int32_t forbidden) {
    struct merge_node *node = &scratch->nodes[at];
    node->rank = PAIR_NONE;
    if (node->next == UINT32_MAX) return true;
    node->rank =
        rank_of(pairs, node->symbol, scratch->nodes[node->next].symbol, forbidden, &node->result);
    return node->rank == PAIR_NONE || heap_push(scratch, node->rank, at);
}

static bool merge_long(const struct pair_map *pairs, struct merge_scratch *scratch,
                       int32_t forbidden) {
    size_t count = scratch->count;
    if (count >= UINT32_MAX ||
        !array_reserve(&scratch->nodes, &scratch->node_capacity, count, sizeof *scratch->nodes))
        return false;
    struct merge_node *nodes = scratch->nodes;
    scratch->heap_count = 0;
    for (uint32_t i = 0; i < count; i++)
        nodes[i] = (struct merge_node){.symbol = scratch->symbols[i],
                                       .previous = i == 0 ? UINT32_MAX : i - 1,
                                       .next = i + 1 == count ? UINT32_MAX : i + 1};
    for (uint32_t i = 0; i < count; i++)
        if (!rate_pair(pairs, scratch, i, forbidden)) return false;
    while (scratch->heap_count > 0) {
        uint64_t key = heap_pop(scratch);
        uint32_t at = (uint32_t)key;
        struct merge_node *node = &nodes[at];
        if (node->rank != (int32_t)(key >> 32)) continue; /* it was merged or re-rated since */
        struct merge_node *gone = &nodes[node->next];
        node->symbol = node->result;
        node->next = gone->next;
        gone->rank = PAIR_NONE;
        if (node->next != UINT32_MAX) nodes[node->next].previous = at;
        if (!rate_pair(pairs, scratch, at, forbidden)) return false;
        if (node->previous != UINT32_MAX && !rate_pair(pairs, scratch, node->previous, forbidden))
            return false;
    }
    scratch->count = 0;
    for (uint32_t i = 0; i != UINT32_MAX; i = nodes[i].next)
        scratch->symbols[scratch->count++] = nodes[i].symbol;
    return true;
}

bool merge_run(const struct pair_map *pairs, struct merge_scratch *scratch, int32_t forbidden) {
    if (scratch->count > SHORT_WORD) return merge_long(pairs, scratch, forbidden);
    scratch->count = merge_short(pairs, scratch->symbols, scratch->count, forbidden);
    return true;
}
