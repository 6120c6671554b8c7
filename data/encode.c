/* Text to ids: added tokens are cut out, what is between is normalised, the added tokens that are
 * normalised themselves are cut out, and what is left is split into words for the model. */
#include "data/tokenizer_parts.h"

#include "data/utf8.h"
#include <string.h>
#include <utf8proc.h>

/* What one call to tokenizer_encode owns. */
struct encoder {
    const struct tokenizer *tokenizer;
    struct token_list *out;
    bool parse_special;
    struct normalize_scratch normalize;
    struct pretokenize_scratch pretokenize;
    struct bpe_scratch bpe;
    struct unigram_scratch unigram;
};

/* A part of the input; `first`: its start; `continues`: bytes that are no text went before. */
struct part {
    const char *text;
    size_t bytes;
    bool first, continues;
};

static bool encode_word(void *user, const char *text, size_t bytes) {
    struct encoder *encoder = user;
    const struct tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->model == MODEL_UNIGRAM)
        return unigram_encode(&tokenizer->unigram, &encoder->unigram, text, bytes, encoder->out);
    return bpe_encode(&tokenizer->bpe, &encoder->bpe, text, bytes, encoder->out);
}

static bool encode_words(struct encoder *encoder, struct part part) {
    struct pretokenize_call call = {.pretokenizer = &encoder->tokenizer->pretokenizer,
                                    .scratch = &encoder->pretokenize,
                                    .first = part.first,
                                    .continues = part.continues,
                                    .word = encode_word,
                                    .user = encoder};
    return pretokenize(&call, part.text, part.bytes);
}

static bool encode_normalized(struct encoder *encoder, struct part part);

static bool encode_raw(struct encoder *encoder, struct part part) {
    const char *text;
    size_t bytes;
    if (part.bytes == 0) return true;
    if (!normalizer_run(&encoder->tokenizer->normalizer, &encoder->normalize, part.text, part.bytes,
                        part.continues && part.first, &text, &bytes))
        return false;
    return encode_normalized(encoder, (struct part){text, bytes, part.first, part.continues});
}

/* Rust's \w: Alphabetic (letters, letter numbers, circled letters), marks, decimal digits,
 * connectors, the two joiners. */
