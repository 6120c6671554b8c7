/* A tokenizer as tokenizer.json and tokenizer_config.json. Source: the file format of Hugging Face
 * tokenizers (serialisation of Tokenizer), and how its Llama conversion represents a SentencePiece
 * model. All tokens, special ones too, stand in the model's vocabulary: ids that an added token
 * would be given anew stay what they are. */
#include "data/tokenizer_json.h"

#include "core/atomic_file.h"
#include "data/base64.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK "\xE2\x96\x81" /* SentencePiece's space */

/* NULL when it is not UTF-8 (or without memory). */
static json_t *literal_of(const struct tokenizer *tokenizer, int32_t id) {
    const struct token *token = &tokenizer->tokens[id];
    return json_stringn(token_literal(tokenizer, token), token->literal_bytes);
}

/* Ends a list of steps: nothing is null, one is itself, more are a Sequence. */
static json_t *sequence(json_t *steps, const char *key) {
    size_t count = json_array_size(steps);
    json_t *whole = count == 0   ? json_null()
                    : count == 1 ? json_incref(json_array_get(steps, 0))
                                 : json_pack("{s:s, s:O}", "type", "Sequence", key, steps);
    json_decref(steps);
    return whole;
}

static void push_replace(json_t *steps, const char *kind, const char *pattern,
                         const char *content) {
    json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern",
                                           kind, pattern, "content", content));
}

static enum status push_charsmap(json_t *steps, const struct charsmap *map) {
    uint32_t trie_bytes = (uint32_t)(4 * map->unit_count);
    size_t bytes = 4 + trie_bytes + map->text_bytes - 1;
    char *raw = malloc(bytes), *text = malloc(4 * ((bytes + 2) / 3));
    json_t *encoded = NULL;
    if (raw && text) {
        memcpy(raw, &trie_bytes, 4);
        memcpy(raw + 4, map->units, trie_bytes);
        memcpy(raw + 4 + trie_bytes, map->texts, map->text_bytes - 1);
        encoded = json_stringn(text, base64_encode(raw, bytes, text));
    }
    free(raw);
    free(text);
    if (!encoded) return status_fail(STATUS_MEMORY, "no memory for the charsmap");
    json_array_append_new(
        steps, json_pack("{s:s, s:o}", "type", "Precompiled", "precompiled_charsmap", encoded));
    return STATUS_OK;
}

/* SentencePiece's normaliser in steps that all programs know. */
static enum status push_sentencepiece(json_t *steps, const struct normalize_op *op) {
    if (!op->escape_spaces || op->space_is_suffix)
        return status_fail(STATUS_UNSUPPORTED, "tokenizer.json can't say how spaces are marked");
    if (op->charsmap.units) TRY(push_charsmap(steps, &op->charsmap));
    if (op->trim_spaces) {
        json_array_append_new(steps, json_pack("{s:s, s:b, s:b}", "type", "Strip", "strip_left", 1,
                                               "strip_right", 1));
        push_replace(steps, "Regex", " {2,}", " ");
    }
    if (op->dummy_prefix)
        json_array_append_new(steps, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", MARK));
    push_replace(steps, "String", " ", MARK);
    return STATUS_OK;
}

static enum status put_normalizer(const struct tokenizer *tokenizer, json_t *root) {
    json_t *steps = json_array();
    enum status status = STATUS_OK;
    for (int i = 0; i < tokenizer->normalizer.count && status == STATUS_OK; i++) {
        const struct normalize_op *op = &tokenizer->normalizer.ops[i];
        if (op->kind == NORMALIZE_NFC)
            json_array_append_new(steps, json_pack("{s:s}", "type", "NFC"));
        else if (op->kind == NORMALIZE_SENTENCEPIECE)
            status = push_sentencepiece(steps, op);
        else
            status = status_fail(STATUS_UNSUPPORTED, "a normalizer that no GGUF file has");
    }
    json_object_set_new(root, "normalizer", sequence(steps, "normalizers"));
    return status;
}

static bool is_text(const struct byte_buffer *text, const char *word) {
    return text->count == strlen(word) && memcmp(text->data, word, text->count) == 0;
}

/* Two patterns have names. A regex there is of Oniguruma's kind, whose $ ends a line, not a text.
 */
static json_t *split_step(const struct pretokenize_op *op) {
    bool isolated = op->behavior == SPLIT_ISOLATED;
    const char *behavior = isolated ? "Isolated" : "Contiguous";
    if (is_text(&op->text, "\\p{N}"))
        return json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", isolated);
    if (is_text(&op->text, "[\\p{P}$+<=>^`|~]"))
        return json_pack("{s:s, s:s}", "type", "Punctuation", "behavior", behavior);
    size_t bytes = op->text.count;
    bool text_end = !op->lines && bytes > 0 && op->text.data[bytes - 1] == '$';
    json_t *pattern =
        json_sprintf("%.*s%s", (int)(bytes - text_end), op->text.data, text_end ? "\\Z" : "");
    return json_pack("{s:s, s:{s:o}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern,
                     "behavior", behavior, "invert", op->invert);
}

static enum status put_pretokenizer(const struct tokenizer *tokenizer, json_t *root) {
    json_t *steps = json_array();
    enum status status = STATUS_OK;
    for (int i = 0; i < tokenizer->pretokenizer.count; i++) {
        const struct pretokenize_op *op = &tokenizer->pretokenizer.ops[i];
        bool split = op->kind == PRETOKENIZE_SPLIT &&
                     (op->behavior == SPLIT_ISOLATED || op->behavior == SPLIT_CONTIGUOUS);
        if (op->kind == PRETOKENIZE_BYTES)
            json_array_append_new(steps, json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel",
                                                   "add_prefix_space", op->add_prefix_space,
                                                   "trim_offsets", 1, "use_regex", !!op->regex));
        else if (split)
            json_array_append_new(steps, split_step(op));
        else
            status = status_fail(STATUS_UNSUPPORTED, "a pre-tokenizer that no GGUF file has");
    }
    json_object_set_new(root, "pre_tokenizer", sequence(steps, "pretokenizers"));
    return status;
}

