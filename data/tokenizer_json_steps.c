/* The normalizers, pre-tokenizers and decoders of a tokenizer.json. */
#include "data/base64.h"
#include "data/tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

/* Calls `read` for the step, or for each step of a Sequence (of Sequences, to a small depth). */
static enum status each_step(struct tokenizer *tokenizer, const json_t *json, const char *list,
                             int depth, enum status (*read)(struct tokenizer *, const json_t *)) {
    if (!json || json_is_null(json)) return STATUS_OK;
    if (!json_is_object(json)) return status_fail(STATUS_FORMAT, "a step is not an object");
    if (strcmp(step_type(json), "Sequence") != 0) return read(tokenizer, json);
    const json_t *steps = json_object_get(json, list), *step;
    size_t index;
    if (!json_is_array(steps) || depth == 4)
        return status_fail(STATUS_FORMAT, "a Sequence without a list of %s", list);
    json_array_foreach(steps, index, step) TRY(each_step(tokenizer, step, list, depth + 1, read));
    return STATUS_OK;
}

/* {"String": "x"} or {"Regex": "x"}; exactly one of the two is not NULL on success. */
static enum status read_pattern(const json_t *json, const json_t **string, const json_t **regex) {
    const json_t *pattern = json_object_get(json, "pattern");
    *string = json_is_string(pattern) ? pattern : json_object_get(pattern, "String");
    *regex = json_object_get(pattern, "Regex");
    if (json_is_string(*string)) *regex = NULL;
    if (!json_is_string(*string)) *string = NULL;
    if (*string || json_is_string(*regex)) return STATUS_OK;
    return status_fail(STATUS_FORMAT, "%s: no pattern", step_type(json));
}

static enum status keep(struct byte_buffer *buffer, const json_t *string) {
    if (buffer_append(buffer, json_string_value(string), json_string_length(string)))
        return STATUS_OK;
    return status_fail(STATUS_MEMORY, "no memory for a step's text");
}

static enum status read_charsmap(struct normalize_op *op, const json_t *json) {
    const json_t *text = json_object_get(json, "precompiled_charsmap");
    size_t bytes = json_string_length(text);
    char *data = malloc(bytes + 1);
    if (!data) return status_fail(STATUS_MEMORY, "no memory for a charsmap");
    size_t decoded = bytes ? base64_decode(json_string_value(text), bytes, data) : SIZE_MAX;
    enum status status = decoded == SIZE_MAX
                             ? status_fail(STATUS_FORMAT, "Precompiled: the charsmap is not base64")
                             : charsmap_open(&op->charsmap, data, decoded);
    free(data);
    return status;
}

static enum status read_replace(struct normalize_op *op, const json_t *json) {
    const json_t *string, *regex, *content = json_object_get(json, "content");
    TRY(read_pattern(json, &string, &regex));
    if (!json_is_string(content)) return status_fail(STATUS_FORMAT, "Replace: no content");
    TRY(keep(&op->content, content));
    if (string) return keep(&op->pattern, string);
    return regex_compile(&op->regex, json_string_value(regex), json_string_length(regex), true);
}

static void note_json(struct tokenizer *tokenizer, const json_t *json) {
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY) : NULL;
    if (text) tokenizer_note(tokenizer, text, strlen(text));
    free(text);
}

static enum status read_normalizer(struct tokenizer *tokenizer, const json_t *json) {
    static const struct {
        const char *type;
        enum normalize_kind kind;
    } kinds[] = {{"NFC", NORMALIZE_NFC},
                 {"NFD", NORMALIZE_NFD},
                 {"NFKC", NORMALIZE_NFKC},
                 {"NFKD", NORMALIZE_NFKD},
                 {"Lowercase", NORMALIZE_LOWERCASE},
                 {"StripAccents", NORMALIZE_STRIP_ACCENTS},
                 {"Strip", NORMALIZE_STRIP},
                 {"Replace", NORMALIZE_REPLACE},
                 {"Prepend", NORMALIZE_PREPEND},
                 {"Precompiled", NORMALIZE_CHARSMAP}};
    struct normalizer *normalizer = &tokenizer->normalizer;
    const char *type = step_type(json);
    size_t kind = 0;
    while (kind < sizeof kinds / sizeof kinds[0] && strcmp(kinds[kind].type, type) != 0) kind++;
    if (kind == sizeof kinds / sizeof kinds[0])
        return status_fail(STATUS_UNSUPPORTED, "a normalizer of type '%s'", type);
    if (normalizer->count == NORMALIZE_MAX_OPS)
        return status_fail(STATUS_UNSUPPORTED, "more than %d normalizers", NORMALIZE_MAX_OPS);
    struct normalize_op *op = &normalizer->ops[normalizer->count++];
    *op = (struct normalize_op){.kind = kinds[kind].kind,
                                .left = json_flag(json, "strip_left", true),
                                .right = json_flag(json, "strip_right", true)};
    const int settings[] = {(int)op->kind};
    tokenizer_note(tokenizer, settings, sizeof settings);
    if (op->kind >= NORMALIZE_STRIP) note_json(tokenizer, json);
    if (op->kind == NORMALIZE_REPLACE) return read_replace(op, json);
    if (op->kind == NORMALIZE_CHARSMAP) return read_charsmap(op, json);
    if (op->kind != NORMALIZE_PREPEND) return STATUS_OK;
    const json_t *prepend = json_object_get(json, "prepend");
    if (!json_is_string(prepend)) return status_fail(STATUS_FORMAT, "Prepend: no text");
    return keep(&op->content, prepend);
}

