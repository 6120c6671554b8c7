/* The steps by which every file format makes a tokenizer. */
#define _GNU_SOURCE
#include "data/tokenizer_parts.h"

#include "data/utf8.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum status tokenizer_create(struct tokenizer **tokenizer) {
    *tokenizer = calloc(1, sizeof **tokenizer);
    if (!*tokenizer) return status_fail(STATUS_MEMORY, "no memory for a tokenizer");
    if (!buffer_append(&(*tokenizer)->texts, "", 1)) { /* so that every offset is inside */
        free(*tokenizer);
        *tokenizer = NULL;
        return status_fail(STATUS_MEMORY, "no memory for a tokenizer");
    }
    (*tokenizer)->decoder.strip = ' ';
    (*tokenizer)->bos = (*tokenizer)->eos = -1;
    (*tokenizer)->bpe.unknown = (*tokenizer)->unigram.unknown = -1;
    return STATUS_OK;
}

static enum status keep_text(struct tokenizer *tokenizer, const char *text, size_t bytes,
                             size_t *offset) {
    *offset = tokenizer->texts.count;
    if (bytes > UINT32_MAX) return status_fail(STATUS_FORMAT, "a token of %zu bytes", bytes);
    if (!buffer_append(&tokenizer->texts, text, bytes))
        return status_fail(STATUS_MEMORY, "no memory for the tokens' text");
    return STATUS_OK;
}

enum status tokenizer_set_token(struct tokenizer *tokenizer, int64_t id, const char *literal,
                                size_t bytes, enum token_kind kind, float score) {
    if (id < 0 || id >= TOKENIZER_MAX_TOKENS)
        return status_fail(STATUS_FORMAT, "token '%.*s' has the id %lld, which can't be",
                           bytes < 80 ? (int)bytes : 80, literal, (long long)id);
    if ((size_t)id >= tokenizer->token_count) {
        if (!array_reserve(&tokenizer->tokens, &tokenizer->token_capacity, (size_t)id + 1,
                           sizeof *tokenizer->tokens))
            return status_fail(STATUS_MEMORY, "no memory for %lld tokens", (long long)id + 1);
        memset(tokenizer->tokens + tokenizer->token_count, 0,
               ((size_t)id + 1 - tokenizer->token_count) * sizeof *tokenizer->tokens);
        tokenizer->token_count = (size_t)id + 1;
    }
    struct token *token = &tokenizer->tokens[id];
    TRY(keep_text(tokenizer, literal, bytes, &token->literal));
    token->literal_bytes = (uint32_t)bytes;
    token->kind = kind;
    token->score = score;
    return STATUS_OK;
}

static bool is_added(const struct tokenizer *tokenizer, int32_t id) {
    if (id < 0 || (size_t)id >= tokenizer->token_count) return false;
    enum token_kind kind = tokenizer->tokens[id].kind;
    return kind == TOKEN_CONTROL || kind == TOKEN_USER;
}

enum status tokenizer_add(struct tokenizer *tokenizer, const struct added_token *added,
                          const char *text) {
    size_t bytes = added->bytes;
    enum token_kind kind = added->special ? TOKEN_CONTROL : TOKEN_USER;
    if (utf8_valid_prefix(text, bytes) != bytes)
        return status_fail(STATUS_FORMAT, "the added token %d is not UTF-8", added->id);
    for (size_t i = 0; i < tokenizer->added_count && is_added(tokenizer, added->id); i++)
        if (tokenizer->added[i].id == added->id) return STATUS_OK; /* said twice: the first holds */
    TRY(tokenizer_set_token(tokenizer, added->id, text, bytes, kind, 0));
    return bytes == 0 ? STATUS_OK : tokenizer_add_known(tokenizer, added);
}

enum status tokenizer_add_known(struct tokenizer *tokenizer, const struct added_token *added) {
    if (!array_reserve(&tokenizer->added, &tokenizer->added_capacity, tokenizer->added_count + 1,
                       sizeof *tokenizer->added))
        return status_fail(STATUS_MEMORY, "no memory for the added tokens");
    struct added_token *copy = &tokenizer->added[tokenizer->added_count++];
    *copy = *added;
    copy->content = tokenizer->tokens[added->id].literal;
    return STATUS_OK;
}

