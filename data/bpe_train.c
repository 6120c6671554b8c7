#include "data/bpe_train.h"

#include "core/atomic_file.h"
#include "data/pretokenize.h"
#include "data/trie.h"
#include "data/utf8.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A token's bytes lie in texts; its first `special_count` tokens are special. */
struct trained_token {
    size_t offset, bytes;
};

/* A different word: its symbols shrink in place as they merge. */
struct word {
    size_t start; /* in symbols */
    uint32_t count;
    int64_t times; /* it occurs */
};

/* A pair of neighbours: how often it occurs and in which words (some maybe no more). */
struct pair {
    int32_t left, right;
    int64_t count;
    uint32_t *words;
    size_t word_count, word_capacity;
};

struct candidate {
    int64_t count;
    uint32_t pair;
};

struct bpe_trainer {
    struct pretokenizer pretokenizer;
    struct pretokenize_scratch scratch;
    struct trie specials;
    size_t special_count;
    struct trained_token *tokens;
    size_t token_count, token_capacity;
    struct string_map token_ids; /* of all but the special ones */
    struct byte_buffer texts;
    int32_t bytes[256];
    struct string_map word_ids;
    struct word *words;
    size_t word_count, word_capacity;
    int32_t *symbols;
    size_t symbol_count, symbol_capacity;
    struct pair *pairs;
    size_t pair_count, pair_capacity;
    size_t known_pairs;       /* those that were there before this merge: they are in the heap */
    struct pair_map pair_ids; /* -> index in pairs */
    struct candidate *heap;
    size_t heap_count, heap_capacity;
    struct merged_pair {
        int32_t left, right;
    } * merges;
    size_t merge_count, merge_capacity;
};

static enum status no_memory(void) {
    return status_fail(STATUS_MEMORY, "no memory to train a vocabulary");
}

void bpe_trainer_free(struct bpe_trainer *trainer) {
    if (!trainer) return;
    pretokenizer_free(&trainer->pretokenizer);
    pretokenize_scratch_free(&trainer->scratch);
    trie_free(&trainer->specials);
    free(trainer->tokens);
    string_map_free(&trainer->token_ids);
    buffer_free(&trainer->texts);
    string_map_free(&trainer->word_ids);
    free(trainer->words);
    free(trainer->symbols);
    for (size_t i = 0; i < trainer->pair_count; i++) free(trainer->pairs[i].words);
    free(trainer->pairs);
    pair_map_free(&trainer->pair_ids);
    free(trainer->heap);
    free(trainer->merges);
    free(trainer);
}

static enum status add_token(struct bpe_trainer *trainer, const char *text, size_t bytes,
                             bool special) {
    if (!array_reserve(&trainer->tokens, &trainer->token_capacity, trainer->token_count + 1,
                       sizeof *trainer->tokens))
        return no_memory();
    size_t id = trainer->token_count++;
    trainer->tokens[id] = (struct trained_token){trainer->texts.count, bytes};
    if (!buffer_append(&trainer->texts, text, bytes)) return no_memory();
    if (special) return trie_put(&trainer->specials, text, bytes, (int32_t)id);
    return string_map_put(&trainer->token_ids, text, bytes, (int32_t)id);
}

static enum status fill(struct bpe_trainer *trainer, const char *const *specials,
                        size_t special_count) {
    for (size_t i = 0; i < special_count; i++) {
        size_t bytes = strlen(specials[i]);
        int32_t known;
        if (bytes < 2 || utf8_valid_prefix(specials[i], bytes) != bytes)
            return status_fail(STATUS_CONFIG,
                               "special token %zu has less than two bytes or is not UTF-8", i + 1);
        if (trie_longest(&trainer->specials, specials[i], bytes, &known) == bytes)
            return status_fail(STATUS_CONFIG, "the special token '%s' is given twice", specials[i]);
        TRY(add_token(trainer, specials[i], bytes, true));
    }
    trainer->special_count = special_count;
    for (uint32_t point = 0; point < 0x200; point++) {
        int byte = byte_level_byte(point);
        char text = (char)byte;
        if (byte < 0) continue;
        trainer->bytes[byte] = (int32_t)trainer->token_count;
        TRY(add_token(trainer, &text, 1, false));
    }
    struct pretokenizer *pretokenizer = &trainer->pretokenizer;
    pretokenizer->count = 1;
    pretokenizer->ops[0] =
        (struct pretokenize_op){.kind = PRETOKENIZE_SPLIT, .behavior = SPLIT_ISOLATED};
    return regex_compile(&pretokenizer->ops[0].regex, pretokenize_llama3,
                         strlen(pretokenize_llama3), false);
}

