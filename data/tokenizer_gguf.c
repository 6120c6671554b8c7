#define _GNU_SOURCE
/* The tokenizer inside a GGUF: tokens, kinds, scores or merges, and the name of the
 * pre-tokenizer, whose rules are known by that name alone. Source: the GGUF specification
 * (tokenizer.ggml.*); the rules are those of the models' own tokenizer.json. */
#include "data/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

/* Letters that have a case, as DeepSeek-LLM's tokenizer.json lists them. */
#define CASED                                                                                         \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"   \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-"    \
    "\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-"   \
    "\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-"  \
    "\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-" \
    "\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}"   \
    "\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-" \
    "\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-" \
    "\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}"    \
    "\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}"  \
    "\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}"   \
    "\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-" \
    "\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-" \
    "\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"   \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
#define DEEPSEEK_CJK "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"

static const char deepseek3[] =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char tekken[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|"
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

enum { RULE_PATTERNS = 6 };

/* One pre-tokenizer: regexes that cut one after the other, all isolating their matches. */
struct rule {
    const char *name;
    const char *patterns[RULE_PATTERNS];
    bool gpt2;   /* GPT-2's regex comes last */
    bool nfc;    /* the text is brought to NFC before */
    bool falcon; /* two more steps on the characters that stand for bytes */
    bool llama3; /* a word that is a token is that token */
};

#define GPT2_RULE(NAME)                                                                            \
    { .name = NAME, .gpt2 = true }
#define DIGIT_RULE(NAME)                                                                           \
    { .name = NAME, .patterns = {"\\p{N}"}, .gpt2 = true }
#define LLAMA3_RULE(NAME)                                                                          \
    { .name = NAME, .patterns = {pretokenize_llama3}, .llama3 = true }

static const struct rule rules[] = {
    GPT2_RULE("gpt-2"),
    GPT2_RULE("default"),
    GPT2_RULE("phi-2"),
    GPT2_RULE("roberta-bpe"),
    GPT2_RULE("gigachat"),
    {.name = "mpt", .gpt2 = true, .nfc = true},
    {.name = "olmo", .gpt2 = true, .nfc = true},
    {.name = "gpt-neox", .gpt2 = true, .nfc = true},
    DIGIT_RULE("starcoder"),
    DIGIT_RULE("refact"),
    {.name = "command-r", .patterns = {"\\p{N}"}, .gpt2 = true, .nfc = true},
    DIGIT_RULE("smollm"),
    DIGIT_RULE("codeshell"),
    DIGIT_RULE("exaone"),
    LLAMA3_RULE("llama-bpe"),
    LLAMA3_RULE("llama3"),
    LLAMA3_RULE("llama-v3"),
    LLAMA3_RULE("smaug-bpe"),
    {.name = "dbrx", .patterns = {pretokenize_llama3}},
    {.name = "chatglm-bpe", .patterns = {pretokenize_llama3}},
    {.name = "glm4", .patterns = {pretokenize_llama3}},
    {.name = "qwen2", .patterns = {pretokenize_qwen2}, .nfc = true},
    {.name = "deepseek-r1-qwen", .patterns = {pretokenize_qwen2}},
    {.name = "stablelm2", .patterns = {pretokenize_qwen2}, .nfc = true},
    {.name = "gpt-4o", .patterns = {pretokenize_o200k}},
    {.name = "llama4", .patterns = {pretokenize_o200k}},
    {.name = "tekken", .patterns = {tekken}, .llama3 = true},
    {.name = "falcon", .falcon = true},
    {.name = "deepseek-coder",
     .patterns = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}},
    {.name = "deepseek-llm",
     .patterns = {"[\\r\\n]", "\\s?[" CASED "]+",
                  "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}"
                  "\\x{3000}-\\x{3002}]+",
                  "\\s+$", DEEPSEEK_CJK, "\\p{N}+"}},
    {.name = "deepseek-v3",
     .patterns = {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
                  deepseek3}},
};

static bool same(struct gguf_string text, const char *word) {
    return text.bytes == strlen(word) && memcmp(text.text, word, text.bytes) == 0;
}