static enum status push_id(int32_t **ids, size_t *count, size_t *capacity, int32_t id) {
    if (!array_reserve(ids, capacity, *count + 1, sizeof **ids))
        return status_fail(STATUS_MEMORY, "no memory for the special tokens");
    (*ids)[(*count)++] = id;
    return STATUS_OK;
}

enum status tokenizer_add_prefix(struct tokenizer *tokenizer, int32_t id) {
    return push_id(&tokenizer->prefix, &tokenizer->prefix_count, &tokenizer->prefix_capacity, id);
}

enum status tokenizer_add_suffix(struct tokenizer *tokenizer, int32_t id) {
    return push_id(&tokenizer->suffix, &tokenizer->suffix_count, &tokenizer->suffix_capacity, id);
}

void tokenizer_note(struct tokenizer *tokenizer, const void *setting, size_t bytes) {
    tokenizer->settings_hash = XXH3_64bits_withSeed(setting, bytes, tokenizer->settings_hash);
}

enum status tokenizer_decode_replace(struct tokenizer *tokenizer, const char *pattern,
                                     size_t pattern_bytes, const char *content,
                                     size_t content_bytes) {
    struct decoder *decoder = &tokenizer->decoder;
    if (decoder->replacement_count == DECODER_MAX_REPLACEMENTS)
        return status_fail(STATUS_UNSUPPORTED, "a decoder with more than %d replacements",
                           DECODER_MAX_REPLACEMENTS);
    struct decoder_replacement *replacement = &decoder->replacements[decoder->replacement_count++];
    if (!buffer_append(&replacement->pattern, pattern, pattern_bytes) ||
        !buffer_append(&replacement->content, content, content_bytes))
        return status_fail(STATUS_MEMORY, "no memory for the decoder");
    return STATUS_OK;
}

void tokenizer_normalize_nfc(struct tokenizer *tokenizer) {
    const int settings[] = {NORMALIZE_NFC};
    tokenizer->normalizer.ops[tokenizer->normalizer.count++] =
        (struct normalize_op){.kind = NORMALIZE_NFC};
    tokenizer_note(tokenizer, settings, sizeof settings);
}

static enum status next_op(struct tokenizer *tokenizer, struct pretokenize_op **op) {
    struct pretokenizer *pretokenizer = &tokenizer->pretokenizer;
    if (pretokenizer->count == PRETOKENIZE_MAX_OPS)
        return status_fail(STATUS_UNSUPPORTED, "more than %d pre-tokenizers", PRETOKENIZE_MAX_OPS);
    *op = &pretokenizer->ops[pretokenizer->count++];
    return STATUS_OK;
}

enum status tokenizer_split_by(struct tokenizer *tokenizer, const char *pattern, size_t bytes,
                               enum split_behavior behavior, bool invert, bool lines) {
    struct pretokenize_op *op = NULL;
    TRY(next_op(tokenizer, &op));
    op->kind = PRETOKENIZE_SPLIT;
    op->behavior = behavior;
    op->invert = invert;
    op->lines = lines && memchr(pattern, '$', bytes); /* it matters to no other pattern */
    if (!buffer_append(&op->text, pattern, bytes))
        return status_fail(STATUS_MEMORY, "no memory for a pattern");
    int settings[] = {PRETOKENIZE_SPLIT, (int)behavior, invert, op->lines};
    tokenizer_note(tokenizer, settings, sizeof settings);
    tokenizer_note(tokenizer, pattern, bytes);
    return regex_compile(&op->regex, pattern, bytes, lines);
}

enum status tokenizer_bytes_op(struct tokenizer *tokenizer, bool prefix, bool gpt2_regex) {
    struct pretokenize_op *op = NULL;
    int settings[] = {PRETOKENIZE_BYTES, prefix, gpt2_regex};
    TRY(next_op(tokenizer, &op));
    op->kind = PRETOKENIZE_BYTES;
    op->add_prefix_space = prefix;
    tokenizer_note(tokenizer, settings, sizeof settings);
    if (!gpt2_regex) return STATUS_OK;
    return regex_compile(&op->regex, pretokenize_gpt2, strlen(pretokenize_gpt2), false);
}