static void put_decoder(const struct tokenizer *tokenizer, json_t *root) {
    json_t *steps = json_array();
    int strip = tokenizer->decoder.strip_left;
    if (tokenizer->decoder.byte_level) {
        json_array_append_new(steps,
                              json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel",
                                        "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1));
    } else {
        push_replace(steps, "String", MARK, " ");
        json_array_append_new(steps, json_pack("{s:s}", "type", "ByteFallback"));
        json_array_append_new(steps, json_pack("{s:s}", "type", "Fuse"));
    }
    if (strip > 0)
        json_array_append_new(steps, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content",
                                               " ", "start", 1, "stop", 0));
    json_object_set_new(root, "decoder", sequence(steps, "decoders"));
}

/* {text: id} for BPE, [[text, score]] for unigram. Of ids with one text the last one counts. */
static enum status put_vocabulary(const struct tokenizer *tokenizer, json_t *model) {
    bool scored = tokenizer->model == MODEL_UNIGRAM;
    json_t *vocab = scored ? json_array() : json_object();
    json_object_set_new(model, "vocab", vocab);
    for (size_t id = 0; id < tokenizer->token_count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        const char *text = token_literal(tokenizer, token);
        int failed = token->kind == TOKEN_ABSENT && !scored ? 0
                     : scored                               ? json_array_append_new(
                                                                  vocab, json_pack("[o, f]", literal_of(tokenizer, (int32_t)id),
                                                                                   (double)token->score))
                              : json_object_setn_new(vocab, text, token->literal_bytes,
                                                     json_integer((json_int_t)id));
        if (failed) return status_fail(STATUS_UNSUPPORTED, "the token %zu is not UTF-8", id);
    }
    return STATUS_OK;
}

static enum status put_merges(const struct tokenizer *tokenizer, json_t *model) {
    const struct pair_map *pairs = &tokenizer->bpe.pairs;
    struct pair_slot *sorted;
    enum status status = pair_map_sorted(pairs, &sorted);
    json_t *merges = json_array();
    for (size_t i = 0; i < pairs->count && status == STATUS_OK; i++) {
        if (tokenizer->tokens[sorted[i].result].kind == TOKEN_UNUSED)
            status =
                status_fail(STATUS_UNSUPPORTED,
                            "tokenizer.json can't say that the token %d is only passed through",
                            sorted[i].result);
        json_array_append_new(merges, json_pack("[o, o]", literal_of(tokenizer, sorted[i].left),
                                                literal_of(tokenizer, sorted[i].right)));
    }
    free(sorted);
    json_object_set_new(model, "merges", merges);
    return status;
}

static enum status put_bpe(const struct tokenizer *tokenizer, json_t *model) {
    const struct bpe *bpe = &tokenizer->bpe;
    json_object_set_new(model, "type", json_string("BPE"));
    json_object_set_new(model, "dropout", json_null());
    json_object_set_new(model, "unk_token",
                        bpe->unknown < 0 ? json_null() : literal_of(tokenizer, bpe->unknown));
    json_object_set_new(model, "continuing_subword_prefix", json_null());
    json_object_set_new(model, "end_of_word_suffix", json_null());
    json_object_set_new(model, "fuse_unk", json_boolean(bpe->fuse_unknown));
    json_object_set_new(model, "byte_fallback", json_boolean(bpe->has_byte_tokens));
    json_object_set_new(model, "ignore_merges", json_boolean(bpe->whole_words));
    TRY(put_vocabulary(tokenizer, model));
    return put_merges(tokenizer, model);
}

static enum status put_unigram(const struct tokenizer *tokenizer, json_t *model) {
    const struct unigram *unigram = &tokenizer->unigram;
    json_object_set_new(model, "type", json_string("Unigram"));
    json_object_set_new(model, "unk_id",
                        unigram->unknown < 0 ? json_null() : json_integer(unigram->unknown));
    json_object_set_new(model, "byte_fallback", json_boolean(unigram->has_byte_tokens));
    return put_vocabulary(tokenizer, model);
}

