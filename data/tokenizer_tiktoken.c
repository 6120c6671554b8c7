/* tiktoken's files: a line for each token, its bytes in base64 and its rank. The regex and the
 * special tokens are not in the file; they follow from how many ranks it has. Sources: tiktoken
 * (tiktoken_ext/openai_public.py), Llama 3 (tokenizer.py), Qwen (tokenization_qwen.py). */
#include "data/base64.h"
#include "data/tokenizer_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct known_special {
    const char *text;
    int32_t id;
};
static const struct known_special r50k_specials[] = {{"<|endoftext|>", 50256}, {NULL, 0}};
static const struct known_special cl100k_specials[] = {
    {"<|endoftext|>", 100257},  {"<|fim_prefix|>", 100258},  {"<|fim_middle|>", 100259},
    {"<|fim_suffix|>", 100260}, {"<|endofprompt|>", 100276}, {NULL, 0}};
static const struct known_special o200k_specials[] = {
    {"<|endoftext|>", 199999}, {"<|endofprompt|>", 200018}, {NULL, 0}};
static const struct known_special qwen_specials[] = {
    {"<|endoftext|>", 151643}, {"<|im_start|>", 151644}, {"<|im_end|>", 151645}, {NULL, 0}};
static const struct known_special llama3_specials[] = {{"<|begin_of_text|>", 128000},
                                                       {"<|end_of_text|>", 128001},
                                                       {"<|finetune_right_pad_id|>", 128004},
                                                       {"<|start_header_id|>", 128006},
                                                       {"<|end_header_id|>", 128007},
                                                       {"<|eom_id|>", 128008},
                                                       {"<|eot_id|>", 128009},
                                                       {"<|python_tag|>", 128010},
                                                       {NULL, 0}};

/* One encoding. `reserved`: ids up to this one without a name become
 * <|reserved_special_token_N|>, counted from 0 (Llama 3). */
static const struct encoding {
    int64_t ranks;
    const char *pattern;
    const struct known_special *specials;
    int32_t reserved;
    const char *bos, *eos;
} encodings[] = {
    {50256, pretokenize_gpt2, r50k_specials, 0, NULL, "<|endoftext|>"},
    {50281, pretokenize_gpt2, r50k_specials, 0, NULL, "<|endoftext|>"}, /* p50k */
    {100256, pretokenize_llama3, cl100k_specials, 0, NULL, "<|endoftext|>"},
    {199998, pretokenize_o200k, o200k_specials, 0, NULL, "<|endoftext|>"},
    {128000, pretokenize_llama3, llama3_specials, 128256, "<|begin_of_text|>", "<|end_of_text|>"},
    {151643, pretokenize_qwen2, qwen_specials, 0, NULL, "<|endoftext|>"},
};
static const struct encoding other_encoding = {0, pretokenize_llama3, NULL, 0, NULL, NULL};

/* One line; `word` has room for its bytes. */
static enum status read_line(struct tokenizer *tokenizer, const char *line, size_t bytes,
                             size_t number, char *word, int64_t *last) {
    const char *space = memchr(line, ' ', bytes);
    size_t text_bytes = space ? (size_t)(space - line) : 0;
    char *end = NULL, digits[24] = {0};
    size_t digit_bytes = space ? bytes - text_bytes - 1 : 0;
    size_t count = text_bytes ? base64_decode(line, text_bytes, word) : SIZE_MAX;
    if (digit_bytes > 0 && digit_bytes < sizeof digits) memcpy(digits, space + 1, digit_bytes);
    long long rank = strtoll(digits, &end, 10);
    if (count == SIZE_MAX || count == 0 || end == digits || (*end && *end != '\r'))
        return status_fail(STATUS_FORMAT, "line %zu is not 'base64 rank'", number);
    TRY(tokenizer_set_token(tokenizer, rank, word, count, TOKEN_NORMAL, 0));
    if (rank > *last) *last = rank;
    return string_map_put(&tokenizer->bpe.words, word, count, (int32_t)rank);
}

static enum status read_lines(struct tokenizer *tokenizer, const char *data, size_t bytes,
                              int64_t *last) {
    char *word = malloc(bytes + 1);
    if (!word) return status_fail(STATUS_MEMORY, "no memory for a line");
    enum status status = STATUS_OK;
    size_t number = 1;
    for (size_t at = 0; at < bytes && status == STATUS_OK; number++) {
        const char *end = memchr(data + at, '\n', bytes - at);
        size_t length = end ? (size_t)(end - data) - at : bytes - at;
        if (length > 0) status = read_line(tokenizer, data + at, length, number, word, last);
        at += length + 1;
    }
    free(word);
    return status;
}

static enum status add_special(struct tokenizer *tokenizer, const char *text, int32_t id) {
    struct added_token added = {.id = id, .bytes = (uint32_t)strlen(text), .special = true};
    return tokenizer_add(tokenizer, &added, text);
}

static enum status add_specials(struct tokenizer *tokenizer, const struct encoding *encoding) {
    for (const struct known_special *known = encoding->specials; known && known->text; known++)
        TRY(add_special(tokenizer, known->text, known->id));
    int reserved = 0;
    for (int32_t id = (int32_t)encoding->ranks; id < encoding->reserved; id++) {
        char name[48];
        bool named = false;
        for (const struct known_special *known = encoding->specials; known->text; known++)
            named = named || known->id == id;
        if (named) continue;
        snprintf(name, sizeof name, "<|reserved_special_token_%d|>", reserved++);
        TRY(add_special(tokenizer, name, id));
    }
    return STATUS_OK;
}

static int32_t find_added(const struct tokenizer *tokenizer, const char *text) {
    for (size_t i = 0; text && i < tokenizer->added_count; i++)
        if (tokenizer->added[i].bytes == strlen(text) &&
            memcmp(tokenizer->texts.data + tokenizer->added[i].content, text, strlen(text)) == 0)
            return tokenizer->added[i].id;
    return -1;
}

enum status tokenizer_read_tiktoken(struct tokenizer *tokenizer, const char *data, size_t bytes) {
    int64_t last = -1;
    TRY(read_lines(tokenizer, data, bytes, &last));
    const struct encoding *encoding = &other_encoding;
    for (size_t i = 0; i < sizeof encodings / sizeof encodings[0]; i++)
        if (encodings[i].ranks == last + 1) encoding = &encodings[i];
    struct bpe *bpe = &tokenizer->bpe;
    size_t count = tokenizer->token_count;
    int32_t *ranks = malloc((count + 1) * sizeof *ranks);
    if (!ranks) return status_fail(STATUS_MEMORY, "no memory for %zu ranks", count);
    for (size_t i = 0; i < count; i++) ranks[i] = (int32_t)i;
    bpe->token_count = (int32_t)count;
    bpe->whole_words = true;
    bpe_set_bytes(bpe);
    enum status status = bpe_pairs_from_ranks(bpe, ranks);
    free(ranks);
    TRY(status);
    tokenizer->model = MODEL_BPE;
    tokenizer->unknown_as_bytes = true;
    TRY(tokenizer_split_by(tokenizer, encoding->pattern, strlen(encoding->pattern), SPLIT_ISOLATED,
                           false, false));
    TRY(tokenizer_bytes_op(tokenizer, false, false));
    TRY(add_specials(tokenizer, encoding));
    tokenizer->bos = find_added(tokenizer, encoding->bos);
    tokenizer->eos = find_added(tokenizer, encoding->eos);
    return tokenizer->bos >= 0 ? tokenizer_add_prefix(tokenizer, tokenizer->bos) : STATUS_OK;
}