enum status tokenizer_byte_words(struct tokenizer *tokenizer) {
    struct byte_buffer word = {0};
    enum status status = STATUS_OK;
    for (size_t id = 0; id < tokenizer->token_count && status == STATUS_OK; id++) {
        const struct token *token = &tokenizer->tokens[id];
        bool memory = true;
        if (token->kind != TOKEN_NORMAL || token->literal_bytes == 0) continue;
        word.count = 0;
        /* what isn't written in the alphabet can't come out of the merges */
        if (byte_level_decode(&word, token_literal(tokenizer, token), token->literal_bytes,
                              &memory))
            status = string_map_put(&tokenizer->bpe.words, word.data, word.count, (int32_t)id);
        else if (!memory)
            status = status_fail(STATUS_MEMORY, "no memory for the vocabulary");
    }
    buffer_free(&word);
    tokenizer->bpe.token_count = (int32_t)tokenizer->token_count;
    tokenizer->model = MODEL_BPE;
    tokenizer->unknown_as_bytes = true;
    bpe_set_bytes(&tokenizer->bpe);
    return status;
}

bool tokenizer_byte_tokens(const struct tokenizer *tokenizer, int32_t ids[256]) {
    int found = 0;
    for (int i = 0; i < 256; i++) ids[i] = -1;
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        char text[7];
        if (token->literal_bytes != 6) continue;
        memcpy(text, token_literal(tokenizer, token), 6);
        text[6] = 0;
        if (memcmp(text, "<0x", 3) != 0 || text[5] != '>') continue;
        char *end;
        long byte = strtol(text + 3, &end, 16);
        if (end != text + 5 || byte < 0 || ids[byte] >= 0) continue;
        ids[byte] = (int32_t)id;
        found++;
    }
    return found == 256;
}

/* A merge's two sides are words of the vocabulary, and so is what they make. */
static enum status merge_id(struct tokenizer *tokenizer, struct byte_buffer *word,
                            const char *literal, size_t bytes, int32_t *id) {
    bool memory = true;
    if (bytes == 0) return status_fail(STATUS_FORMAT, "a merge has an empty side");
    if (!tokenizer->bpe.bytes) {
        *id = string_map_get(&tokenizer->bpe.words, literal, bytes);
        if (!buffer_append(word, literal, bytes))
            return status_fail(STATUS_MEMORY, "no memory for a merge");
    } else {
        size_t before = word->count;
        *id = -1;
        if (byte_level_decode(word, literal, bytes, &memory))
            *id = string_map_get(&tokenizer->bpe.words, word->data + before, word->count - before);
        if (!memory) return status_fail(STATUS_MEMORY, "no memory for a merge");
    }
    if (*id < 0)
        return status_fail(STATUS_FORMAT, "a merge uses '%.*s', which is not in the vocabulary",
                           bytes < 80 ? (int)bytes : 80, literal);
    return STATUS_OK;
}

enum status tokenizer_merge(struct tokenizer *tokenizer, int32_t rank, const char *left,
                            size_t left_bytes, const char *right, size_t right_bytes) {
    struct byte_buffer word = {0};
    int32_t left_id = -1, right_id = -1;
    enum status status = merge_id(tokenizer, &word, left, left_bytes, &left_id);
    if (status == STATUS_OK) status = merge_id(tokenizer, &word, right, right_bytes, &right_id);
    if (status == STATUS_OK) {
        int32_t result = string_map_get(&tokenizer->bpe.words, word.data, word.count);
        status = result < 0
                     ? status_fail(STATUS_FORMAT,
                                   "the merge '%.*s' + '%.*s' makes no entry of the vocabulary",
                                   left_bytes < 80 ? (int)left_bytes : 80, left,
                                   right_bytes < 80 ? (int)right_bytes : 80, right)
                     : pair_map_put(&tokenizer->bpe.pairs, left_id, right_id, rank, result);
    }
    buffer_free(&word);
    return status;
}

static enum status append_piece(struct tokenizer *tokenizer, const char *text, size_t bytes) {
    if (buffer_append(&tokenizer->texts, text, bytes)) return STATUS_OK;
    return status_fail(STATUS_MEMORY, "no memory for the tokens' text");
}

/* `text` with the decoder's replacements made, one after the other. */
static enum status replace_all(struct byte_buffer *text, const struct decoder_replacement *with) {
    struct byte_buffer out = {0};
    size_t done = 0;
    bool kept = true;
    while (kept && with->pattern.count > 0 && done < text->count) {
        const char *found =
            memmem(text->data + done, text->count - done, with->pattern.data, with->pattern.count);
        if (!found) break;
        size_t at = (size_t)(found - text->data);
        kept = buffer_append(&out, text->data + done, at - done) &&
               buffer_append(&out, with->content.data, with->content.count);
        done = at + with->pattern.count;
    }
    kept = kept && buffer_append(&out, text->data ? text->data + done : "", text->count - done);
    buffer_free(text);
    *text = out;
    return kept ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for the tokens' text");
}

