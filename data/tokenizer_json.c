/* Hugging Face's tokenizer.json: added tokens, model, post-processor; its normalizers,
 * pre-tokenizers and decoders are in tokenizer_json_steps.c. Source: the file format of Hugging
 * Face tokenizers (serialisation of Tokenizer). */
#include "data/tokenizer_json.h"

#include "core/json_util.h"
#include "data/utf8.h"
#include <stdlib.h>
#include <string.h>

bool json_flag(const json_t *object, const char *key, bool otherwise) {
    const json_t *value = json_object_get(object, key);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

const char *step_type(const json_t *object) {
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "";
}

static enum status read_added(struct tokenizer *tokenizer, const json_t *list) {
    size_t index;
    const json_t *entry;
    if (list && !json_is_array(list) && !json_is_null(list))
        return status_fail(STATUS_FORMAT, "added_tokens is not a list");
    json_array_foreach(list, index, entry) {
        const json_t *content = json_object_get(entry, "content"),
                     *id = json_object_get(entry, "id");
        if (!json_is_string(content) || !json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= TOKENIZER_MAX_TOKENS)
            return status_fail(STATUS_FORMAT, "added_tokens[%zu] has no content or no valid id",
                               index);
        struct added_token added = {.id = (int32_t)json_integer_value(id),
                                    .bytes = (uint32_t)json_string_length(content),
                                    .special = json_flag(entry, "special", false),
                                    .single_word = json_flag(entry, "single_word", false),
                                    .lstrip = json_flag(entry, "lstrip", false),
                                    .rstrip = json_flag(entry, "rstrip", false),
                                    .normalized = json_flag(entry, "normalized", true)};
        TRY(tokenizer_add(tokenizer, &added, json_string_value(content)));
    }
    return STATUS_OK;
}

static enum status read_vocab(struct tokenizer *tokenizer, json_t *vocab) {
    const char *key;
    size_t bytes;
    json_t *id;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return status_fail(STATUS_FORMAT, "model.vocab is not an object with tokens");
    json_object_keylen_foreach(vocab, key, bytes, id) {
        if (!json_is_integer(id))
            return status_fail(STATUS_FORMAT, "model.vocab: '%s' has no id", key);
        TRY(tokenizer_set_token(tokenizer, json_integer_value(id), key, bytes, TOKEN_NORMAL, 0));
    }
    return STATUS_OK;
}

static enum status read_merges(struct tokenizer *tokenizer, const json_t *merges) {
    size_t rank;
    const json_t *merge;
    if (!json_is_array(merges)) return status_fail(STATUS_FORMAT, "model.merges is not a list");
    TRY(pair_map_reserve(&tokenizer->bpe.pairs, json_array_size(merges)));
    json_array_foreach(merges, rank, merge) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_is_string(left) && json_is_string(right)) {
            TRY(tokenizer_merge(tokenizer, (int32_t)rank, json_string_value(left),
                                json_string_length(left), json_string_value(right),
                                json_string_length(right)));
            continue;
        }
        const char *text = json_string_value(merge);
        size_t bytes = json_string_length(merge);
        const char *space = text ? memchr(text, ' ', bytes) : NULL;
        if (!space) return status_fail(STATUS_FORMAT, "model.merges[%zu] is not a pair", rank);
        size_t left_bytes = (size_t)(space - text);
        TRY(tokenizer_merge(tokenizer, (int32_t)rank, text, left_bytes, space + 1,
                            bytes - left_bytes - 1));
    }
    return STATUS_OK;
}

enum status tokenizer_character_words(struct tokenizer *tokenizer) {
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        const char *text = token_literal(tokenizer, token);
        if (token->kind != TOKEN_NORMAL || token->literal_bytes == 0) continue;
        if (utf8_valid_prefix(text, token->literal_bytes) != token->literal_bytes)
            return status_fail(STATUS_FORMAT, "token %zu is not UTF-8", id);
        TRY(string_map_put(&tokenizer->bpe.words, text, token->literal_bytes, (int32_t)id));
    }
    tokenizer->bpe.token_count = (int32_t)tokenizer->token_count;
    tokenizer->model = MODEL_BPE;
    return bpe_set_characters(&tokenizer->bpe);
}

static void mark_byte_tokens(struct tokenizer *tokenizer, const int32_t ids[256]) {
    for (int i = 0; i < 256; i++) tokenizer->tokens[ids[i]].kind = TOKEN_BYTE;
    tokenizer->unknown_as_bytes = true;
}

