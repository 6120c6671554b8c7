#include "data/unigram.h"

#include "data/tokenizer_parts.h"
#include "data/utf8.h"
#include <stdlib.h>

/* The best path to a byte position: its score, and its last piece. */
struct unigram_node {
    double score;
    size_t start;
    int32_t id; /* -1: the unknown; -2: not reached */
};
enum { NOT_REACHED = -2 };

static const double unknown_penalty = 10.0; /* below the worst piece; sentencepiece's kUnkPenalty */

void unigram_free(struct unigram *unigram) {
    trie_free(&unigram->pieces);
    free(unigram->scores);
    free(unigram->user_defined);
    *unigram = (struct unigram){0};
}

void unigram_scratch_free(struct unigram_scratch *scratch) {
    free(scratch->nodes);
    *scratch = (struct unigram_scratch){0};
}

static void offer(const struct unigram *unigram, struct unigram_node *nodes, size_t from, size_t to,
                  double score, int32_t id) {
    double sum = nodes[from].score + score;
    if (!unigram->wide) sum = (double)(float)sum;
    if (nodes[to].id != NOT_REACHED && sum <= nodes[to].score) return;
    nodes[to] = (struct unigram_node){sum, from, id};
}

static double piece_score(const struct unigram *unigram, int32_t id, size_t bytes) {
    if (unigram->user_defined && unigram->user_defined[id])
        return (double)bytes * unigram->largest - 0.1;
    return unigram->scores[id];
}

static void extend(const struct unigram *unigram, struct unigram_node *nodes, const char *text,
                   size_t at, size_t bytes, double unknown_score) {
    size_t width = (size_t)utf8_width((unsigned char)text[at]);
    bool single = false; /* is this one character a piece? */
    int32_t node = unigram->pieces.count ? TRIE_ROOT : -1;
    for (size_t end = at; node >= 0 && end < bytes;) {
        node = trie_step(&unigram->pieces, node, (unsigned char)text[end++]);
        if (node < 0 || unigram->pieces.values[node] < 0) continue;
        int32_t id = unigram->pieces.values[node];
        offer(unigram, nodes, at, end, piece_score(unigram, id, end - at), id);
        single = single || end - at == width;
    }
    if (!single) offer(unigram, nodes, at, at + width, unknown_score, -1);
}

static bool push_unknown(const struct unigram *unigram, const char *text, size_t bytes,
                         bool after_unknown, struct token_list *out) {
    if (!unigram->has_byte_tokens)
        return unigram->unknown < 0 || (after_unknown && unigram->fuse_unknown) ||
               token_list_push(out, unigram->unknown);
    for (size_t i = 0; i < bytes; i++)
        if (!token_list_push(out, unigram->byte_tokens[(unsigned char)text[i]])) return false;
    return true;
}

bool unigram_encode(const struct unigram *unigram, struct unigram_scratch *scratch,
                    const char *text, size_t bytes, struct token_list *out) {
    if (!array_reserve(&scratch->nodes, &scratch->capacity, bytes + 1, sizeof *scratch->nodes))
        return false;
    struct unigram_node *nodes = scratch->nodes;
    nodes[0] = (struct unigram_node){0.0, 0, -1};
    for (size_t i = 1; i <= bytes; i++) nodes[i].id = NOT_REACHED;
    double unknown_score = unigram->smallest - unknown_penalty;
    if (!unigram->wide) unknown_score = (double)(float)unknown_score;
    for (size_t at = 0; at < bytes; at += (size_t)utf8_width((unsigned char)text[at]))
        extend(unigram, nodes, text, at, bytes, unknown_score);

    /* Walk back; each node on the way then holds in `start` the end of its piece instead. */
    size_t end = bytes, next = bytes;
    while (end > 0) {
        size_t start = nodes[end].start;
        nodes[end].start = next;
        next = end;
        end = start;
    }
    bool after_unknown = false;
    for (size_t at = 0; at < bytes; at = next, next = nodes[next].start) {
        int32_t id = nodes[next].id;
        bool kept = id >= 0 ? token_list_push(out, id)
                            : push_unknown(unigram, text + at, next - at, after_unknown, out);
        if (!kept) return false;
        after_unknown = id < 0;
    }
    return true;
}