static bool is_word(uint32_t point) {
    if ((point >= 0x24B6 && point <= 0x24E9) || (point >= 0x1F130 && point <= 0x1F149) ||
        (point >= 0x1F150 && point <= 0x1F169) || (point >= 0x1F170 && point <= 0x1F189) ||
        point == 0x200C || point == 0x200D)
        return true;
    switch (utf8proc_category((utf8proc_int32_t)point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

/* Start of the character that ends at `end`, not before `least`. */
static size_t step_back(const char *text, size_t least, size_t end, uint32_t *point) {
    size_t at = end - 1;
    while (at > least && ((unsigned char)text[at] & 0xC0) == 0x80) at--;
    utf8_decode(text + at, end - at, point);
    return at;
}

static bool stands_alone(struct part part, size_t start, size_t end) {
    uint32_t point = 0;
    if (start > 0) {
        step_back(part.text, 0, start, &point);
        if (is_word(point)) return false;
    }
    if (end == part.bytes) return true;
    utf8_decode(part.text + end, part.bytes - end, &point);
    return !is_word(point);
}

static void widen(const struct added_token *added, struct part part, size_t done, size_t *start,
                  size_t *end) {
    uint32_t point = 0;
    while (added->lstrip && *start > done) { /* spaces taken already stay taken */
        size_t at = step_back(part.text, done, *start, &point);
        if (!utf8_is_space(point)) break;
        *start = at;
    }
    while (added->rstrip && *end < part.bytes) {
        size_t width = (size_t)utf8_decode(part.text + *end, part.bytes - *end, &point);
        if (!utf8_is_space(point)) break;
        *end += width;
    }
}

static struct part part_of(struct part whole, size_t start, size_t end) {
    return (struct part){whole.text + start, end - start, whole.first && start == 0,
                         whole.continues};
}

/* Cuts the added tokens of `trie` out and hands the rest to `rest`. Two rules are Hugging Face's: a
 * match that doesn't count (inside a word, or special where those are not parsed) still hides what
 * overlaps it, and the spaces that an rstrip took are searched on, so a token made of spaces is
 * found in them once more. */
static bool cut_added(struct encoder *encoder, const struct trie *trie, struct part part,
                      bool (*rest)(struct encoder *, struct part)) {
    size_t done = 0, at = 0;
    while (trie->count > 0 && at < part.bytes) {
        if (!trie->starts[(unsigned char)part.text[at]]) {
            at++;
            continue;
        }
        int32_t index = 0;
        size_t length = trie_longest(trie, part.text + at, part.bytes - at, &index);
        size_t start = at, end = at + length;
        at += length ? length : 1;
        if (length == 0) continue;
        const struct added_token *added = &encoder->tokenizer->added[index];
        if (added->special && !encoder->parse_special) continue;
        if (added->single_word && !stands_alone(part, start, end)) continue;
        widen(added, part, done, &start, &end);
        if (start > done && !rest(encoder, part_of(part, done, start))) return false;
        if (!token_list_push(encoder->out, added->id)) return false;
        done = end;
    }
    return done == part.bytes || rest(encoder, part_of(part, done, part.bytes));
}

static bool encode_normalized(struct encoder *encoder, struct part part) {
    return cut_added(encoder, &encoder->tokenizer->added_normalized, part, encode_words);
}

static bool encode_valid(struct encoder *encoder, struct part part) {
    return cut_added(encoder, &encoder->tokenizer->added_raw, part, encode_raw);
}

static bool push_bytes(struct encoder *encoder, const char *text, size_t bytes) {
    const struct tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->model == MODEL_BPE)
        return bpe_encode_raw(&tokenizer->bpe, &encoder->bpe, text, bytes, encoder->out);
    for (size_t i = 0; i < bytes; i++)
        if (!token_list_push(encoder->out, tokenizer->unigram.byte_tokens[(unsigned char)text[i]]))
            return false;
    return true;
}

/* Bytes that are no UTF-8 are encoded as bytes. */
static bool encode_as_bytes(struct encoder *encoder, const char *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        size_t valid = utf8_valid_prefix(text + at, bytes - at);
        struct part part = {text + at, valid, true, at > 0};
        if (valid > 0 && !encode_valid(encoder, part)) return false;
        at += valid;
        size_t bad = 0;
        uint32_t point;
        while (at + bad < bytes && utf8_decode(text + at + bad, bytes - at - bad, &point) == 0)
            bad++;
        if (bad > 0 && !push_bytes(encoder, text + at, bad)) return false;
        at += bad;
    }
    return true;
}

/* Or each ill-formed part becomes U+FFFD first. */
static bool encode_replaced(struct encoder *encoder, const char *text, size_t bytes) {
    struct byte_buffer clean = {0};
    bool kept = true;
    for (size_t at = 0; at < bytes && kept;) {
        size_t valid = utf8_valid_prefix(text + at, bytes - at);
        kept = buffer_append(&clean, text + at, valid);
        at += valid;
        if (at == bytes) break;
        kept = kept && buffer_append(&clean, UTF8_REPLACEMENT, 3);
        at += utf8_bad_part(text + at, bytes - at);
    }
    kept = kept && encode_valid(encoder, (struct part){clean.data, clean.count, true, false});
    buffer_free(&clean);
    return kept;
}

static bool append_ids(struct token_list *out, const int32_t *ids, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!token_list_push(out, ids[i])) return false;
    return true;
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                             unsigned flags, struct token_list *out) {
    struct encoder encoder = {
        .tokenizer = tokenizer, .out = out, .parse_special = flags & TOKENIZER_PARSE_SPECIAL};
    bool special = flags & TOKENIZER_ADD_SPECIAL;
    bpe_scratch_init(&encoder.bpe, bytes);
    bool kept = !special || append_ids(out, tokenizer->prefix, tokenizer->prefix_count);
    if (utf8_valid_prefix(text, bytes) == bytes)
        kept = kept && encode_valid(&encoder, (struct part){text, bytes, true, false});
    else if (tokenizer->unknown_as_bytes)
        kept = kept && encode_as_bytes(&encoder, text, bytes);
    else
        kept = kept && encode_replaced(&encoder, text, bytes);
    kept = kept && (!special || append_ids(out, tokenizer->suffix, tokenizer->suffix_count));
    normalize_scratch_free(&encoder.normalize);
    pretokenize_scratch_free(&encoder.pretokenize);
    bpe_scratch_free(&encoder.bpe);
    unigram_scratch_free(&encoder.unigram);
    return kept ? STATUS_OK
                : status_fail(STATUS_MEMORY, "no memory to tokenize %zu bytes of text", bytes);
}
