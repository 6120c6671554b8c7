/* SentencePiece: the model made of pieces, kinds and scores, and the reader of tokenizer.model (a
 * protobuf, sentencepiece_model.proto). */
#include "data/tokenizer_parts.h"

#include "data/utf8.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool takes_part(enum token_kind kind) {
    return kind == TOKEN_NORMAL || kind == TOKEN_USER || kind == TOKEN_UNUSED;
}

struct scored {
    float score;
    int32_t id;
};

static int by_falling_score(const void *left, const void *right) {
    const struct scored *a = left, *b = right;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return a->id - b->id;
}

/* Equal scores share a rank: between them the leftmost pair goes first. */
static enum status rank_by_score(const struct tokenizer *tokenizer, int32_t **ranks) {
    size_t count = tokenizer->token_count;
    struct scored *order = malloc(count * sizeof *order);
    *ranks = malloc(count * sizeof **ranks);
    if (!order || !*ranks) {
        free(order);
        return status_fail(STATUS_MEMORY, "no memory to rank %zu pieces", count);
    }
    for (size_t i = 0; i < count; i++)
        order[i] = (struct scored){tokenizer->tokens[i].score, (int32_t)i};
    qsort(order, count, sizeof *order, by_falling_score);
    int32_t rank = 0;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && order[i].score != order[i - 1].score) rank++;
        (*ranks)[order[i].id] = rank;
    }
    free(order);
    return STATUS_OK;
}

static enum status make_bpe(struct tokenizer *tokenizer, const struct sentencepiece_spec *spec) {
    struct bpe *bpe = &tokenizer->bpe;
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        if (takes_part(token->kind) && token->literal_bytes > 0)
            TRY(string_map_put(&bpe->words, token_literal(tokenizer, token), token->literal_bytes,
                               (int32_t)id));
    }
    bpe->token_count = (int32_t)tokenizer->token_count;
    bpe->unknown = spec->unknown;
    bpe->fuse_unknown = true;
    TRY(bpe_set_characters(bpe));
    int32_t *ranks = NULL;
    enum status status = rank_by_score(tokenizer, &ranks);
    if (status == STATUS_OK) status = bpe_pairs_from_ranks(bpe, ranks);
    free(ranks);
    TRY(status);
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        if (token->kind == TOKEN_UNUSED)
            TRY(bpe_set_unused(bpe, (int32_t)id, token_literal(tokenizer, token),
                               token->literal_bytes));
        if (token->kind == TOKEN_USER && token->literal_bytes > 0)
            TRY(trie_put(&bpe->whole, token_literal(tokenizer, token), token->literal_bytes,
                         (int32_t)id));
    }
    bpe_find_cuts(bpe);
    tokenizer->model = MODEL_BPE;
    return STATUS_OK;
}

static enum status make_unigram(struct tokenizer *tokenizer,
                                const struct sentencepiece_spec *spec) {
    struct unigram *unigram = &tokenizer->unigram;
    size_t count = tokenizer->token_count;
    unigram->scores = calloc(count, sizeof *unigram->scores);
    unigram->user_defined = calloc(count, sizeof *unigram->user_defined);
    if (!unigram->scores || !unigram->user_defined)
        return status_fail(STATUS_MEMORY, "no memory for %zu scores", count);
    unigram->smallest = INFINITY;
    unigram->largest = -INFINITY;
    for (size_t id = 0; id < count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        unigram->scores[id] = (double)token->score;
        unigram->user_defined[id] = token->kind == TOKEN_USER;
        if (token->kind == TOKEN_NORMAL) {
            unigram->smallest = fmin(unigram->smallest, (double)token->score);
            unigram->largest = fmax(unigram->largest, (double)token->score);
        }
        if ((token->kind == TOKEN_NORMAL || token->kind == TOKEN_USER) && token->literal_bytes > 0)
            TRY(trie_put(&unigram->pieces, token_literal(tokenizer, token), token->literal_bytes,
                         (int32_t)id));
    }
    if (isinf(unigram->smallest)) unigram->smallest = unigram->largest = 0;
    unigram->unknown = spec->unknown;
    unigram->fuse_unknown = true;
    tokenizer->model = MODEL_UNIGRAM;
    return STATUS_OK;
}

static enum status set_normalizer(struct tokenizer *tokenizer,
                                  const struct sentencepiece_spec *spec) {
    struct normalize_op *op = &tokenizer->normalizer.ops[tokenizer->normalizer.count++];
    *op = (struct normalize_op){.kind = NORMALIZE_SENTENCEPIECE,
                                .dummy_prefix = spec->dummy_prefix,
                                .trim_spaces = spec->trim_spaces,
                                .escape_spaces = spec->escape_spaces,
                                .space_is_suffix = spec->space_is_suffix};
    if (spec->charsmap_bytes > 0)
        TRY(charsmap_open(&op->charsmap, spec->charsmap, spec->charsmap_bytes));
    for (size_t id = 0; spec->verbatim && id < tokenizer->token_count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        if (token->kind == TOKEN_USER && token->literal_bytes > 0)
            TRY(trie_put(&op->verbatim, token_literal(tokenizer, token), token->literal_bytes,
                         (int32_t)id));
    }
    return STATUS_OK;
}