static enum status apply_rule(struct tokenizer *tokenizer, const struct rule *rule) {
    if (rule->nfc) tokenizer_normalize_nfc(tokenizer);
    tokenizer->bpe.whole_words = rule->llama3;
    if (rule->falcon) {
        /* after the bytes' step digits are sought among the characters that stand for bytes */
        static const char punctuation[] = "[\\p{P}$+<=>^`|~]", three[] = "[0-9][0-9][0-9]";
        TRY(tokenizer_split_by(tokenizer, punctuation, sizeof punctuation - 1, SPLIT_CONTIGUOUS,
                               false, false));
        TRY(tokenizer_bytes_op(tokenizer, false, true));
        TRY(tokenizer_split_by(tokenizer, "\\p{N}", 5, SPLIT_CONTIGUOUS, false, false));
        return tokenizer_split_by(tokenizer, three, sizeof three - 1, SPLIT_ISOLATED, false, false);
    }
    for (int i = 0; i < RULE_PATTERNS && rule->patterns[i]; i++)
        TRY(tokenizer_split_by(tokenizer, rule->patterns[i], strlen(rule->patterns[i]),
                               SPLIT_ISOLATED, false, false));
    return tokenizer_bytes_op(tokenizer, false, rule->gpt2);
}

static enum status read_rule(struct tokenizer *tokenizer, const struct model_file *file) {
    struct gguf_string name = {"default", 7};
    const struct gguf_value *value = gguf_find(file, "tokenizer.ggml.pre");
    if (value && !gguf_get_string(value, &name))
        return status_fail(STATUS_FORMAT, "tokenizer.ggml.pre is not a string");
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (same(name, rules[i].name)) return apply_rule(tokenizer, &rules[i]);
    return status_fail(STATUS_UNSUPPORTED, "tokenizer.ggml.pre '%.*s' names no known rules",
                       name.bytes < 80 ? (int)name.bytes : 80, name.text);
}

static bool same_steps(const struct tokenizer *a, const struct tokenizer *b) {
    if (a->normalizer.count != b->normalizer.count ||
        a->pretokenizer.count != b->pretokenizer.count || a->bpe.whole_words != b->bpe.whole_words)
        return false;
    for (int i = 0; i < a->normalizer.count; i++) /* rules have no other normaliser than NFC */
        if (a->normalizer.ops[i].kind != NORMALIZE_NFC ||
            b->normalizer.ops[i].kind != NORMALIZE_NFC)
            return false;
    for (int i = 0; i < a->pretokenizer.count; i++) {
        const struct pretokenize_op *x = &a->pretokenizer.ops[i], *y = &b->pretokenizer.ops[i];
        if (x->kind != y->kind || x->behavior != y->behavior || x->lines != y->lines ||
            x->text.count != y->text.count ||
            (x->text.count > 0 && memcmp(x->text.data, y->text.data, x->text.count) != 0) ||
            x->invert != y->invert || x->add_prefix_space != y->add_prefix_space ||
            !x->regex != !y->regex)
            return false;
    }
    return true;
}

enum status tokenizer_gguf_rule(const struct tokenizer *tokenizer, const char **name) {
    *name = NULL;
    for (size_t i = 0; !*name && i < sizeof rules / sizeof rules[0]; i++) {
        struct tokenizer *steps;
        TRY(tokenizer_create(&steps));
        enum status status = apply_rule(steps, &rules[i]);
        if (status == STATUS_OK && same_steps(tokenizer, steps)) *name = rules[i].name;
        tokenizer_close(steps);
        TRY(status);
    }
    if (*name) return STATUS_OK;
    return status_fail(
        STATUS_UNSUPPORTED,
        "GGUF has no name for what the tokenizer's normalizers and pre-tokenizers do");
}

static int64_t integer_of(const struct model_file *file, const char *key, int64_t otherwise) {
    const struct gguf_value *value = gguf_find(file, key);
    int64_t number;
    return value && value->type != GGUF_ARRAY && gguf_get_i64(value, 0, &number) ? number
                                                                                 : otherwise;
}