/* Bytes a piece may take when each of its bytes that is no UTF-8 becomes U+FFFD. */
static size_t shown_bytes(const char *text, size_t bytes) {
    size_t shown = 0;
    for (size_t at = 0; at < bytes;) {
        uint32_t point;
        int width = utf8_decode(text + at, bytes - at, &point);
        shown += width ? (size_t)width : sizeof UTF8_REPLACEMENT - 1;
        at += width ? (size_t)width : 1;
    }
    return shown;
}

static enum status make_piece(struct tokenizer *tokenizer, struct token *token) {
    const struct decoder *decoder = &tokenizer->decoder;
    struct byte_buffer text = {0};
    bool memory = true;
    if (token->kind == TOKEN_BYTE) {
        char hex[3] = {0};
        memcpy(hex, token_literal(tokenizer, token) + 3, 2);
        char byte = (char)strtol(hex, NULL, 16);
        memory = buffer_append(&text, &byte, 1);
    } else if (!decoder->byte_level || !byte_level_decode(&text, token_literal(tokenizer, token),
                                                          token->literal_bytes, &memory)) {
        memory =
            memory && buffer_append(&text, token_literal(tokenizer, token), token->literal_bytes);
    }
    enum status status =
        memory ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for the tokens' text");
    for (int i = 0; i < decoder->replacement_count && status == STATUS_OK; i++)
        if (token->kind != TOKEN_BYTE) status = replace_all(&text, &decoder->replacements[i]);
    token->piece = tokenizer->texts.count;
    token->piece_bytes = (uint32_t)text.count;
    if (status == STATUS_OK) status = append_piece(tokenizer, text.data, text.count);
    size_t longest = shown_bytes(text.data ? text.data : "", text.count);
    if (longest > tokenizer->max_bytes) tokenizer->max_bytes = longest;
    buffer_free(&text);
    return status;
}

/* Normalised added tokens are looked for in the normalised text, so they are normalised too. */
static enum status index_added(struct tokenizer *tokenizer) {
    struct normalize_scratch scratch = {0};
    enum status status = STATUS_OK;
    for (size_t i = 0; i < tokenizer->added_count && status == STATUS_OK; i++) {
        const struct added_token *added = &tokenizer->added[i];
        const char *text = tokenizer->texts.data + added->content;
        size_t bytes = added->bytes;
        if (added->normalized &&
            !normalizer_run(&tokenizer->normalizer, &scratch, text, bytes, false, &text, &bytes))
            status = status_fail(STATUS_MEMORY, "no memory for the added tokens");
        else if (bytes > 0)
            status =
                trie_put(added->normalized ? &tokenizer->added_normalized : &tokenizer->added_raw,
                         text, bytes, (int32_t)i);
    }
    normalize_scratch_free(&scratch);
    return status;
}

enum status tokenizer_finish(struct tokenizer *tokenizer) {
    if (tokenizer->model == MODEL_NONE || tokenizer->token_count == 0)
        return status_fail(STATUS_FORMAT, "the vocabulary is empty");
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        struct token *token = &tokenizer->tokens[id];
        if (token->kind == TOKEN_ABSENT) continue;
        TRY(make_piece(tokenizer, token));
        TRY(string_map_put(&tokenizer->literals, token_literal(tokenizer, token),
                           token->literal_bytes, (int32_t)id));
    }
    int32_t count = (int32_t)tokenizer->token_count;
    for (size_t i = 0; i < tokenizer->prefix_count; i++)
        if (tokenizer->prefix[i] < 0 || tokenizer->prefix[i] >= count)
            return status_fail(STATUS_FORMAT, "the start token %d is not in the vocabulary",
                               tokenizer->prefix[i]);
    for (size_t i = 0; i < tokenizer->suffix_count; i++)
        if (tokenizer->suffix[i] < 0 || tokenizer->suffix[i] >= count)
            return status_fail(STATUS_FORMAT, "the end token %d is not in the vocabulary",
                               tokenizer->suffix[i]);
    if (tokenizer->bos >= count) tokenizer->bos = -1;
    if (tokenizer->eos >= count) tokenizer->eos = -1;
    TRY(index_added(tokenizer));
    return tokenizer_make_hash(tokenizer);
}