static enum status put_model(const struct tokenizer *tokenizer, json_t *root) {
    json_t *model = json_object();
    json_object_set_new(root, "model", model);
    if (tokenizer->model == MODEL_UNIGRAM) return put_unigram(tokenizer, model);
    if (tokenizer->bpe.bytes && !tokenizer->decoder.byte_level)
        return status_fail(STATUS_UNSUPPORTED, "a vocabulary of bytes that no GGUF file has");
    return put_bpe(tokenizer, model);
}

static void put_added(const struct tokenizer *tokenizer, json_t *root) {
    json_t *list = json_array();
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const struct added_token *added = &tokenizer->added[i];
        json_array_append_new(
            list, json_pack("{s:i, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (int)added->id, "content",
                            literal_of(tokenizer, added->id), "single_word", added->single_word,
                            "lstrip", added->lstrip, "rstrip", added->rstrip, "normalized",
                            added->normalized, "special", added->special));
    }
    json_object_set_new(root, "added_tokens", list);
}

/* What stands before and after a text, as items of a template. */
static void push_specials(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                          json_t *items, json_t *known) {
    for (size_t i = 0; i < count; i++) {
        json_t *text = literal_of(tokenizer, ids[i]);
        const char *name = json_string_value(text);
        json_array_append_new(
            items, json_pack("{s:{s:O, s:i}}", "SpecialToken", "id", text, "type_id", 0));
        if (name)
            json_object_set_new(
                known, name,
                json_pack("{s:O, s:[i], s:[O]}", "id", text, "ids", (int)ids[i], "tokens", text));
        json_decref(text);
    }
}

static void put_processor(const struct tokenizer *tokenizer, json_t *root) {
    json_t *single = json_array(), *known = json_object();
    push_specials(tokenizer, tokenizer->prefix, tokenizer->prefix_count, single, known);
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    push_specials(tokenizer, tokenizer->suffix, tokenizer->suffix_count, single, known);
    json_t *pair = json_deep_copy(single), *second = json_deep_copy(single), *item;
    size_t index;
    json_array_foreach(second, index, item) {
        json_t *sequence_item = json_object_get(item, "Sequence");
        if (sequence_item) json_object_set_new(sequence_item, "id", json_string("B"));
    }
    json_array_extend(pair, second);
    json_decref(second);
    json_t *processor = json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single",
                                  single, "pair", pair, "special_tokens", known);
    bool needed = tokenizer->prefix_count + tokenizer->suffix_count > 0;
    json_object_set_new(root, "post_processor", needed ? json_incref(processor) : json_null());
    json_decref(processor);
}

static enum status write_json(json_t *json, const char *directory, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    char *text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
    enum status status = text ? atomic_file_replace(path, text, strlen(text))
                              : status_fail(STATUS_MEMORY, "%s: no memory for it", path);
    free(text);
    return status;
}

/* The settings that stand beside tokenizer.json. */
static json_t *make_config(const struct tokenizer *tokenizer) {
    int32_t unknown =
        tokenizer->model == MODEL_UNIGRAM ? tokenizer->unigram.unknown : tokenizer->bpe.unknown;
    json_t *config = json_pack("{s:s, s:b, s:b, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                               "add_bos_token", tokenizer->prefix_count > 0, "add_eos_token",
                               tokenizer->suffix_count > 0, "clean_up_tokenization_spaces", 0);
    if (tokenizer->bos >= 0)
        json_object_set_new(config, "bos_token", literal_of(tokenizer, tokenizer->bos));
    if (tokenizer->eos >= 0)
        json_object_set_new(config, "eos_token", literal_of(tokenizer, tokenizer->eos));
    if (unknown >= 0) json_object_set_new(config, "unk_token", literal_of(tokenizer, unknown));
    if (tokenizer->chat_template)
        json_object_set_new(config, "chat_template", json_string(tokenizer->chat_template));
    return config;
}

enum status tokenizer_write_json(const struct tokenizer *tokenizer, const char *directory) {
    json_t *root = json_pack("{s:s, s:n, s:n}", "version", "1.0", "truncation", "padding");
    if (!root) return status_fail(STATUS_MEMORY, "no memory for a tokenizer.json");
    put_added(tokenizer, root);
    enum status status = put_normalizer(tokenizer, root);
    if (status == STATUS_OK) status = put_pretokenizer(tokenizer, root);
    put_processor(tokenizer, root);
    put_decoder(tokenizer, root);
    if (status == STATUS_OK) status = put_model(tokenizer, root);
    if (status == STATUS_OK) status = write_json(root, directory, "tokenizer.json");
    json_decref(root);
    if (status != STATUS_OK) return status;
    json_t *config = make_config(tokenizer);
    status = write_json(config, directory, "tokenizer_config.json");
    json_decref(config);
    return status;
}