enum status json_read_normalizer(struct tokenizer *tokenizer, const json_t *json) {
    return each_step(tokenizer, json, "normalizers", 0, read_normalizer);
}

static enum status read_behavior(const json_t *json, enum split_behavior otherwise,
                                 enum split_behavior *behavior) {
    static const char *const names[] = {[SPLIT_REMOVED] = "Removed",
                                        [SPLIT_ISOLATED] = "Isolated",
                                        [SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                        [SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
                                        [SPLIT_CONTIGUOUS] = "Contiguous"};
    const char *name = json_string_value(json_object_get(json, "behavior"));
    *behavior = otherwise;
    if (!name) return STATUS_OK;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], name) == 0) {
            *behavior = (enum split_behavior)i;
            return STATUS_OK;
        }
    return status_fail(STATUS_FORMAT, "%s: unknown behavior '%s'", step_type(json), name);
}

/* A literal as a regex: every ASCII character that isn't a letter or digit is escaped. */
static enum status split_by_string(struct tokenizer *tokenizer, const char *text, size_t bytes,
                                   enum split_behavior behavior, bool invert) {
    struct byte_buffer pattern = {0};
    bool kept = true;
    for (size_t i = 0; i < bytes && kept; i++) {
        unsigned char c = (unsigned char)text[i];
        bool plain = c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
                     (c >= 'a' && c <= 'z') || c <= 0x20;
        kept = (plain || buffer_append(&pattern, "\\", 1)) && buffer_append(&pattern, text + i, 1);
    }
    enum status status = kept ? tokenizer_split_by(tokenizer, pattern.data ? pattern.data : "",
                                                   pattern.count, behavior, invert, false)
                              : status_fail(STATUS_MEMORY, "no memory for a pattern");
    buffer_free(&pattern);
    return status;
}

static enum status read_split(struct tokenizer *tokenizer, const json_t *json) {
    const json_t *string, *regex;
    enum split_behavior behavior;
    bool invert = json_flag(json, "invert", false);
    TRY(read_pattern(json, &string, &regex));
    TRY(read_behavior(json, SPLIT_ISOLATED, &behavior));
    if (string)
        return split_by_string(tokenizer, json_string_value(string), json_string_length(string),
                               behavior, invert);
    return tokenizer_split_by(tokenizer, json_string_value(regex), json_string_length(regex),
                              behavior, invert, true);
}

static enum status read_metaspace(struct tokenizer *tokenizer, const json_t *json) {
    static const char *const schemes[] = {"never", "first", "always"};
    struct pretokenizer *pretokenizer = &tokenizer->pretokenizer;
    if (pretokenizer->count == PRETOKENIZE_MAX_OPS)
        return status_fail(STATUS_UNSUPPORTED, "more than %d pre-tokenizers", PRETOKENIZE_MAX_OPS);
    struct pretokenize_op *op = &pretokenizer->ops[pretokenizer->count++];
    op->kind = PRETOKENIZE_METASPACE;
    op->split = json_flag(json, "split", true);
    op->prefix = json_flag(json, "add_prefix_space", true) ? METASPACE_ALWAYS : METASPACE_NEVER;
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    for (int i = 0; scheme && i < 3; i++)
        if (strcmp(schemes[i], scheme) == 0) op->prefix = (enum metaspace_prefix)i;
    const json_t *replacement = json_object_get(json, "replacement");
    if (!json_is_string(replacement) || json_string_length(replacement) == 0)
        return status_fail(STATUS_FORMAT, "Metaspace: no replacement");
    const int settings[] = {PRETOKENIZE_METASPACE, (int)op->prefix, op->split};
    tokenizer_note(tokenizer, settings, sizeof settings);
    tokenizer_note(tokenizer, json_string_value(replacement), json_string_length(replacement));
    return keep(&op->replacement, replacement);
}

static enum status read_bytes(struct tokenizer *tokenizer, const json_t *json) {
    for (int i = 0; i < tokenizer->pretokenizer.count; i++)
        if (tokenizer->pretokenizer.ops[i].kind == PRETOKENIZE_BYTES)
            return status_fail(STATUS_UNSUPPORTED, "two ByteLevel pre-tokenizers");
    return tokenizer_bytes_op(tokenizer, json_flag(json, "add_prefix_space", true),
                              json_flag(json, "use_regex", true));
}