enum status bpe_trainer_create(struct bpe_trainer **trainer, const char *const *specials,
                               size_t special_count) {
    *trainer = calloc(1, sizeof **trainer);
    if (!*trainer) return no_memory();
    enum status status = fill(*trainer, specials, special_count);
    if (status == STATUS_OK) return status;
    bpe_trainer_free(*trainer);
    *trainer = NULL;
    return status;
}

static bool count_word(void *user, const char *text, size_t bytes) {
    struct bpe_trainer *trainer = user;
    int32_t id = string_map_get(&trainer->word_ids, text, bytes);
    if (id >= 0) {
        trainer->words[id].times++;
        return true;
    }
    if (bytes > UINT32_MAX || trainer->word_count >= INT32_MAX ||
        !array_reserve(&trainer->words, &trainer->word_capacity, trainer->word_count + 1,
                       sizeof *trainer->words) ||
        !array_reserve(&trainer->symbols, &trainer->symbol_capacity, trainer->symbol_count + bytes,
                       sizeof *trainer->symbols))
        return false;
    id = (int32_t)trainer->word_count++;
    trainer->words[id] = (struct word){trainer->symbol_count, (uint32_t)bytes, 1};
    for (size_t i = 0; i < bytes; i++)
        trainer->symbols[trainer->symbol_count++] = trainer->bytes[(unsigned char)text[i]];
    return string_map_put(&trainer->word_ids, text, bytes, id) == STATUS_OK;
}

static bool count_words(struct bpe_trainer *trainer, const char *text, size_t bytes) {
    struct pretokenize_call call = {.pretokenizer = &trainer->pretokenizer,
                                    .scratch = &trainer->scratch,
                                    .word = count_word,
                                    .user = trainer};
    return pretokenize(&call, text, bytes);
}

/* A valid text, without the special tokens in it. */
static bool count_between(struct bpe_trainer *trainer, const char *text, size_t bytes) {
    size_t done = 0;
    int32_t id;
    for (size_t at = 0; at < bytes && trainer->specials.count > 0;) {
        size_t length = trie_longest(&trainer->specials, text + at, bytes - at, &id);
        if (length > 0 && !count_words(trainer, text + done, at - done)) return false;
        if (length > 0) done = at + length;
        at += length > 0 ? length : 1;
    }
    return count_words(trainer, text + done, bytes - done);
}

enum status bpe_trainer_add(struct bpe_trainer *trainer, const char *text, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        size_t valid = utf8_valid_prefix(text + at, bytes - at);
        if (!count_between(trainer, text + at, valid)) return no_memory();
        at += valid;
        if (at < bytes) at += utf8_bad_part(text + at, bytes - at);
    }
    return STATUS_OK;
}

/* Does `a` go before `b`: more frequent, else the smaller ids. */
static bool goes_before(const struct bpe_trainer *trainer, struct candidate a, struct candidate b) {
    if (a.count != b.count) return a.count > b.count;
    const struct pair *left = &trainer->pairs[a.pair], *right = &trainer->pairs[b.pair];
    return left->left != right->left ? left->left < right->left : left->right < right->right;
}