/* An array of `count` strings; the caller frees it. */
static enum status strings_of(const struct model_file *file, const char *key,
                              struct gguf_string **strings, size_t *count) {
    const struct gguf_value *value = gguf_find(file, key);
    *strings = NULL;
    if (!value || value->type != GGUF_ARRAY || value->element_type != GGUF_STRING ||
        value->count > INT32_MAX)
        return status_fail(STATUS_FORMAT, "%s is not a list of strings", key);
    *count = (size_t)value->count;
    *strings = malloc((*count + 1) * sizeof **strings);
    if (!*strings) return status_fail(STATUS_MEMORY, "no memory for %s", key);
    if (gguf_strings(value, *strings)) return STATUS_OK;
    free(*strings);
    *strings = NULL;
    return status_fail(STATUS_FORMAT, "%s can't be read", key);
}

/* Tokens, scores and kinds. A kind that is missing is normal. */
static enum status read_tokens(struct tokenizer *tokenizer, const struct model_file *file) {
    static const enum token_kind kinds[] = {TOKEN_NORMAL,  TOKEN_NORMAL, TOKEN_UNKNOWN,
                                            TOKEN_CONTROL, TOKEN_USER,   TOKEN_UNUSED,
                                            TOKEN_BYTE};
    const struct gguf_value *types = gguf_find(file, "tokenizer.ggml.token_type");
    const struct gguf_value *scores = gguf_find(file, "tokenizer.ggml.scores");
    struct gguf_string *texts;
    size_t count;
    TRY(strings_of(file, "tokenizer.ggml.tokens", &texts, &count));
    enum status status = STATUS_OK;
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        int64_t kind = 1;
        double score = 0;
        if (types && (types->type != GGUF_ARRAY || i >= types->count ||
                      !gguf_get_i64(types, i, &kind) || kind < 0 || kind > 6))
            status = status_fail(STATUS_FORMAT, "tokenizer.ggml.token_type[%zu] is no kind", i);
        else if (scores && (scores->type != GGUF_ARRAY || i >= scores->count ||
                            !gguf_get_f64(scores, i, &score)))
            status = status_fail(STATUS_FORMAT, "tokenizer.ggml.scores[%zu] is no number", i);
        else
            status = tokenizer_set_token(tokenizer, (int64_t)i, texts[i].text, texts[i].bytes,
                                         kinds[kind], (float)score);
    }
    free(texts);
    return status;
}

static enum status read_merges(struct tokenizer *tokenizer, const struct model_file *file) {
    struct gguf_string *merges;
    size_t count;
    TRY(strings_of(file, "tokenizer.ggml.merges", &merges, &count));
    enum status status = pair_map_reserve(&tokenizer->bpe.pairs, count);
    for (size_t i = 0; i < count && status == STATUS_OK; i++) {
        const char *text = merges[i].text;
        const char *space = memchr(text, ' ', merges[i].bytes);
        if (!space) {
            status = status_fail(STATUS_FORMAT, "tokenizer.ggml.merges[%zu] is not a pair", i);
            break;
        }
        size_t left = (size_t)(space - text);
        status = tokenizer_merge(tokenizer, (int32_t)i, text, left, space + 1,
                                 merges[i].bytes - left - 1);
    }
    free(merges);
    return status;
}

/* Control tokens are parsed when asked for, user-defined ones always. */
static enum status add_tokens(struct tokenizer *tokenizer) {
    size_t count = tokenizer->token_count;
    for (size_t id = 0; id < count; id++) {
        const struct token *token = &tokenizer->tokens[id];
        if ((token->kind != TOKEN_CONTROL && token->kind != TOKEN_USER) ||
            token->literal_bytes == 0)
            continue;
        struct added_token added = {.id = (int32_t)id,
                                    .bytes = token->literal_bytes,
                                    .special = token->kind == TOKEN_CONTROL};
        TRY(tokenizer_add_known(tokenizer, &added));
    }
    return STATUS_OK;
}

static enum status read_byte_bpe(struct tokenizer *tokenizer, const struct model_file *file) {
    tokenizer->decoder.byte_level = true;
    TRY(read_rule(tokenizer, file));
    TRY(tokenizer_byte_words(tokenizer));
    return read_merges(tokenizer, file);
}