/* Pre-tokenizers that are a regex with a fixed behaviour. Where the code's regex is Rust's, a word
 * also holds the two joiners. */
#define RUST_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}"
static const struct fixed_split {
    const char *type, *pattern;
    enum split_behavior behavior;
    bool invert;
} fixed_splits[] = {
    {"Whitespace", "[" RUST_WORD "]+|[^\\s" RUST_WORD "]+", SPLIT_REMOVED, true},
    {"WhitespaceSplit", "\\s", SPLIT_REMOVED, false},
    {"Punctuation", "[\\p{P}$+<=>^`|~]", SPLIT_ISOLATED, false},
};

static enum status read_pretokenizer(struct tokenizer *tokenizer, const json_t *json) {
    const char *type = step_type(json);
    enum split_behavior behavior;
    for (size_t i = 0; i < sizeof fixed_splits / sizeof fixed_splits[0]; i++) {
        const struct fixed_split *split = &fixed_splits[i];
        if (strcmp(split->type, type) != 0) continue;
        TRY(read_behavior(json, split->behavior, &behavior));
        return tokenizer_split_by(tokenizer, split->pattern, strlen(split->pattern), behavior,
                                  split->invert, false);
    }
    if (strcmp(type, "Digits") == 0) {
        bool each = json_flag(json, "individual_digits", false);
        return tokenizer_split_by(tokenizer, "\\p{N}", 5, each ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS,
                                  false, false);
    }
    if (strcmp(type, "CharDelimiterSplit") == 0) {
        const json_t *delimiter = json_object_get(json, "delimiter");
        if (!json_is_string(delimiter) || json_string_length(delimiter) == 0)
            return status_fail(STATUS_FORMAT, "CharDelimiterSplit: no delimiter");
        return split_by_string(tokenizer, json_string_value(delimiter),
                               json_string_length(delimiter), SPLIT_REMOVED, false);
    }
    if (strcmp(type, "Split") == 0) return read_split(tokenizer, json);
    if (strcmp(type, "ByteLevel") == 0) return read_bytes(tokenizer, json);
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(tokenizer, json);
    return status_fail(STATUS_UNSUPPORTED, "a pre_tokenizer of type '%s'", type);
}

enum status json_read_pretokenizer(struct tokenizer *tokenizer, const json_t *json) {
    return each_step(tokenizer, json, "pretokenizers", 0, read_pretokenizer);
}

static enum status read_decoder_strip(struct decoder *decoder, const json_t *json) {
    const char *content = json_string_value(json_object_get(json, "content"));
    json_int_t start = json_integer_value(json_object_get(json, "start"));
    json_int_t stop = json_integer_value(json_object_get(json, "stop"));
    if (!content || strlen(content) != 1 || start < 0 || stop < 0 || start > 1000 || stop > 1000)
        return status_fail(STATUS_UNSUPPORTED, "a decoder Strip of more than one character");
    decoder->strip = content[0];
    decoder->strip_left = (int)start;
    decoder->strip_right = (int)stop;
    return STATUS_OK;
}

static enum status read_decoder(struct tokenizer *tokenizer, const json_t *json) {
    struct decoder *decoder = &tokenizer->decoder;
    const char *type = step_type(json);
    if (strcmp(type, "ByteLevel") == 0) {
        decoder->byte_level = true;
        return STATUS_OK;
    }
    if (strcmp(type, "ByteFallback") == 0) {
        decoder->rule = BYTES_RUN;
        return STATUS_OK;
    }
    if (strcmp(type, "Fuse") == 0) return STATUS_OK;
    if (strcmp(type, "Strip") == 0) return read_decoder_strip(decoder, json);
    if (strcmp(type, "Metaspace") == 0) {
        const json_t *mark = json_object_get(json, "replacement");
        const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
        decoder->strip_first_piece =
            scheme ? strcmp(scheme, "never") != 0 : json_flag(json, "add_prefix_space", true);
        if (!json_is_string(mark)) return status_fail(STATUS_FORMAT, "Metaspace: no replacement");
        return tokenizer_decode_replace(tokenizer, json_string_value(mark),
                                        json_string_length(mark), " ", 1);
    }
    if (strcmp(type, "Replace") == 0) {
        const json_t *string, *regex, *content = json_object_get(json, "content");
        TRY(read_pattern(json, &string, &regex));
        if (!string || !json_is_string(content))
            return status_fail(STATUS_UNSUPPORTED, "a decoder Replace that is not of a string");
        return tokenizer_decode_replace(tokenizer, json_string_value(string),
                                        json_string_length(string), json_string_value(content),
                                        json_string_length(content));
    }
    return status_fail(STATUS_UNSUPPORTED, "a decoder of type '%s'", type);
}

enum status json_read_decoder(struct tokenizer *tokenizer, const json_t *json) {
    tokenizer->decoder.join_spaces = !json || json_is_null(json);
    return each_step(tokenizer, json, "decoders", 0, read_decoder);
}
