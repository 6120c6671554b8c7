#define XXH_INLINE_ALL
#include "data/bpe.h"

#include "data/tokenizer_parts.h"
#include "data/utf8.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { CACHED_BYTES = 26, CACHED_IDS = 8, CACHE_MAX = 1 << 14, CACHE_FROM_BYTES = 2048 };

/* 64 bytes: a cache line a word. */
struct word_slot {
    uint32_t hash;
    uint8_t bytes, count; /* bytes is 0 in an empty slot */
    char text[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
};

void bpe_free(struct bpe *bpe) {
    pair_map_free(&bpe->pairs);
    string_map_free(&bpe->words);
    pair_map_free(&bpe->characters);
    pair_map_free(&bpe->unused);
    trie_free(&bpe->whole);
    free(bpe->extra_points);
    *bpe = (struct bpe){0};
}

void bpe_scratch_init(struct bpe_scratch *scratch, size_t text_bytes) {
    *scratch = (struct bpe_scratch){0};
    if (text_bytes < CACHE_FROM_BYTES) return;
    size_t slots = 128;
    while (slots < CACHE_MAX && slots * 32 < text_bytes) slots *= 2;
    scratch->cache = calloc(slots, sizeof *scratch->cache); /* without one it is only slower */
    scratch->cache_mask = slots - 1;
}

void bpe_scratch_free(struct bpe_scratch *scratch) {
    merge_scratch_free(&scratch->merge);
    free(scratch->cache);
    *scratch = (struct bpe_scratch){0};
}

static int32_t character_symbol(const struct bpe *bpe, uint32_t point) {
    if (point < 128) return bpe->ascii_symbols[point];
    const struct pair_slot *slot = pair_map_get(&bpe->characters, (int32_t)point, 0);
    return slot ? slot->result : -1 - (int32_t)point;
}

/* With no way to write the unknown it is as if it were not there: its neighbours may merge. */
static bool push_symbols(const struct bpe *bpe, struct merge_scratch *merge, const char *text,
                         size_t bytes) {
    bool drop = bpe->unknown < 0 && (bpe->bytes || !bpe->has_byte_tokens);
    merge->count = 0;
    if (!array_reserve(&merge->symbols, &merge->capacity, bytes, sizeof *merge->symbols))
        return false;
    for (size_t at = 0; at < bytes;) {
        int32_t symbol;
        if (bpe->bytes) {
            symbol = bpe->byte_symbols[(unsigned char)text[at++]];
        } else {
            uint32_t point = 0;
            at += (size_t)utf8_decode(text + at, bytes - at, &point);
            symbol = character_symbol(bpe, point);
        }
        if (symbol >= 0 || !drop) merge->symbols[merge->count++] = symbol;
    }
    return true;
}

static bool emit_unknown(const struct bpe *bpe, struct bpe_scratch *scratch, uint32_t point,
                         struct token_list *out) {
    if (!bpe->bytes && bpe->has_byte_tokens) {
        char text[4];
        int width = utf8_encode(point, text);
        for (int i = 0; i < width; i++)
            if (!token_list_push(out, bpe->byte_tokens[(unsigned char)text[i]])) return false;
        return true;
    }
    bool fused = scratch->after_unknown && bpe->fuse_unknown;
    scratch->after_unknown = true;
    return bpe->unknown < 0 || fused || token_list_push(out, bpe->unknown);
}

static bool emit(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t symbol,
                 struct token_list *out) {
    if (symbol < 0) return emit_unknown(bpe, scratch, (uint32_t)(-1 - symbol), out);
    if (symbol >= bpe->token_count)
        return emit_unknown(bpe, scratch, bpe->extra_points[symbol - bpe->token_count], out);
    const struct pair_slot *part = pair_map_get(&bpe->unused, symbol, 0);
    if (part) {
        for (int32_t i = 1; part; part = pair_map_get(&bpe->unused, symbol, i++))
            if (!emit(bpe, scratch, part->result, out)) return false;
        return true;
    }
    scratch->after_unknown = false;
    return token_list_push(out, symbol);
}

static struct word_slot *cache_slot(struct bpe_scratch *scratch, const char *text, size_t bytes,
                                    uint32_t *hash) {
    if (!scratch->cache || bytes > CACHED_BYTES || bytes == 0) return NULL;
    uint64_t wide = XXH3_64bits(text, bytes);
    *hash = (uint32_t)(wide >> 32);
    return &scratch->cache[wide & scratch->cache_mask];
}

/* Only a word without unknowns is remembered: theirs may fuse with a neighbour's. */
static void cache_store(struct word_slot *slot, uint32_t hash, const char *text, size_t bytes,
                        const int32_t *ids, size_t count) {
    if (count > CACHED_IDS) return;
    slot->hash = hash;
    slot->bytes = (uint8_t)bytes;
    slot->count = (uint8_t)count;
    memcpy(slot->text, text, bytes);
    memcpy(slot->ids, ids, count * sizeof *ids);
}

static bool encode_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text,
                        size_t bytes, struct token_list *out) {
    uint32_t hash = 0;
    struct word_slot *slot = cache_slot(scratch, text, bytes, &hash);
    if (slot && slot->hash == hash && slot->bytes == bytes &&
        memcmp(slot->text, text, bytes) == 0) {
        for (int i = 0; i < slot->count; i++)
            if (!token_list_push(out, slot->ids[i])) return false;
        scratch->after_unknown = false;
        return true;
    }
    size_t before = out->count;
    int32_t whole = bpe->whole_words ? string_map_get(&bpe->words, text, bytes) : -1;
    scratch->after_unknown = whole >= 0 ? false : scratch->after_unknown;
    bool had_unknown = false;
    if (whole >= 0) {
        if (!token_list_push(out, whole)) return false;
    } else {
        if (!push_symbols(bpe, &scratch->merge, text, bytes) ||
            !merge_run(&bpe->pairs, &scratch->merge, -1))
            return false;
        for (size_t i = 0; i < scratch->merge.count; i++) {
            int32_t symbol = scratch->merge.symbols[i];
            had_unknown = had_unknown || symbol < 0 || symbol >= bpe->token_count;
            if (!emit(bpe, scratch, symbol, out)) return false;
        }
    }
    if (slot && !had_unknown)
        cache_store(slot, hash, text, bytes, out->ids + before, out->count - before);
    return true;
}