static enum status read_sentencepiece(struct tokenizer *tokenizer, const struct model_file *file,
                                      bool unigram) {
    const struct gguf_value *map = gguf_find(file, "tokenizer.ggml.precompiled_charsmap");
    struct sentencepiece_spec spec = {
        .unigram = unigram,
        .byte_fallback = true,
        .dummy_prefix = integer_of(file, "tokenizer.ggml.add_space_prefix", 1) != 0,
        .trim_spaces = integer_of(file, "tokenizer.ggml.remove_extra_whitespaces", 0) != 0,
        .escape_spaces = true,
        .unknown = (int32_t)integer_of(file, "tokenizer.ggml.unknown_token_id", unigram ? 2 : 0)};
    if (spec.unknown < 0 || (size_t)spec.unknown >= tokenizer->token_count) spec.unknown = -1;
    if (map &&
        (map->type != GGUF_ARRAY || (map->element_type != GGUF_U8 && map->element_type != GGUF_I8)))
        return status_fail(STATUS_FORMAT, "tokenizer.ggml.precompiled_charsmap is not bytes");
    if (map) {
        spec.charsmap = map->data;
        spec.charsmap_bytes = (size_t)map->count;
    }
    return tokenizer_sentencepiece(tokenizer, &spec);
}

static enum status read_ends(struct tokenizer *tokenizer, const struct model_file *file,
                             bool sentencepiece) {
    int64_t count = (int64_t)tokenizer->token_count;
    int64_t bos = integer_of(file, "tokenizer.ggml.bos_token_id", sentencepiece ? 1 : -1);
    int64_t eos = integer_of(file, "tokenizer.ggml.eos_token_id", sentencepiece ? 2 : -1);
    /* Llama 3's files of the first weeks don't say that they add BOS, but they do */
    bool bos_default = sentencepiece || tokenizer->bpe.whole_words;
    bool add_bos = integer_of(file, "tokenizer.ggml.add_bos_token", bos_default) != 0;
    bool add_eos = integer_of(file, "tokenizer.ggml.add_eos_token", 0) != 0;
    tokenizer->bos = bos >= 0 && bos < count ? (int32_t)bos : -1;
    tokenizer->eos = eos >= 0 && eos < count ? (int32_t)eos : -1;
    if (add_bos && tokenizer->bos >= 0) TRY(tokenizer_add_prefix(tokenizer, tokenizer->bos));
    if (add_eos && tokenizer->eos >= 0) TRY(tokenizer_add_suffix(tokenizer, tokenizer->eos));
    return STATUS_OK;
}

static enum status read_all(struct tokenizer *tokenizer, const struct model_file *file) {
    struct gguf_string model, text;
    const struct gguf_value *value = gguf_find(file, "tokenizer.ggml.model");
    if (!value || !gguf_get_string(value, &model))
        return status_fail(STATUS_FORMAT, "there is no tokenizer.ggml.model");
    TRY(read_tokens(tokenizer, file));
    bool bytes = same(model, "gpt2"), unigram = same(model, "t5");
    if (!bytes && !unigram && !same(model, "llama"))
        return status_fail(STATUS_UNSUPPORTED, "tokenizer.ggml.model '%.*s'",
                           model.bytes < 80 ? (int)model.bytes : 80, model.text);
    TRY(bytes ? read_byte_bpe(tokenizer, file) : read_sentencepiece(tokenizer, file, unigram));
    TRY(add_tokens(tokenizer));
    TRY(read_ends(tokenizer, file, !bytes));
    value = gguf_find(file, "tokenizer.chat_template");
    if (value && gguf_get_string(value, &text)) {
        tokenizer->chat_template = strndup(text.text, text.bytes);
        if (!tokenizer->chat_template)
            return status_fail(STATUS_MEMORY, "no memory for the chat template");
    }
    return tokenizer_finish(tokenizer);
}

enum status tokenizer_open_gguf(struct tokenizer **tokenizer, const struct model_file *file) {
    TRY(tokenizer_create(tokenizer));
    enum status status = read_all(*tokenizer, file);
    if (status == STATUS_OK) return status;
    tokenizer_close(*tokenizer);
    *tokenizer = NULL;
    return status_context(status, "%s", file->path ? file->path : "GGUF");
}