/* An affix that marks pieces inside or at the end of a word (CLIP, BERT-like BPE). */
static bool has_affix(const json_t *model) {
    const char *prefix = json_string_value(json_object_get(model, "continuing_subword_prefix"));
    const char *suffix = json_string_value(json_object_get(model, "end_of_word_suffix"));
    return (prefix && *prefix) || (suffix && *suffix);
}

static bool works_on_bytes(const struct tokenizer *tokenizer) {
    for (int i = 0; i < tokenizer->pretokenizer.count; i++)
        if (tokenizer->pretokenizer.ops[i].kind == PRETOKENIZE_BYTES) return true;
    return false;
}

static int32_t unknown_of(const struct tokenizer *tokenizer, const json_t *model) {
    const json_t *unknown = json_object_get(model, "unk_token");
    if (!json_is_string(unknown)) return -1;
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        if (token->kind != TOKEN_ABSENT && token->literal_bytes == json_string_length(unknown) &&
            memcmp(token_literal(tokenizer, token), json_string_value(unknown),
                   token->literal_bytes) == 0)
            return (int32_t)id;
    }
    return -1;
}

static enum status read_bpe(struct tokenizer *tokenizer, const json_t *model) {
    struct bpe *bpe = &tokenizer->bpe;
    if (has_affix(model))
        return status_fail(STATUS_UNSUPPORTED, "a BPE with a subword prefix or word suffix");
    TRY(read_vocab(tokenizer, json_object_get(model, "vocab")));
    if (works_on_bytes(tokenizer))
        TRY(tokenizer_byte_words(tokenizer));
    else
        TRY(tokenizer_character_words(tokenizer));
    TRY(read_merges(tokenizer, json_object_get(model, "merges")));
    bpe->whole_words = json_flag(model, "ignore_merges", false);
    bpe->fuse_unknown = json_flag(model, "fuse_unk", false);
    bpe->unknown = unknown_of(tokenizer, model);
    if (!bpe->bytes) bpe_find_cuts(bpe);
    bpe->cut_at_spaces = bpe->cut_at_spaces && !bpe->whole_words;
    bool fallback = json_flag(model, "byte_fallback", false);
    bpe->has_byte_tokens = fallback && tokenizer_byte_tokens(tokenizer, bpe->byte_tokens);
    if (bpe->has_byte_tokens) mark_byte_tokens(tokenizer, bpe->byte_tokens);
    return STATUS_OK;
}

static enum status read_unigram_piece(struct tokenizer *tokenizer, size_t id, const json_t *entry) {
    const json_t *text = json_array_get(entry, 0), *score = json_array_get(entry, 1);
    if (!json_is_string(text) || !json_is_number(score))
        return status_fail(STATUS_FORMAT, "model.vocab[%zu] is not a piece and its score", id);
    TRY(tokenizer_set_token(tokenizer, (int64_t)id, json_string_value(text),
                            json_string_length(text), TOKEN_NORMAL,
                            (float)json_number_value(score)));
    struct unigram *unigram = &tokenizer->unigram;
    unigram->scores[id] = json_number_value(score);
    if (unigram->scores[id] < unigram->smallest) unigram->smallest = unigram->scores[id];
    if (json_string_length(text) == 0) return STATUS_OK;
    return trie_put(&unigram->pieces, json_string_value(text), json_string_length(text),
                    (int32_t)id);
}

static enum status read_unigram(struct tokenizer *tokenizer, const json_t *model) {
    struct unigram *unigram = &tokenizer->unigram;
    const json_t *vocab = json_object_get(model, "vocab"),
                 *unknown = json_object_get(model, "unk_id");
    size_t count = json_array_size(vocab);
    if (count == 0) return status_fail(STATUS_FORMAT, "model.vocab is not a list of pieces");
    unigram->scores = calloc(count, sizeof *unigram->scores);
    if (!unigram->scores) return status_fail(STATUS_MEMORY, "no memory for %zu scores", count);
    for (size_t id = 0; id < count; id++)
        TRY(read_unigram_piece(tokenizer, id, json_array_get(vocab, id)));
    if (json_is_integer(unknown)) {
        if (json_integer_value(unknown) < 0 || json_integer_value(unknown) >= (json_int_t)count)
            return status_fail(STATUS_FORMAT, "model.unk_id is not in the vocabulary");
        unigram->unknown = (int32_t)json_integer_value(unknown);
    }
    unigram->wide = unigram->fuse_unknown = true;
    tokenizer->model = MODEL_UNIGRAM;
    bool fallback = json_flag(model, "byte_fallback", false);
    unigram->has_byte_tokens = fallback && tokenizer_byte_tokens(tokenizer, unigram->byte_tokens);
    if (unigram->has_byte_tokens) mark_byte_tokens(tokenizer, unigram->byte_tokens);
    return STATUS_OK;
}

