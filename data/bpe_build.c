/* Making a BPE's symbols and pairs from its vocabulary. */
#include "data/bpe.h"

#include "data/utf8.h"
#include <stdlib.h>
#include <string.h>

void bpe_set_bytes(struct bpe *bpe) {
    bpe->bytes = true;
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        int32_t id = string_map_get(&bpe->words, &byte, 1);
        bpe->byte_symbols[i] = id >= 0 ? id : -1 - i;
    }
}

/* A character is the token that it is, else a symbol of its own when pieces are made with it. */
static enum status add_character(struct bpe *bpe, uint32_t point) {
    if (pair_map_get(&bpe->characters, (int32_t)point, 0)) return STATUS_OK;
    char text[4];
    int width = utf8_encode(point, text);
    int32_t symbol = string_map_get(&bpe->words, text, (size_t)width);
    if (symbol < 0) {
        if (!array_reserve(&bpe->extra_points, &bpe->extra_capacity, bpe->extra_count + 1,
                           sizeof *bpe->extra_points))
            return status_fail(STATUS_MEMORY, "no memory for the vocabulary's characters");
        symbol = bpe->token_count + (int32_t)bpe->extra_count;
        bpe->extra_points[bpe->extra_count++] = point;
    }
    if (point < 128) bpe->ascii_symbols[point] = symbol;
    return pair_map_put(&bpe->characters, (int32_t)point, 0, 0, symbol);
}

enum status bpe_set_characters(struct bpe *bpe) {
    bpe->bytes = false;
    for (int i = 0; i < 128; i++) bpe->ascii_symbols[i] = -1 - i;
    for (size_t i = 0; i < bpe->words.capacity; i++) {
        const struct string_slot *slot = &bpe->words.slots[i];
        if (slot->value < 0) continue;
        const char *text = bpe->words.blob.data + slot->offset;
        for (size_t at = 0; at < slot->bytes;) {
            uint32_t point = 0;
            at += (size_t)utf8_decode(text + at, slot->bytes - at, &point);
            TRY(add_character(bpe, point));
        }
    }
    return STATUS_OK;
}

/* The symbol whose text this is, or -1. */
static int32_t symbol_of(const struct bpe *bpe, const char *text, size_t bytes) {
    int32_t id = string_map_get(&bpe->words, text, bytes);
    if (id >= 0 || bpe->bytes) return id;
    if (bytes != (size_t)utf8_width((unsigned char)text[0])) return -1;
    uint32_t point = 0;
    utf8_decode(text, bytes, &point);
    const struct pair_slot *slot = pair_map_get(&bpe->characters, (int32_t)point, 0);
    return slot ? slot->result : -1;
}

/* Every cut of a word is looked up, so a long word costs the square of its bytes. */
enum { LONGEST_WORD = 2048 };

enum status bpe_pairs_from_ranks(struct bpe *bpe, const int32_t *ranks) {
    for (size_t i = 0; i < bpe->words.capacity; i++) {
        const struct string_slot *slot = &bpe->words.slots[i];
        if (slot->value < 0 || slot->bytes < 2) continue;
        if (slot->bytes > LONGEST_WORD)
            return status_fail(STATUS_UNSUPPORTED, "token %d has %u bytes, more than %d",
                               slot->value, slot->bytes, LONGEST_WORD);
        const char *text = bpe->words.blob.data + slot->offset;
        for (size_t cut = 1; cut < slot->bytes; cut++) {
            if (!bpe->bytes && ((unsigned char)text[cut] & 0xC0) == 0x80) continue;
            int32_t left = symbol_of(bpe, text, cut);
            int32_t right = left < 0 ? -1 : symbol_of(bpe, text + cut, slot->bytes - cut);
            if (right < 0) continue;
            TRY(pair_map_put(&bpe->pairs, left, right, ranks[slot->value], slot->value));
        }
    }
    return STATUS_OK;
}

enum status bpe_set_unused(struct bpe *bpe, int32_t id, const char *text, size_t bytes) {
    struct merge_scratch merge = {0};
    enum status status = STATUS_OK;
    bool kept = true;
    for (size_t at = 0; at < bytes && kept;) {
        uint32_t point = 0;
        at += (size_t)utf8_decode(text + at, bytes - at, &point);
        const struct pair_slot *slot = pair_map_get(&bpe->characters, (int32_t)point, 0);
        kept = merge_push(&merge, slot ? slot->result : -1 - (int32_t)point);
    }
    kept = kept && merge_run(&bpe->pairs, &merge, id);
    if (!kept) status = status_fail(STATUS_MEMORY, "no memory for an unused piece");
    for (size_t i = 0; i < merge.count && merge.count > 1 && status == STATUS_OK; i++)
        status = pair_map_put(&bpe->unused, id, (int32_t)i, 0, merge.symbols[i]);
    merge_scratch_free(&merge);
    return status;
}

void bpe_find_cuts(struct bpe *bpe) {
    static const char symbol[] = "\xE2\x96\x81"; /* U+2581 */
    bpe->cut_at_spaces = false;
    for (size_t i = 0; i < bpe->words.capacity; i++) {
        const struct string_slot *slot = &bpe->words.slots[i];
        if (slot->value < 0) continue;
        const char *text = bpe->words.blob.data + slot->offset;
        size_t at = 0;
        while (slot->bytes - at >= 3 && memcmp(text + at, symbol, 3) == 0) at += 3;
        for (; at + 3 <= slot->bytes; at++)
            if (memcmp(text + at, symbol, 3) == 0) return;
    }
    bpe->cut_at_spaces = true;
}
