/* A tokenizer as GGUF metadata. Source: the GGUF specification (tokenizer.ggml.*). What the format
 * can't say is refused: a vocabulary that encodes otherwise in another program is worse than none.
 */
#include "core/gguf_write.h"
#include "data/tokenizer_parts.h"

#include "data/utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The arrays of a file, growing; strings are offsets into `texts` until all are there. */
struct vocabulary {
    struct byte_buffer texts;
    struct gguf_string *strings; /* text holds no pointer yet */
    size_t *offsets;
    size_t count, string_capacity, offset_capacity;
    int32_t *kinds;
    float *scores;
};

static void vocabulary_free(struct vocabulary *vocabulary) {
    buffer_free(&vocabulary->texts);
    free(vocabulary->strings);
    free(vocabulary->offsets);
    free(vocabulary->kinds);
    free(vocabulary->scores);
}

/* The string that `texts` got since `offset` is the next one. */
static enum status end_string(struct vocabulary *v, size_t offset) {
    if (!array_reserve(&v->strings, &v->string_capacity, v->count + 1, sizeof *v->strings) ||
        !array_reserve(&v->offsets, &v->offset_capacity, v->count + 1, sizeof *v->offsets))
        return status_fail(STATUS_MEMORY, "no memory for the vocabulary");
    v->offsets[v->count] = offset;
    v->strings[v->count++] = (struct gguf_string){NULL, v->texts.count - offset};
    return STATUS_OK;
}

static void put_strings(struct vocabulary *v, struct gguf_metadata *metadata, const char *key) {
    for (size_t i = 0; i < v->count; i++) v->strings[i].text = v->texts.data + v->offsets[i];
    gguf_put_strings(metadata, key, v->strings, v->count);
    v->count = v->texts.count = 0;
}

/* A token's text as GGUF wants it: bytes of a vocabulary that isn't written in GPT-2's alphabet
 * (tiktoken) are brought into it. */
static enum status append_text(struct vocabulary *v, const struct tokenizer *tokenizer, size_t id) {
    const struct token *token = &tokenizer->tokens[id];
    const char *text = token_literal(tokenizer, token);
    bool kept = true;
    bool raw =
        tokenizer->bpe.bytes && !tokenizer->decoder.byte_level && token->kind == TOKEN_NORMAL;
    if (!raw) kept = buffer_append(&v->texts, text, token->literal_bytes);
    for (uint32_t i = 0; raw && kept && i < token->literal_bytes; i++) {
        char point[4];
        int width = utf8_encode(byte_level_point((unsigned char)text[i]), point);
        kept = buffer_append(&v->texts, point, (size_t)width);
    }
    return kept ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for the vocabulary");
}

static int32_t kind_of(const struct tokenizer *tokenizer, size_t id) {
    static const int32_t numbers[] = {
        [TOKEN_ABSENT] = 5, [TOKEN_NORMAL] = 1, [TOKEN_UNKNOWN] = 2, [TOKEN_CONTROL] = 3,
        [TOKEN_USER] = 4,   [TOKEN_UNUSED] = 5, [TOKEN_BYTE] = 6};
    if (id >= tokenizer->token_count) return numbers[TOKEN_UNUSED];
    bool unknown = !tokenizer->bpe.bytes && (int32_t)id == tokenizer->bpe.unknown;
    return numbers[unknown ? TOKEN_UNKNOWN : tokenizer->tokens[id].kind];
}

/* Ids without a token get a text that no other has. */
static enum status put_tokens(struct vocabulary *v, const struct tokenizer *tokenizer, size_t vocab,
                              struct gguf_metadata *metadata) {
    v->kinds = calloc(vocab + 1, sizeof *v->kinds);
    if (!v->kinds) return status_fail(STATUS_MEMORY, "no memory for the vocabulary");
    for (size_t id = 0; id < vocab; id++) {
        size_t offset = v->texts.count;
        char filler[32];
        bool absent = id >= tokenizer->token_count || tokenizer->tokens[id].kind == TOKEN_ABSENT;
        int bytes = snprintf(filler, sizeof filler, TOKENIZER_FILLER, id);
        if (!absent)
            TRY(append_text(v, tokenizer, id));
        else if (!buffer_append(&v->texts, filler, (size_t)bytes))
            return status_fail(STATUS_MEMORY, "no memory for the vocabulary");
        TRY(end_string(v, offset));
        v->kinds[id] = kind_of(tokenizer, id);
    }
    put_strings(v, metadata, "tokenizer.ggml.tokens");
    gguf_put_array(metadata, "tokenizer.ggml.token_type", GGUF_I32, v->kinds, vocab);
    return STATUS_OK;
}