static enum status heap_push(struct bpe_trainer *trainer, uint32_t pair) {
    struct candidate added = {trainer->pairs[pair].count, pair};
    if (!array_reserve(&trainer->heap, &trainer->heap_capacity, trainer->heap_count + 1,
                       sizeof *trainer->heap))
        return no_memory();
    size_t at = trainer->heap_count++;
    while (at > 0 && goes_before(trainer, added, trainer->heap[(at - 1) / 2])) {
        trainer->heap[at] = trainer->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    trainer->heap[at] = added;
    return STATUS_OK;
}

static struct candidate heap_pop(struct bpe_trainer *trainer) {
    struct candidate *heap = trainer->heap, top = heap[0], last = heap[--trainer->heap_count];
    size_t at = 0, count = trainer->heap_count;
    for (size_t child = 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && goes_before(trainer, heap[child + 1], heap[child])) child++;
        if (!goes_before(trainer, heap[child], last)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* Adds to a pair's count; a word is noted where the pair is new in it. */
static enum status change_pair(struct bpe_trainer *trainer, int32_t left, int32_t right,
                               int64_t times, uint32_t word) {
    const struct pair_slot *slot = pair_map_get(&trainer->pair_ids, left, right);
    uint32_t index;
    if (slot) {
        index = (uint32_t)slot->result;
    } else {
        if (!array_reserve(&trainer->pairs, &trainer->pair_capacity, trainer->pair_count + 1,
                           sizeof *trainer->pairs) ||
            trainer->pair_count >= INT32_MAX)
            return no_memory();
        index = (uint32_t)trainer->pair_count++;
        trainer->pairs[index] = (struct pair){.left = left, .right = right};
        TRY(pair_map_put(&trainer->pair_ids, left, right, 0, (int32_t)index));
    }
    struct pair *pair = &trainer->pairs[index];
    pair->count += times;
    /* only where two ways lead to the same token can a known pair become more frequent */
    if (times > 0 && index < trainer->known_pairs) TRY(heap_push(trainer, index));
    if (times < 0 || (pair->word_count > 0 && pair->words[pair->word_count - 1] == word))
        return STATUS_OK;
    if (!array_reserve(&pair->words, &pair->word_capacity, pair->word_count + 1,
                       sizeof *pair->words))
        return no_memory();
    pair->words[pair->word_count++] = word;
    return STATUS_OK;
}

/* Merges left and right in one word and moves the counts of the pairs around them. */
static enum status merge_word(struct bpe_trainer *trainer, uint32_t index, int32_t left,
                              int32_t right, int32_t merged) {
    struct word *word = &trainer->words[index];
    int32_t *symbols = trainer->symbols + word->start;
    uint32_t to = 0;
    for (uint32_t from = 0; from < word->count; from++) {
        bool here = from + 1 < word->count && symbols[from] == left && symbols[from + 1] == right;
        if (!here) {
            symbols[to++] = symbols[from];
            continue;
        }
        if (to > 0) {
            TRY(change_pair(trainer, symbols[to - 1], left, -word->times, index));
            TRY(change_pair(trainer, symbols[to - 1], merged, word->times, index));
        }
        if (from + 2 < word->count) {
            TRY(change_pair(trainer, right, symbols[from + 2], -word->times, index));
            TRY(change_pair(trainer, merged, symbols[from + 2], word->times, index));
        }
        symbols[to++] = merged;
        from++;
    }
    word->count = to;
    return STATUS_OK;
}

static enum status count_pairs(struct bpe_trainer *trainer) {
    for (size_t w = 0; w < trainer->word_count; w++) {
        const struct word *word = &trainer->words[w];
        const int32_t *symbols = trainer->symbols + word->start;
        for (uint32_t i = 0; i + 1 < word->count; i++)
            TRY(change_pair(trainer, symbols[i], symbols[i + 1], word->times, (uint32_t)w));
    }
    for (size_t i = 0; i < trainer->pair_count; i++) TRY(heap_push(trainer, (uint32_t)i));
    return STATUS_OK;
}

/* The token that two make; two ways may lead to the same bytes. */
static enum status merged_token(struct bpe_trainer *trainer, const struct pair *pair, int32_t *id) {
    struct trained_token left = trainer->tokens[pair->left], right = trainer->tokens[pair->right];
    struct byte_buffer text = {0};
    if (!buffer_append(&text, trainer->texts.data + left.offset, left.bytes) ||
        !buffer_append(&text, trainer->texts.data + right.offset, right.bytes)) {
        buffer_free(&text);
        return no_memory();
    }
    enum status status = STATUS_OK;
    *id = string_map_get(&trainer->token_ids, text.data, text.count);
    if (*id < 0) {
        *id = (int32_t)trainer->token_count;
        status = add_token(trainer, text.data, text.count, false);
    }
    buffer_free(&text);
    return status;
}

static enum status merge_pair(struct bpe_trainer *trainer, uint32_t index) {
    struct pair pair = trainer->pairs[index];
    int32_t merged = -1;
    trainer->known_pairs = trainer->pair_count;
    TRY(merged_token(trainer, &pair, &merged));
    if (!array_reserve(&trainer->merges, &trainer->merge_capacity, trainer->merge_count + 1,
                       sizeof *trainer->merges))
        return no_memory();
    trainer->merges[trainer->merge_count++] = (struct merged_pair){pair.left, pair.right};
    /* taken over: the pair is gone from its words, and merge_word may move the pairs */
    trainer->pairs[index].words = NULL;
    trainer->pairs[index].word_count = trainer->pairs[index].word_capacity = 0;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < pair.word_count && status == STATUS_OK; i++)
        status = merge_word(trainer, pair.words[i], pair.left, pair.right, merged);
    free(pair.words);
    trainer->pairs[index].count = 0;
    for (size_t i = trainer->known_pairs; i < trainer->pair_count && status == STATUS_OK; i++)
        if (trainer->pairs[i].count > 0) status = heap_push(trainer, (uint32_t)i);
    return status;
}

enum status bpe_trainer_run(struct bpe_trainer *trainer, int32_t size) {
    if (size < (int32_t)trainer->token_count)
        return status_fail(STATUS_CONFIG,
                           "a vocabulary of %d can't hold the %zu special tokens and 256 bytes",
                           size, trainer->special_count);
    TRY(count_pairs(trainer));
    while ((int32_t)trainer->token_count < size && trainer->heap_count > 0) {
        struct candidate top = heap_pop(trainer);
        int64_t count = trainer->pairs[top.pair].count;
        if (count < 2) continue;
        if (count != top.count)
            TRY(heap_push(trainer, top.pair)); /* it changed since it was pushed */
        else
            TRY(merge_pair(trainer, top.pair));
    }
    return STATUS_OK;
}

int32_t bpe_trainer_size(const struct bpe_trainer *trainer) {
    return (int32_t)trainer->token_count;
}

size_t bpe_trainer_words(const struct bpe_trainer *trainer) {
    return trainer->word_count;
}

/* A token as tokenizer.json writes it; special ones as they are. */
static bool written(const struct bpe_trainer *trainer, size_t id, struct byte_buffer *out) {
    const struct trained_token *token = &trainer->tokens[id];
    const char *text = trainer->texts.data + token->offset;
    out->count = 0;
    if (id < trainer->special_count) return buffer_append(out, text, token->bytes);
    for (size_t i = 0; i < token->bytes; i++) {
        char character[4];
        int width = utf8_encode(byte_level_point((unsigned char)text[i]), character);
        if (!buffer_append(out, character, (size_t)width)) return false;
    }
    return true;
}

static json_t *added_json(const struct bpe_trainer *trainer) {
    json_t *list = json_array();
    for (size_t id = 0; list && id < trainer->special_count; id++) {
        const struct trained_token *token = &trainer->tokens[id];
        json_array_append_new(list, json_pack("{s:i,s:s%,s:b,s:b,s:b,s:b,s:b}", "id", (int)id,
                                              "content", trainer->texts.data + token->offset,
                                              token->bytes, "single_word", 0, "lstrip", 0, "rstrip",
                                              0, "normalized", 0, "special", 1));
    }
    return list;
}

/* NULL without memory. */
static json_t *model_json(const struct bpe_trainer *trainer) {
    json_t *vocab = json_object(), *merges = json_array();
    struct byte_buffer text = {0}, right = {0};
    bool kept = vocab && merges;
    for (size_t id = 0; id < trainer->token_count && kept; id++)
        kept =
            written(trainer, id, &text) &&
            json_object_setn_new(vocab, text.data, text.count, json_integer((json_int_t)id)) == 0;
    for (size_t i = 0; i < trainer->merge_count && kept; i++)
        kept = written(trainer, (size_t)trainer->merges[i].left, &text) &&
               written(trainer, (size_t)trainer->merges[i].right, &right) &&
               json_array_append_new(merges, json_pack("[s%,s%]", text.data, text.count, right.data,
                                                       right.count)) == 0;
    buffer_free(&text);
    buffer_free(&right);
    if (kept)
        return json_pack("{s:s,s:n,s:n,s:n,s:n,s:b,s:b,s:b,s:o,s:o}", "type", "BPE", "dropout",
                         "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                         0, "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab, "merges",
                         merges);
    json_decref(vocab);
    json_decref(merges);
    return NULL;
}

static json_t *byte_level_json(void) {
    return json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", 0);
}

enum status bpe_trainer_write(const struct bpe_trainer *trainer, const char *path) {
    json_t *split = json_pack("{s:s,s:{s:s},s:s,s:b}", "type", "Split", "pattern", "Regex",
                              pretokenize_llama3, "behavior", "Isolated", "invert", 0);
    json_t *root = json_pack("{s:s,s:n,s:n,s:o,s:n,s:{s:s,s:[o,o]},s:o,s:o,s:o}", "version", "1.0",
                             "truncation", "padding", "added_tokens", added_json(trainer),
                             "normalizer", "pre_tokenizer", "type", "Sequence", "pretokenizers",
                             split, byte_level_json(), "post_processor", byte_level_json(),
                             "decoder", byte_level_json(), "model", model_json(trainer));
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text) return no_memory();
    enum status status = atomic_file_replace(path, text, strlen(text));
    free(text);
    return status;
}
