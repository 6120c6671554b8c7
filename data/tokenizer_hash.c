/* What decides the ids of a text, whatever file it was read from: tokenizer.json, a GGUF file made
 * from it, and that file's tokenizer.json have one hash. */
#include "data/tokenizer_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static void mix(uint64_t *hash, const void *data, size_t bytes) {
    *hash = XXH3_64bits_withSeed(bytes ? data : "", bytes, *hash);
}

static int32_t unknown_of(const struct tokenizer *tokenizer) {
    if (tokenizer->model == MODEL_UNIGRAM) return tokenizer->unigram.unknown;
    return tokenizer->bpe.bytes ? -1 : tokenizer->bpe.unknown;
}

/* Ids without a token, which files fill with names that no text has. */
static bool is_filler(const struct tokenizer *tokenizer, size_t id) {
    const struct token *token = &tokenizer->tokens[id];
    char filler[32];
    size_t bytes = (size_t)snprintf(filler, sizeof filler, TOKENIZER_FILLER, id);
    if (token->kind == TOKEN_ABSENT) return true;
    return (token->kind == TOKEN_UNUSED || token->kind == TOKEN_NORMAL) &&
           token->literal_bytes == bytes &&
           memcmp(token_literal(tokenizer, token), filler, bytes) == 0;
}

/* Of a vocabulary of bytes the bytes count, whether or not they are written in GPT-2's alphabet;
 * scores count where no merges say what they lead to. */
static void mix_tokens(const struct tokenizer *tokenizer, uint64_t *hash) {
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        bool raw = tokenizer->bpe.bytes && token->kind == TOKEN_NORMAL;
        if (is_filler(tokenizer, id)) continue;
        int facts[] = {(int)id, (int32_t)id == unknown_of(tokenizer) ? (int)TOKEN_UNKNOWN
                                                                     : (int)token->kind};
        mix(hash, facts, sizeof facts);
        mix(hash, tokenizer->texts.data + (raw ? token->piece : token->literal),
            raw ? token->piece_bytes : token->literal_bytes);
        if (tokenizer->model == MODEL_UNIGRAM) mix(hash, &token->score, sizeof token->score);
    }
}

/* Merges count by their order. Neighbours that make the same token are one rank in a SentencePiece
 * model or a tiktoken file, and as many ranks in others. */
static enum status mix_merges(const struct tokenizer *tokenizer, uint64_t *hash) {
    struct pair_slot *pairs;
    uint64_t sum = 0;
    int32_t rank = 0;
    TRY(pair_map_sorted(&tokenizer->bpe.pairs, &pairs));
    for (size_t i = 0; i < tokenizer->bpe.pairs.count; i++) {
        if (i > 0 && pairs[i - 1].result != pairs[i].result) rank++;
        struct pair_slot merge = pairs[i];
        merge.rank = rank;
        sum += XXH3_64bits(&merge, sizeof merge);
    }
    free(pairs);
    mix(hash, &sum, sizeof sum);
    return STATUS_OK;
}

/* In any order. Unknown is a token of its own kind in some files and an added one in others. */
static void mix_added(const struct tokenizer *tokenizer, uint64_t *hash) {
    uint64_t sum = 0;
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const struct added_token *added = &tokenizer->added[i];
        int facts[] = {added->id,          added->special,
                       added->single_word, added->lstrip,
                       added->rstrip,      added->normalized && tokenizer->normalizer.count > 0};
        if (added->id != unknown_of(tokenizer)) sum += XXH3_64bits(facts, sizeof facts);
    }
    mix(hash, &sum, sizeof sum);
}

/* SentencePiece's steps have many spellings; other steps are as they were noted. */
static void mix_steps(const struct tokenizer *tokenizer, uint64_t *hash) {
    bool prefix, trim;
    if (tokenizer->model == MODEL_BPE && !tokenizer->bpe.bytes &&
        tokenizer_spaces(tokenizer, &prefix, &trim)) {
        int facts[] = {prefix, trim};
        mix(hash, facts, sizeof facts);
    } else {
        mix(hash, &tokenizer->settings_hash, sizeof tokenizer->settings_hash);
    }
}

enum status tokenizer_make_hash(struct tokenizer *tokenizer) {
    const struct bpe *bpe = &tokenizer->bpe;
    bool bytes = tokenizer->model == MODEL_BPE ? bpe->bytes || bpe->has_byte_tokens
                                               : tokenizer->unigram.has_byte_tokens;
    int facts[] = {(int)tokenizer->model,
                   bpe->bytes,
                   bpe->whole_words,
                   bytes,
                   bytes ? -1 : unknown_of(tokenizer),
                   !bytes && bpe->fuse_unknown};
    uint64_t hash = 0;
    mix(&hash, facts, sizeof facts);
    mix_steps(tokenizer, &hash);
    mix_tokens(tokenizer, &hash);
    TRY(mix_merges(tokenizer, &hash));
    mix_added(tokenizer, &hash);
    mix(&hash, tokenizer->prefix, tokenizer->prefix_count * sizeof(int32_t));
    mix(&hash, tokenizer->suffix, tokenizer->suffix_count * sizeof(int32_t));
    tokenizer->hash = hash;
    return STATUS_OK;
}