static enum status append_merges(struct vocabulary *v, const struct tokenizer *tokenizer,
                                 const struct pair_slot *pairs, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t offset = v->texts.count;
        TRY(append_text(v, tokenizer, (size_t)pairs[i].left));
        if (!buffer_append(&v->texts, " ", 1))
            return status_fail(STATUS_MEMORY, "no memory for %zu merges", count);
        TRY(append_text(v, tokenizer, (size_t)pairs[i].right));
        TRY(end_string(v, offset));
    }
    return STATUS_OK;
}

static enum status put_byte_bpe(struct vocabulary *v, const struct tokenizer *tokenizer,
                                size_t vocab, struct gguf_metadata *metadata) {
    const char *rule;
    struct pair_slot *pairs;
    TRY(tokenizer_gguf_rule(tokenizer, &rule));
    gguf_put_string(metadata, "tokenizer.ggml.model", "gpt2");
    gguf_put_string(metadata, "tokenizer.ggml.pre", rule);
    TRY(put_tokens(v, tokenizer, vocab, metadata));
    TRY(pair_map_sorted(&tokenizer->bpe.pairs, &pairs));
    enum status status = append_merges(v, tokenizer, pairs, tokenizer->bpe.pairs.count);
    free(pairs);
    if (status == STATUS_OK) put_strings(v, metadata, "tokenizer.ggml.merges");
    return status;
}

/* In GGUF any two pieces that make a piece may merge, by that piece's score. Merges with ranks of
 * their own say the same when each piece's ranks stand together and none is missing. */
static enum status check_pieces(const struct tokenizer *tokenizer, const struct pair_slot *pairs) {
    static const char reason[] = "its merges are not those of a SentencePiece model, which is all "
                                 "that GGUF knows beside byte-level BPE";
    const struct bpe *bpe = &tokenizer->bpe;
    struct bpe full = *bpe; /* the same words, every merge that they allow */
    int32_t *ranks = calloc(tokenizer->token_count, sizeof *ranks);
    full.pairs = (struct pair_map){0};
    if (!ranks) return status_fail(STATUS_MEMORY, "no memory for the vocabulary");
    enum status status = bpe_pairs_from_ranks(&full, ranks);
    if (status == STATUS_OK && full.pairs.count != bpe->pairs.count)
        status = status_fail(STATUS_UNSUPPORTED, "%s", reason);
    pair_map_free(&full.pairs);
    for (size_t i = 0; i < bpe->pairs.count && status == STATUS_OK; i++) {
        bool goes_on = i > 0 && pairs[i - 1].result == pairs[i].result;
        if (!goes_on && ranks[pairs[i].result]++ > 0)
            status = status_fail(STATUS_UNSUPPORTED, "%s", reason);
    }
    free(ranks);
    return status;
}

/* A piece that the first merges make has the best score. */
static enum status scores_of_ranks(struct vocabulary *v, const struct tokenizer *tokenizer) {
    struct pair_slot *pairs;
    TRY(pair_map_sorted(&tokenizer->bpe.pairs, &pairs));
    enum status status = check_pieces(tokenizer, pairs);
    float score = 0.0f;
    for (size_t i = 0; i < tokenizer->bpe.pairs.count && status == STATUS_OK; i++) {
        if (i > 0 && pairs[i - 1].result != pairs[i].result) score -= 1.0f;
        v->scores[pairs[i].result] = score;
    }
    free(pairs);
    return status;
}

/* U+2581, which stands for a space. */
static bool is_mark(const struct byte_buffer *text) {
    return text->count == 3 && memcmp(text->data, "\xE2\x96\x81", 3) == 0;
}

bool tokenizer_spaces(const struct tokenizer *tokenizer, bool *prefix, bool *trim) {
    const struct normalizer *normalizer = &tokenizer->normalizer;
    const struct pretokenizer *cuts = &tokenizer->pretokenizer;
    const struct normalize_op *ops = normalizer->ops;
    *prefix = *trim = false;
    if (normalizer->count == 1 && cuts->count == 0 && ops[0].kind == NORMALIZE_SENTENCEPIECE &&
        ops[0].escape_spaces && !ops[0].space_is_suffix && !ops[0].charsmap.units) {
        *prefix = ops[0].dummy_prefix;
        *trim = ops[0].trim_spaces;
        return true;
    }
    if (normalizer->count == 2 && cuts->count == 0 && ops[0].kind == NORMALIZE_PREPEND &&
        is_mark(&ops[0].content) && ops[1].kind == NORMALIZE_REPLACE && !ops[1].regex &&
        ops[1].pattern.count == 1 && ops[1].pattern.data[0] == ' ' && is_mark(&ops[1].content)) {
        *prefix = true;
        return true;
    }
    if (normalizer->count == 0 && cuts->count == 1 && cuts->ops[0].kind == PRETOKENIZE_METASPACE &&
        is_mark(&cuts->ops[0].replacement) &&
        (!cuts->ops[0].split || tokenizer->bpe.cut_at_spaces)) {
        *prefix = cuts->ops[0].prefix != METASPACE_NEVER;
        return true;
    }
    return false;
}

