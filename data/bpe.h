/* Byte-pair encoding of a word, over bytes (GPT-2's family, tiktoken) or over characters
 * (SentencePiece BPE, Llama 2's tokenizer.json). A merge makes one symbol of two; symbols are token
 * ids, and beyond them characters that occur in pieces without being a piece. What is no symbol is
 * kept as -1 - its code point (or byte), until it becomes byte tokens or the unknown token. */
#ifndef STRATA_DATA_BPE_H
#define STRATA_DATA_BPE_H

#include "data/containers.h"
#include "data/merge.h"
#include "data/trie.h"

struct token_list;

struct bpe {
    struct pair_map pairs;
    struct string_map words; /* what merges work with: bytes or characters -> token */
    bool bytes;              /* over bytes */
    bool whole_words;        /* a word that is a token is that token, whatever the merges say */
    bool cut_at_spaces;      /* no merge reaches over a U+2581 into what is before it */
    bool fuse_unknown;
    int32_t unknown;           /* -1: drop what can't be encoded */
    int32_t byte_symbols[256]; /* over bytes: the symbol of each; or -1 - byte */
    int32_t ascii_symbols[128];
    struct pair_map characters; /* (code point, 0) -> symbol */
    bool has_byte_tokens;       /* all of <0x00> ... <0xFF> */
    int32_t byte_tokens[256];
    uint32_t *extra_points; /* code points of the symbols from token_count on */
    size_t extra_count, extra_capacity;
    int32_t token_count;
    /* An unused piece is merged through but is no output: (token, i) -> the i-th symbol it falls
     * back into. */
    struct pair_map unused;
    struct trie whole; /* strings that are cut out first (user-defined pieces) */
};
void bpe_free(struct bpe *bpe);

/* Steps of making one. A byte's or character's symbol: */
void bpe_set_bytes(struct bpe *bpe); /* from bpe->words */
enum status bpe_set_characters(struct bpe *bpe);
/* Every way to cut each word in two symbols becomes a merge; `ranks` of the words, smaller first
 * (tiktoken: the id; SentencePiece: by falling score). */
enum status bpe_pairs_from_ranks(struct bpe *bpe, const int32_t *ranks);
/* Fills bpe->unused for the word `id`, after the pairs. */
enum status bpe_set_unused(struct bpe *bpe, int32_t id, const char *text, size_t bytes);
/* Is there no merge over a space symbol? Sets cut_at_spaces. */
void bpe_find_cuts(struct bpe *bpe);

/* Buffers of one call. */
struct bpe_scratch {
    struct merge_scratch merge;
    struct word_slot *cache; /* recent short words */
    size_t cache_mask;
    bool after_unknown;
};
/* `text_bytes`: how much is going to be encoded; a cache is kept for long texts only. */
void bpe_scratch_init(struct bpe_scratch *scratch, size_t text_bytes);
void bpe_scratch_free(struct bpe_scratch *scratch);

/* Appends a word's ids; valid UTF-8 unless over bytes. False when memory ran out. */
bool bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t bytes,
                struct token_list *out);

/* Appends bytes that are no UTF-8: only with byte symbols or tokens. */
bool bpe_encode_raw(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text,
                    size_t bytes, struct token_list *out);

#endif