static enum status read_model(struct tokenizer *tokenizer, const json_t *model) {
    const char *type = step_type(model);
    if (!json_is_object(model)) return status_fail(STATUS_FORMAT, "there is no model");
    /* files of before 2020 don't say the type */
    if (strcmp(type, "BPE") == 0 || (!*type && json_object_get(model, "merges")))
        return read_bpe(tokenizer, model);
    if (strcmp(type, "Unigram") == 0 || (!*type && json_is_array(json_object_get(model, "vocab"))))
        return read_unigram(tokenizer, model);
    return status_fail(STATUS_UNSUPPORTED, "a model of type '%s'", type);
}

/* One item of a template: the text, or special tokens before or after it. */
static enum status read_template_item(struct tokenizer *tokenizer, const json_t *processor,
                                      const json_t *item, bool after) {
    const json_t *special = json_object_get(item, "SpecialToken");
    if (!special) return STATUS_OK;
    const char *name = json_string_value(json_object_get(special, "id"));
    const json_t *ids = json_object_get(
        json_object_get(json_object_get(processor, "special_tokens"), name ? name : ""), "ids");
    size_t index;
    const json_t *id;
    if (!json_is_array(ids))
        return status_fail(STATUS_FORMAT, "post_processor: no ids for '%s'", name ? name : "");
    json_array_foreach(ids, index, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= TOKENIZER_MAX_TOKENS)
            return status_fail(STATUS_FORMAT, "post_processor: no valid id for '%s'", name);
        int32_t value = (int32_t)json_integer_value(id);
        TRY(after ? tokenizer_add_suffix(tokenizer, value)
                  : tokenizer_add_prefix(tokenizer, value));
    }
    return STATUS_OK;
}

/* BERT's and RoBERTa's: [name, id] before and after. */
static enum status read_pair(struct tokenizer *tokenizer, const json_t *pair, bool after) {
    const json_t *id = json_array_get(pair, 1);
    if (!json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= TOKENIZER_MAX_TOKENS)
        return status_fail(STATUS_FORMAT, "post_processor: cls and sep need an id");
    int32_t value = (int32_t)json_integer_value(id);
    return after ? tokenizer_add_suffix(tokenizer, value) : tokenizer_add_prefix(tokenizer, value);
}

static enum status read_post(struct tokenizer *tokenizer, const json_t *processor) {
    const char *type = step_type(processor);
    size_t index;
    const json_t *item;
    if (!json_is_object(processor) || strcmp(type, "ByteLevel") == 0) return STATUS_OK;
    if (strcmp(type, "Sequence") == 0) {
        json_array_foreach(json_object_get(processor, "processors"), index, item) {
            if (strcmp(step_type(item), "Sequence") == 0)
                return status_fail(STATUS_UNSUPPORTED, "a post_processor Sequence in a Sequence");
            TRY(read_post(tokenizer, item));
        }
        return STATUS_OK;
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        bool after = false;
        json_array_foreach(json_object_get(processor, "single"), index, item) {
            TRY(read_template_item(tokenizer, processor, item, after));
            after = after || json_object_get(item, "Sequence");
        }
        return STATUS_OK;
    }
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        TRY(read_pair(tokenizer, json_object_get(processor, "cls"), false));
        return read_pair(tokenizer, json_object_get(processor, "sep"), true);
    }
    return status_fail(STATUS_UNSUPPORTED, "a post_processor of type '%s'", type);
}

static enum status read_root(struct tokenizer *tokenizer, const json_t *root) {
    if (!json_is_object(root)) return status_fail(STATUS_FORMAT, "it is not a JSON object");
    TRY(json_read_normalizer(tokenizer, json_object_get(root, "normalizer")));
    TRY(json_read_pretokenizer(tokenizer, json_object_get(root, "pre_tokenizer")));
    TRY(json_read_decoder(tokenizer, json_object_get(root, "decoder")));
    TRY(read_model(tokenizer, json_object_get(root, "model")));
    TRY(read_added(tokenizer, json_object_get(root, "added_tokens")));
    return read_post(tokenizer, json_object_get(root, "post_processor"));
}

enum status tokenizer_read_json(struct tokenizer *tokenizer, const char *text, size_t bytes) {
    json_t *root;
    TRY(json_parse_bytes(&root, text, bytes, NULL, JSON_ALLOW_NUL));
    enum status status = read_root(tokenizer, root);
    json_decref(root);
    return status;
}