#define SPACE_SYMBOL "\xE2\x96\x81" /* U+2581 */
enum { SPACE_SYMBOL_BYTES = 3 };

static bool is_space_symbol(const char *text, size_t bytes) {
    return bytes >= SPACE_SYMBOL_BYTES && memcmp(text, SPACE_SYMBOL, SPACE_SYMBOL_BYTES) == 0;
}

/* Bytes up to the next space symbol that follows something else. */
static size_t next_cut(const char *text, size_t bytes) {
    size_t at = 0;
    while (is_space_symbol(text + at, bytes - at)) at += SPACE_SYMBOL_BYTES;
    while (at < bytes) {
        const char *found = memchr(text + at, SPACE_SYMBOL[0], bytes - at);
        if (!found) return bytes;
        at = (size_t)(found - text);
        if (is_space_symbol(found, bytes - at)) return at;
        at++;
    }
    return bytes;
}

static bool encode_cut(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text,
                       size_t bytes, struct token_list *out) {
    if (!bpe->cut_at_spaces) return bytes == 0 || encode_word(bpe, scratch, text, bytes, out);
    while (bytes > 0) {
        size_t cut = next_cut(text, bytes);
        if (!encode_word(bpe, scratch, text, cut, out)) return false;
        text += cut;
        bytes -= cut;
    }
    return true;
}

bool bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text, size_t bytes,
                struct token_list *out) {
    scratch->after_unknown = false;
    if (bpe->whole.count == 0) return encode_cut(bpe, scratch, text, bytes, out);
    size_t done = 0, at = 0;
    while (at < bytes) {
        int32_t id = 0;
        size_t length = trie_longest(&bpe->whole, text + at, bytes - at, &id);
        if (length == 0) {
            at++;
            continue;
        }
        if (!encode_cut(bpe, scratch, text + done, at - done, out) || !token_list_push(out, id))
            return false;
        scratch->after_unknown = false;
        done = at += length;
    }
    return encode_cut(bpe, scratch, text + done, bytes - done, out);
}

bool bpe_encode_raw(const struct bpe *bpe, struct bpe_scratch *scratch, const char *text,
                    size_t bytes, struct token_list *out) {
    scratch->after_unknown = false;
    if (bpe->bytes) return encode_word(bpe, scratch, text, bytes, out);
    for (size_t i = 0; i < bytes; i++)
        if (!token_list_push(out, bpe->byte_tokens[(unsigned char)text[i]])) return false;
    return true;
}
