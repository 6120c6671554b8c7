/* Unigram segmentation: the path with the best sum of piece scores (Viterbi). Kudo and Richardson,
 * arXiv:1808.06226; ties and the unknown's score as in sentencepiece, src/unigram_model.cc. */
#ifndef STRATA_DATA_UNIGRAM_H
#define STRATA_DATA_UNIGRAM_H

#include "data/trie.h"

struct token_list;

struct unigram {
    struct trie pieces;       /* -> token; without control, unknown and byte tokens */
    double *scores;           /* of each token; owned */
    bool *user_defined;       /* of each token: they score by their length; owned; or NULL */
    double smallest, largest; /* score of a normal piece */
    bool wide;                /* sums in double (Hugging Face), else in float (sentencepiece) */
    bool fuse_unknown;
    int32_t unknown; /* -1: drop */
    bool has_byte_tokens;
    int32_t byte_tokens[256];
};
void unigram_free(struct unigram *unigram);

struct unigram_scratch {
    struct unigram_node *nodes;
    size_t capacity;
};
void unigram_scratch_free(struct unigram_scratch *scratch);

/* Appends the ids of valid UTF-8. False when memory ran out. */
bool unigram_encode(const struct unigram *unigram, struct unigram_scratch *scratch,
                    const char *text, size_t bytes, struct token_list *out);

#endif