static enum status put_sentencepiece(struct vocabulary *v, const struct tokenizer *tokenizer,
                                     size_t vocab, struct gguf_metadata *metadata) {
    bool prefix, trim, scored = false;
    if (!tokenizer_spaces(tokenizer, &prefix, &trim))
        return status_fail(STATUS_UNSUPPORTED, "GGUF can't say what the tokenizer's normalizers "
                                               "and pre-tokenizers do");
    v->scores = calloc(vocab + 1, sizeof *v->scores);
    if (!v->scores) return status_fail(STATUS_MEMORY, "no memory for the vocabulary");
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        v->scores[id] = tokenizer->tokens[id].score;
        scored = scored || v->scores[id] != 0.0f;
    }
    if (!scored) TRY(scores_of_ranks(v, tokenizer));
    gguf_put_string(metadata, "tokenizer.ggml.model", "llama");
    gguf_put_string(metadata, "tokenizer.ggml.pre", "default");
    TRY(put_tokens(v, tokenizer, vocab, metadata));
    gguf_put_array(metadata, "tokenizer.ggml.scores", GGUF_F32, v->scores, vocab);
    if (tokenizer->bpe.unknown >= 0)
        gguf_put_u32(metadata, "tokenizer.ggml.unknown_token_id", (uint32_t)tokenizer->bpe.unknown);
    gguf_put_bool(metadata, "tokenizer.ggml.add_space_prefix", prefix);
    gguf_put_bool(metadata, "tokenizer.ggml.remove_extra_whitespaces", trim);
    return STATUS_OK;
}

/* BOS before and EOS behind a text are all that GGUF knows. */
static enum status put_ends(const struct tokenizer *tokenizer, struct gguf_metadata *metadata) {
    bool before = tokenizer->prefix_count > 0, after = tokenizer->suffix_count > 0;
    if ((before && (tokenizer->prefix_count > 1 || tokenizer->prefix[0] != tokenizer->bos)) ||
        (after && (tokenizer->suffix_count > 1 || tokenizer->suffix[0] != tokenizer->eos)))
        return status_fail(STATUS_UNSUPPORTED, "GGUF can't say that other tokens than BOS and EOS "
                                               "are put around a text");
    if (tokenizer->bos >= 0)
        gguf_put_u32(metadata, "tokenizer.ggml.bos_token_id", (uint32_t)tokenizer->bos);
    if (tokenizer->eos >= 0)
        gguf_put_u32(metadata, "tokenizer.ggml.eos_token_id", (uint32_t)tokenizer->eos);
    gguf_put_bool(metadata, "tokenizer.ggml.add_bos_token", before);
    gguf_put_bool(metadata, "tokenizer.ggml.add_eos_token", after);
    if (tokenizer->chat_template)
        gguf_put_string(metadata, "tokenizer.chat_template", tokenizer->chat_template);
    return STATUS_OK;
}

enum status tokenizer_put_gguf(const struct tokenizer *tokenizer, int64_t vocab,
                               struct gguf_metadata *metadata) {
    struct vocabulary v = {0};
    if ((int64_t)tokenizer->token_count > vocab)
        return status_fail(STATUS_SHAPE,
                           "the tokenizer has %zu tokens, the model's vocabulary only %lld",
                           tokenizer->token_count, (long long)vocab);
    if (tokenizer->model != MODEL_BPE)
        return status_fail(STATUS_UNSUPPORTED, "a unigram vocabulary is not written into GGUF");
    enum status status = tokenizer->bpe.bytes
                             ? put_byte_bpe(&v, tokenizer, (size_t)vocab, metadata)
                             : put_sentencepiece(&v, tokenizer, (size_t)vocab, metadata);
    vocabulary_free(&v);
    return status == STATUS_OK ? put_ends(tokenizer, metadata) : status;
}
