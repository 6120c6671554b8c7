#define _GNU_SOURCE
#include "data/pretokenize.h"

#include "data/utf8.h"
#include <stdlib.h>
#include <string.h>

/* GPT-2, encoder.py; Llama 3, tokenizer.json; Qwen2, tokenizer.json; o200k, tiktoken. */
const char pretokenize_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char pretokenize_llama3[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char pretokenize_qwen2[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char pretokenize_o200k[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* Printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up in their order. */
static bool is_printable_latin1(unsigned byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
}

uint32_t byte_level_point(unsigned char byte) {
    if (is_printable_latin1(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    return byte == 0xAD ? 0x143 : 0x121u + (byte - 0x7Fu);
}

int byte_level_byte(uint32_t point) {
    if (point < 0x100) return is_printable_latin1(point) ? (int)point : -1;
    if (point <= 0x120) return (int)(point - 0x100);
    if (point <= 0x142) return (int)(point - 0x121 + 0x7F);
    return point == 0x143 ? 0xAD : -1;
}

bool byte_level_decode(struct byte_buffer *out, const char *text, size_t bytes, bool *memory) {
    size_t before = out->count;
    *memory = true;
    for (size_t at = 0; at < bytes;) {
        uint32_t point = 0;
        int width = utf8_decode(text + at, bytes - at, &point);
        int byte = width ? byte_level_byte(point) : -1;
        if (byte < 0) {
            out->count = before;
            return false;
        }
        char c = (char)byte;
        if (!buffer_append(out, &c, 1)) return *memory = false;
        at += (size_t)width;
    }
    return true;
}

void pretokenizer_free(struct pretokenizer *pretokenizer) {
    for (int i = 0; i < pretokenizer->count; i++) {
        regex_free(pretokenizer->ops[i].regex);
        buffer_free(&pretokenizer->ops[i].text);
        buffer_free(&pretokenizer->ops[i].replacement);
    }
    *pretokenizer = (struct pretokenizer){0};
}

void pretokenize_scratch_free(struct pretokenize_scratch *scratch) {
    for (int i = 0; i < PRETOKENIZE_MAX_OPS + 2; i++) buffer_free(&scratch->texts[i]);
    regex_scratch_free(&scratch->regex);
}

/* A text on its way through the ops; `mapped`: its characters stand for bytes. */
struct span {
    const char *text;
    size_t bytes;
    bool first, mapped;
};

static bool run_op(const struct pretokenize_call *call, int index, struct span span);

static bool pass_on(const struct pretokenize_call *call, int index, struct span whole, size_t start,
                    size_t end) {
    if (start == end) return true;
    struct span part = {whole.text + start, end - start, whole.first && start == 0, whole.mapped};
    return run_op(call, index + 1, part);
}

/* What a behaviour joins is one part: it is held until the next piece shows that it is complete. */
struct joiner {
    size_t start, end;
    bool held, match;
};

static bool join(const struct pretokenize_call *call, int index, struct span span,
                 struct joiner *joiner, size_t start, size_t end, bool match) {
    const struct pretokenize_op *op = &call->pretokenizer->ops[index];
    bool joined = false;
    switch (op->behavior) {
    case SPLIT_REMOVED:
        return match || pass_on(call, index, span, start, end);
    case SPLIT_ISOLATED:
        return pass_on(call, index, span, start, end);
    case SPLIT_CONTIGUOUS:
        joined = match == joiner->match;
        break;
    case SPLIT_MERGED_WITH_PREVIOUS:
        joined = match && !joiner->match;
        break;
    case SPLIT_MERGED_WITH_NEXT:
        joined = !match && joiner->match;
        break;
    }
    if (joiner->held && joined) {
        joiner->end = end;
        joiner->match = match;
        return true;
    }
    if (joiner->held && !pass_on(call, index, span, joiner->start, joiner->end)) return false;
    *joiner = (struct joiner){start, end, true, match};
    return true;
}

static bool run_split(const struct pretokenize_call *call, int index, struct span span) {
    const struct pretokenize_op *op = &call->pretokenizer->ops[index];
    struct regex_cursor cursor = {0};
    struct joiner joiner = {0};
    size_t done = 0;
    while (regex_next(op->regex, &call->scratch->regex, span.text, span.bytes, &cursor)) {
        if (cursor.start > done &&
            !join(call, index, span, &joiner, done, cursor.start, op->invert))
            return false;
        if (!join(call, index, span, &joiner, cursor.start, cursor.end, !op->invert)) return false;
        done = cursor.end;
    }
    if (done < span.bytes && !join(call, index, span, &joiner, done, span.bytes, op->invert))
        return false;
    return !joiner.held || pass_on(call, index, span, joiner.start, joiner.end);
}

/* Later ops see the characters that stand for the bytes, as they do in tokenizer.json. */
static bool pass_bytes(const struct pretokenize_call *call, int index, struct span span) {
    if (index + 1 == call->pretokenizer->count)
        return call->word(call->user, span.text, span.bytes);
    struct byte_buffer *mapped = &call->scratch->texts[index];
    mapped->count = 0;
    for (size_t i = 0; i < span.bytes; i++) {
        char text[4];
        int width = utf8_encode(byte_level_point((unsigned char)span.text[i]), text);
        if (!buffer_append(mapped, text, (size_t)width)) return false;
    }
    return run_op(call, index + 1, (struct span){mapped->data, mapped->count, span.first, true});
}

static bool run_bytes(const struct pretokenize_call *call, int index, struct span span) {
    const struct pretokenize_op *op = &call->pretokenizer->ops[index];
    /* the prefixed copy needs a buffer of its own beside the mapped words */
    struct byte_buffer *prefixed = &call->scratch->texts[PRETOKENIZE_MAX_OPS + 1];
    bool goes_on = call->continues && span.first;
    if (op->add_prefix_space && !goes_on && span.text[0] != ' ') {
        prefixed->count = 0;
        if (!buffer_append(prefixed, " ", 1) || !buffer_append(prefixed, span.text, span.bytes))
            return false;
        span.text = prefixed->data;
        span.bytes = prefixed->count;
    }
    if (!op->regex) return pass_bytes(call, index, span);
    struct regex_cursor cursor = {0};
    size_t done = 0;
    while (regex_next(op->regex, &call->scratch->regex, span.text, span.bytes, &cursor)) {
        struct span gap = {span.text + done, cursor.start - done, span.first && done == 0, false};
        struct span match = {span.text + cursor.start, cursor.end - cursor.start,
                             span.first && cursor.start == 0, false};
        if (gap.bytes > 0 && !pass_bytes(call, index, gap)) return false;
        if (match.bytes > 0 && !pass_bytes(call, index, match)) return false;
        done = cursor.end;
    }
    struct span rest = {span.text + done, span.bytes - done, span.first && done == 0, false};
    return rest.bytes == 0 || pass_bytes(call, index, rest);
}

static bool replace_spaces(struct byte_buffer *out, const struct byte_buffer *replacement,
                           struct span span) {
    size_t done = 0;
    for (size_t i = 0; i < span.bytes; i++) {
        if (span.text[i] != ' ') continue;
        if (!buffer_append(out, span.text + done, i - done) ||
            !buffer_append(out, replacement->data, replacement->count))
            return false;
        done = i + 1;
    }
    return buffer_append(out, span.text + done, span.bytes - done);
}

static bool run_metaspace(const struct pretokenize_call *call, int index, struct span span) {
    const struct pretokenize_op *op = &call->pretokenizer->ops[index];
    const struct byte_buffer *mark = &op->replacement;
    struct byte_buffer *out = &call->scratch->texts[index];
    bool starts = span.text[0] == ' ' ||
                  (span.bytes >= mark->count && memcmp(span.text, mark->data, mark->count) == 0);
    bool wanted = op->prefix == METASPACE_ALWAYS || (op->prefix == METASPACE_FIRST && span.first);
    bool goes_on = call->continues && span.first;
    out->count = 0;
    if (wanted && !starts && !goes_on && !buffer_append(out, mark->data, mark->count)) return false;
    if (!replace_spaces(out, mark, span)) return false;
    struct span text = {out->data, out->count, span.first, span.mapped};
    size_t start = 0;
    for (size_t at = 0; op->split && at < text.bytes;) {
        const char *found = memmem(text.text + at, text.bytes - at, mark->data, mark->count);
        if (!found) break;
        size_t cut = (size_t)(found - text.text);
        if (!pass_on(call, index, text, start, cut)) return false;
        start = cut;
        at = cut + mark->count;
    }
    return pass_on(call, index, text, start, text.bytes);
}

static bool run_op(const struct pretokenize_call *call, int index, struct span span) {
    if (index == call->pretokenizer->count) {
        if (!span.mapped) return call->word(call->user, span.text, span.bytes);
        struct byte_buffer *bytes = &call->scratch->texts[index];
        bool memory;
        bytes->count = 0;
        if (!byte_level_decode(bytes, span.text, span.bytes, &memory)) return memory;
        return call->word(call->user, bytes->data, bytes->count);
    }
    switch (call->pretokenizer->ops[index].kind) {
    case PRETOKENIZE_SPLIT:
        return run_split(call, index, span);
    case PRETOKENIZE_BYTES:
        return run_bytes(call, index, span);
    case PRETOKENIZE_METASPACE:
        return run_metaspace(call, index, span);
    }
    return true;
}

bool pretokenize(const struct pretokenize_call *call, const char *text, size_t bytes) {
    if (bytes == 0) return true;
    return run_op(call, 0, (struct span){text, bytes, call->first, false});
}