enum status tokenizer_sentencepiece(struct tokenizer *tokenizer,
                                    const struct sentencepiece_spec *spec) {
    struct decoder *decoder = &tokenizer->decoder;
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        if (utf8_valid_prefix(token_literal(tokenizer, token), token->literal_bytes) !=
            token->literal_bytes)
            return status_fail(STATUS_FORMAT, "piece %zu is not UTF-8", id);
        if (!isfinite(token->score))
            return status_fail(STATUS_FORMAT, "the score of piece %zu is not a number", id);
    }
    TRY(set_normalizer(tokenizer, spec));
    TRY(spec->unigram ? make_unigram(tokenizer, spec) : make_bpe(tokenizer, spec));
    int32_t *bytes = spec->unigram ? tokenizer->unigram.byte_tokens : tokenizer->bpe.byte_tokens;
    bool has_bytes = spec->byte_fallback && tokenizer_byte_tokens(tokenizer, bytes);
    tokenizer->unigram.has_byte_tokens = tokenizer->bpe.has_byte_tokens = has_bytes;
    tokenizer->unknown_as_bytes = has_bytes;
    for (int i = 0; has_bytes && i < 256; i++) tokenizer->tokens[bytes[i]].kind = TOKEN_BYTE;
    decoder->rule = BYTES_CHARACTERS;
    decoder->strip_left = spec->trim_spaces ? INT32_MAX : spec->dummy_prefix ? 1 : 0;
    if (spec->space_is_suffix) decoder->strip_right = spec->dummy_prefix ? 1 : 0;
    int settings[] = {spec->unigram,     spec->byte_fallback, spec->dummy_prefix,
                      spec->trim_spaces, spec->escape_spaces, spec->space_is_suffix,
                      spec->unknown,     spec->verbatim};
    tokenizer_note(tokenizer, settings, sizeof settings);
    tokenizer_note(tokenizer, spec->charsmap ? spec->charsmap : "", spec->charsmap_bytes);
    return tokenizer_decode_replace(tokenizer, "\xE2\x96\x81", 3, " ", 1);
}

/* Protobuf: a field is a key (number << 3 | wire type), then a varint, 4 or 8 bytes, or a length
 * and that many bytes. */
struct field {
    uint32_t number;
    uint64_t value;   /* varint, or the bits of a fixed value */
    const char *data; /* of a length-delimited field, else NULL */
    size_t bytes;
};
struct wire {
    const char *at, *end;
};

