/* Attention in parts: keys come in BLOCKS runs of tokens, in an order in which some queries see
 * nothing at first, and the queries of a document are two runs where they are cut. */
#ifndef STRATA_TESTS_ATTENTION_PARTS_H
#define STRATA_TESTS_ATTENTION_PARTS_H

#include "kernels/attention.h"
#include "tests/kernels_tables.h"

enum { BLOCKS = 3 };
static const int block_order[BLOCKS] = {1, 2, 0};

struct cuts {
    int32_t keys[BLOCKS + 1], query; /* tokens where they are */
};

static inline struct cuts cut_at_random(struct random *random, const struct segments *segments) {
    int32_t tokens = segments->start[segments->count];
    struct cuts cuts = {.keys = {[BLOCKS] = tokens}, .query = random_int(random, 0, tokens)};
    for (int i = 1; i < BLOCKS; i++) cuts.keys[i] = random_int(random, cuts.keys[i - 1], tokens);
    return cuts;
}

static inline int32_t cuts_within(int32_t token, int32_t first, int32_t end) {
    return token < first ? first : token > end ? end : token;
}

/* The parts (at most twice the sequences) of keys' run `block`; returns how many. */
static inline int32_t list_parts(struct attention_part *parts, const struct segments *segments,
                                 const struct cuts *cuts, int block) {
    int32_t count = 0, first = cuts->keys[block], end = cuts->keys[block + 1];
    for (int32_t i = 0; i < segments->count; i++) {
        int32_t start = segments->start[i], stop = segments->start[i + 1];
        int32_t key = cuts_within(start, first, end), keys = cuts_within(stop, first, end) - key;
        int32_t edges[] = {start, cuts_within(cuts->query, start, stop), stop};
        for (int run = 0; run < 2; run++)
            if (edges[run + 1] > edges[run] && keys > 0)
                parts[count++] =
                    (struct attention_part){i,           edges[run], edges[run + 1] - edges[run],
                                            key - first, keys,       edges[run] - key};
    }
    return count;
}

#endif