static bool read_varint(struct wire *wire, uint64_t *value) {
    *value = 0;
    for (int shift = 0; shift < 64 && wire->at < wire->end; shift += 7) {
        unsigned char byte = (unsigned char)*wire->at++;
        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

static bool read_fixed(struct wire *wire, size_t bytes, uint64_t *value) {
    if ((size_t)(wire->end - wire->at) < bytes) return false;
    *value = 0;
    memcpy(value, wire->at, bytes);
    wire->at += bytes;
    return true;
}

/* False at the end or where the bytes stop making sense; then wire->at tells which. */
static bool next_field(struct wire *wire, struct field *field) {
    uint64_t key;
    const char *start = wire->at;
    *field = (struct field){0};
    bool good = wire->at < wire->end && read_varint(wire, &key) && key >> 3 <= UINT32_MAX;
    if (good) {
        field->number = (uint32_t)(key >> 3);
        switch (key & 7) {
        case 0:
            good = read_varint(wire, &field->value);
            break;
        case 1:
            good = read_fixed(wire, 8, &field->value);
            break;
        case 5:
            good = read_fixed(wire, 4, &field->value);
            break;
        case 2:
            good = read_varint(wire, &field->value) &&
                   field->value <= (uint64_t)(wire->end - wire->at);
            if (good) {
                field->data = wire->at;
                field->bytes = (size_t)field->value;
                wire->at += field->bytes;
            }
            break;
        default:
            good = false;
        }
    }
    if (!good && start < wire->end) wire->at = start;
    return good;
}

struct model_settings {
    struct sentencepiece_spec spec;
    int32_t bos, eos;
    uint64_t type;
};

static enum status read_piece(struct tokenizer *tokenizer, const struct field *message) {
    static const enum token_kind kinds[] = {TOKEN_ABSENT,  TOKEN_NORMAL, TOKEN_UNKNOWN,
                                            TOKEN_CONTROL, TOKEN_USER,   TOKEN_UNUSED,
                                            TOKEN_BYTE};
    struct wire wire = {message->data, message->data + message->bytes};
    struct field field, piece = {0};
    uint64_t kind = 1;
    float score = 0;
    while (next_field(&wire, &field)) {
        uint32_t bits = (uint32_t)field.value;
        if (field.number == 1) piece = field;
        if (field.number == 2) memcpy(&score, &bits, 4);
        if (field.number == 3) kind = field.value;
    }
    size_t id = tokenizer->token_count;
    if (wire.at != wire.end || !piece.data || kind == 0 || kind >= sizeof kinds / sizeof kinds[0])
        return status_fail(STATUS_FORMAT, "piece %zu is damaged", id);
    return tokenizer_set_token(tokenizer, (int64_t)id, piece.data, piece.bytes, kinds[kind], score);
}

static int32_t as_id(uint64_t value) {
    return (int64_t)value >= 0 && value < TOKENIZER_MAX_TOKENS ? (int32_t)value : -1;
}

static bool read_trainer(struct model_settings *settings, const struct field *message) {
    struct wire wire = {message->data, message->data + message->bytes};
    struct field field;
    while (next_field(&wire, &field)) {
        switch (field.number) {
        case 3:
            settings->type = field.value;
            break;
        case 24:
            settings->spec.space_is_suffix = field.value != 0;
            break;
        case 35:
            settings->spec.byte_fallback = field.value != 0;
            break;
        case 40:
            settings->spec.unknown = as_id(field.value);
            break;
        case 41:
            settings->bos = as_id(field.value);
            break;
        case 42:
            settings->eos = as_id(field.value);
            break;
        default:
            break;
        }
    }
    return wire.at == wire.end;
}

static bool read_normalizer(struct model_settings *settings, const struct field *message) {
    struct wire wire = {message->data, message->data + message->bytes};
    struct field field;
    while (next_field(&wire, &field)) {
        switch (field.number) {
        case 2:
            settings->spec.charsmap = field.data;
            settings->spec.charsmap_bytes = field.bytes;
            break;
        case 3:
            settings->spec.dummy_prefix = field.value != 0;
            break;
        case 4:
            settings->spec.trim_spaces = field.value != 0;
            break;
        case 5:
            settings->spec.escape_spaces = field.value != 0;
            break;
        default:
            break;
        }
    }
    return wire.at == wire.end;
}

static enum status read_model(struct tokenizer *tokenizer, struct model_settings *settings,
                              const char *data, size_t bytes) {
    struct wire wire = {data, data + bytes};
    struct field field;
    while (next_field(&wire, &field)) {
        if (field.number >= 1 && field.number <= 3 && !field.data)
            return status_fail(STATUS_FORMAT, "field %u of the model is no message", field.number);
        if (field.number == 1) TRY(read_piece(tokenizer, &field));
        if (field.number == 2 && !read_trainer(settings, &field))
            return status_fail(STATUS_FORMAT, "the trainer_spec is damaged");
        if (field.number == 3 && !read_normalizer(settings, &field))
            return status_fail(STATUS_FORMAT, "the normalizer_spec is damaged");
    }
    if (wire.at != wire.end || tokenizer->token_count == 0)
        return status_fail(STATUS_FORMAT, "it is no SentencePiece model, or cut short");
    return STATUS_OK;
}

/* Control pieces can be parsed when asked for, and decode to nothing otherwise. */
static enum status add_controls(struct tokenizer *tokenizer) {
    size_t count = tokenizer->token_count;
    for (size_t id = 0; id < count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        if (token->kind != TOKEN_CONTROL || token->literal_bytes == 0) continue;
        struct added_token added = {
            .id = (int32_t)id, .bytes = token->literal_bytes, .special = true};
        TRY(tokenizer_add_known(tokenizer, &added));
    }
    return STATUS_OK;
}

enum status tokenizer_read_model(struct tokenizer *tokenizer, const char *data, size_t bytes) {
    struct model_settings settings = {.spec = {.dummy_prefix = true,
                                               .trim_spaces = true,
                                               .escape_spaces = true,
                                               .verbatim = true},
                                      .bos = 1,
                                      .eos = 2,
                                      .type = 1};
    TRY(read_model(tokenizer, &settings, data, bytes));
    if (settings.type != 1 && settings.type != 2)
        return status_fail(STATUS_UNSUPPORTED, "a SentencePiece model of type %llu",
                           (unsigned long long)settings.type);
    settings.spec.unigram = settings.type == 1;
    if (settings.spec.unknown >= (int32_t)tokenizer->token_count) settings.spec.unknown = -1;
    TRY(tokenizer_sentencepiece(tokenizer, &settings.spec));
    TRY(add_controls(tokenizer));
    tokenizer->bos = settings.bos;
    tokenizer->eos = settings.eos;
    bool has_bos = settings.bos >= 0 && settings.bos < (int32_t)tokenizer->token_count &&
                   tokenizer->tokens[settings.bos].kind == TOKEN_CONTROL;
    if (!has_bos) tokenizer->bos = -1;
    return has_bos ? tokenizer_add_prefix(tokenizer, settings.bos) : STATUS_OK;
}
