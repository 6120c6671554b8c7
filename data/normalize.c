#define _GNU_SOURCE
#include "data/normalize.h"

#include "data/utf8.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void normalizer_free(struct normalizer *normalizer) {
    for (int i = 0; i < normalizer->count; i++) {
        struct normalize_op *op = &normalizer->ops[i];
        buffer_free(&op->pattern);
        buffer_free(&op->content);
        regex_free(op->regex);
        charsmap_close(&op->charsmap);
        trie_free(&op->verbatim);
    }
    *normalizer = (struct normalizer){0};
}

void normalize_scratch_free(struct normalize_scratch *scratch) {
    buffer_free(&scratch->buffers[0]);
    buffer_free(&scratch->buffers[1]);
    regex_scratch_free(&scratch->regex);
}

static bool append_point(struct byte_buffer *out, uint32_t point) {
    char text[4];
    return buffer_append(out, text, (size_t)utf8_encode(point, text));
}

/* Code points that every form keeps, with nothing that could join them from behind: NFC_QC is yes
 * and the combining class 0 (Unicode 15, DerivedNormalizationProps). */
static bool is_stable_nfc(uint32_t point) {
    return point < 0x300 || (point >= 0x400 && point < 0x483) ||
           (point >= 0x2010 && point < 0x2028) || (point >= 0x3001 && point < 0x302A) ||
           (point >= 0x3041 && point < 0x3097) || (point >= 0x30A1 && point < 0x30FB) ||
           (point >= 0x4E00 && point < 0xA000) || (point >= 0xAC00 && point < 0xD7A4);
}

static bool append_form(struct byte_buffer *out, const char *text, size_t bytes,
                        utf8proc_option_t options) {
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &mapped, options);
    /* the text is valid, so only memory can fail */
    bool kept = length >= 0 && buffer_append(out, (const char *)mapped, (size_t)length);
    free(mapped);
    return kept;
}

/* ASCII stays as it is in every form and nothing composes with an ASCII character behind it, so a
 * form is applied to each run of other characters together with the ASCII character before it. */
static bool append_unicode_form(struct byte_buffer *out, const char *text, size_t bytes,
                                enum normalize_kind kind) {
    static const int options[] = {
        [NORMALIZE_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [NORMALIZE_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [NORMALIZE_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [NORMALIZE_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
    size_t at = 0;
    while (at < bytes) {
        size_t plain = at;
        while (plain < bytes && (unsigned char)text[plain] < 0x80) plain++;
        size_t start = plain > at && plain < bytes ? plain - 1 : plain;
        if (!buffer_append(out, text + at, start - at)) return false;
        size_t end = plain;
        bool stable = kind == NORMALIZE_NFC;
        while (end < bytes && (unsigned char)text[end] >= 0x80) {
            uint32_t point = 0;
            end += (size_t)utf8_decode(text + end, bytes - end, &point);
            stable = stable && is_stable_nfc(point);
        }
        bool kept =
            stable ? buffer_append(out, text + start, end - start)
                   : append_form(out, text + start, end - start, (utf8proc_option_t)options[kind]);
        if (!kept) return false;
        at = end;
    }
    return true;
}

/* Full lower case has one special rule outside Turkic: I with dot above becomes i and the dot. */
static bool append_lowercase(struct byte_buffer *out, const char *text, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        uint32_t point = 0;
        at += (size_t)utf8_decode(text + at, bytes - at, &point);
        bool kept = point == 0x130
                        ? append_point(out, 'i') && append_point(out, 0x307)
                        : append_point(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)point));
        if (!kept) return false;
    }
    return true;
}

static bool append_without_marks(struct byte_buffer *out, const char *text, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        uint32_t point = 0;
        size_t width = (size_t)utf8_decode(text + at, bytes - at, &point);
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)point);
        bool mark = category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
                    category == UTF8PROC_CATEGORY_ME;
        if (!mark && !buffer_append(out, text + at, width)) return false;
        at += width;
    }
    return true;
}

static bool append_stripped(struct byte_buffer *out, const struct normalize_op *op,
                            const char *text, size_t bytes) {
    uint32_t point = 0;
    size_t start = 0, end = bytes;
    while (op->left && start < end) {
        size_t width = (size_t)utf8_decode(text + start, end - start, &point);
        if (!utf8_is_space(point)) break;
        start += width;
    }
    while (op->right && end > start) {
        size_t last = end - 1;
        while (last > start && ((unsigned char)text[last] & 0xC0) == 0x80) last--;
        utf8_decode(text + last, end - last, &point);
        if (!utf8_is_space(point)) break;
        end = last;
    }
    return buffer_append(out, text + start, end - start);
}

static bool append_replaced(struct byte_buffer *out, const struct normalize_op *op,
                            struct regex_scratch *scratch, const char *text, size_t bytes) {
    size_t done = 0;
    if (op->regex) {
        struct regex_cursor cursor = {0};
        while (regex_next(op->regex, scratch, text, bytes, &cursor)) {
            if (!buffer_append(out, text + done, cursor.start - done) ||
                !buffer_append(out, op->content.data, op->content.count))
                return false;
            done = cursor.end;
        }
        return buffer_append(out, text + done, bytes - done);
    }
    while (op->pattern.count > 0) {
        const char *found = memmem(text + done, bytes - done, op->pattern.data, op->pattern.count);
        if (!found) break;
        if (!buffer_append(out, text + done, (size_t)(found - text) - done) ||
            !buffer_append(out, op->content.data, op->content.count))
            return false;
        done = (size_t)(found - text) + op->pattern.count;
    }
    return buffer_append(out, text + done, bytes - done);
}

/* The rule of "Precompiled": a grapheme of less than 6 bytes is looked up as a whole, and the
 * shortest known prefix of it then stands for all of it; else its characters one by one. */
static bool append_mapped(struct byte_buffer *out, const struct charsmap *map, const char *text,
                          size_t bytes) {
    size_t used;
    const char *replacement = charsmap_find(map, text, bytes, true, &used);
    if (replacement) return buffer_append(out, replacement, strlen(replacement));
    return buffer_append(out, text, bytes);
}

static bool append_grapheme(struct byte_buffer *out, const struct charsmap *map, const char *text,
                            size_t bytes) {
    size_t used;
    if (bytes < 6 && charsmap_find(map, text, bytes, true, &used))
        return append_mapped(out, map, text, bytes);
    for (size_t at = 0; at < bytes;) {
        size_t width = (size_t)utf8_width((unsigned char)text[at]);
        if (!append_mapped(out, map, text + at, width)) return false;
        at += width;
    }
    return true;
}

static bool append_graphemes(struct byte_buffer *out, const struct charsmap *map, const char *text,
                             size_t bytes) {
    size_t start = 0, at = 0;
    uint32_t point = 0, previous = 0;
    utf8proc_int32_t state = 0;
    while (at < bytes) {
        size_t width = (size_t)utf8_decode(text + at, bytes - at, &point);
        if (at > 0 && utf8proc_grapheme_break_stateful((utf8proc_int32_t)previous,
                                                       (utf8proc_int32_t)point, &state)) {
            if (!append_grapheme(out, map, text + start, at - start)) return false;
            start = at;
        }
        previous = point;
        at += width;
    }
    return append_grapheme(out, map, text + start, bytes - start);
}

/* One step of SentencePiece's normaliser: the piece of input at `text` and what it becomes. */
static size_t sentencepiece_step(const struct normalize_op *op, const char *text, size_t bytes,
                                 const char **become, size_t *become_bytes) {
    int32_t unused;
    size_t verbatim = trie_longest(&op->verbatim, text, bytes, &unused);
    size_t used = 0;
    const char *replacement =
        verbatim ? NULL : charsmap_find(&op->charsmap, text, bytes, false, &used);
    if (replacement) {
        *become = replacement;
        *become_bytes = strlen(replacement);
        return used;
    }
    *become = text;
    *become_bytes = verbatim ? verbatim : (size_t)utf8_width((unsigned char)text[0]);
    return *become_bytes;
}

#define SPACE_SYMBOL "\xE2\x96\x81" /* U+2581 */
enum { SPACE_SYMBOL_BYTES = 3 };

static bool append_escaped(struct byte_buffer *out, const char *text, size_t bytes, bool escape) {
    size_t done = 0;
    for (size_t i = 0; escape && i < bytes; i++) {
        if (text[i] != ' ') continue;
        if (!buffer_append(out, text + done, i - done) ||
            !buffer_append(out, SPACE_SYMBOL, SPACE_SYMBOL_BYTES))
            return false;
        done = i + 1;
    }
    return buffer_append(out, text + done, bytes - done);
}

static void trim_end(struct byte_buffer *out, bool escaped) {
    size_t width = escaped ? SPACE_SYMBOL_BYTES : 1;
    const char *space = escaped ? SPACE_SYMBOL : " ";
    while (out->count >= width && memcmp(out->data + out->count - width, space, width) == 0)
        out->count -= width;
}

static bool append_sentencepiece(struct byte_buffer *out, const struct normalize_op *op,
                                 const char *text, size_t bytes, bool continues) {
    const char *become = NULL;
    size_t become_bytes = 0, at = 0;
    while (op->trim_spaces && !continues && at < bytes) {
        size_t used = sentencepiece_step(op, text + at, bytes - at, &become, &become_bytes);
        if (become_bytes != 1 || become[0] != ' ') break;
        at += used;
    }
    if (at == bytes) return true;
    bool dummy = op->dummy_prefix && !continues;
    if (dummy && !op->space_is_suffix && !append_escaped(out, " ", 1, op->escape_spaces))
        return false;
    bool after_space = op->trim_spaces;
    while (at < bytes) {
        at += sentencepiece_step(op, text + at, bytes - at, &become, &become_bytes);
        while (after_space && become_bytes > 0 && become[0] == ' ') become++, become_bytes--;
        if (become_bytes == 0) continue;
        if (!append_escaped(out, become, become_bytes, op->escape_spaces)) return false;
        after_space = op->trim_spaces && become[become_bytes - 1] == ' ';
    }
    if (op->trim_spaces) trim_end(out, op->escape_spaces);
    if (dummy && op->space_is_suffix) return append_escaped(out, " ", 1, op->escape_spaces);
    return true;
}

static bool apply(const struct normalize_op *op, struct normalize_scratch *scratch,
                  struct byte_buffer *out, const char *text, size_t bytes, bool continues) {
    switch (op->kind) {
    case NORMALIZE_NFC:
    case NORMALIZE_NFD:
    case NORMALIZE_NFKC:
    case NORMALIZE_NFKD:
        return append_unicode_form(out, text, bytes, op->kind);
    case NORMALIZE_LOWERCASE:
        return append_lowercase(out, text, bytes);
    case NORMALIZE_STRIP_ACCENTS:
        return append_without_marks(out, text, bytes);
    case NORMALIZE_STRIP:
        return append_stripped(out, op, text, bytes);
    case NORMALIZE_REPLACE:
        return append_replaced(out, op, &scratch->regex, text, bytes);
    case NORMALIZE_PREPEND:
        return (continues || buffer_append(out, op->content.data, op->content.count)) &&
               buffer_append(out, text, bytes);
    case NORMALIZE_CHARSMAP:
        return append_graphemes(out, &op->charsmap, text, bytes);
    case NORMALIZE_SENTENCEPIECE:
        return append_sentencepiece(out, op, text, bytes, continues);
    }
    return true;
}

/* A form of a text whose characters all are stable is the text: nothing to copy. */
static bool leaves_alone(const struct normalize_op *op, const char *text, size_t bytes) {
    if (op->kind > NORMALIZE_NFKD) return false;
    for (size_t at = 0; at < bytes;) {
        uint32_t point = (unsigned char)text[at];
        size_t width = 1;
        if (point >= 0x80) width = (size_t)utf8_decode(text + at, bytes - at, &point);
        if (op->kind == NORMALIZE_NFC ? !is_stable_nfc(point) : point >= 0x80) return false;
        at += width;
    }
    return true;
}

bool normalizer_run(const struct normalizer *normalizer, struct normalize_scratch *scratch,
                    const char *text, size_t bytes, bool continues, const char **result,
                    size_t *result_bytes) {
    int turn = 0;
    for (int i = 0; i < normalizer->count && bytes > 0; i++) {
        const struct normalize_op *op = &normalizer->ops[i];
        if (leaves_alone(op, text, bytes)) continue;
        struct byte_buffer *out = &scratch->buffers[turn];
        out->count = 0;
        if (!array_reserve(&out->data, &out->capacity, bytes + bytes / 4 + 16, 1) ||
            !apply(op, scratch, out, text, bytes, continues))
            return false;
        text = out->data;
        bytes = out->count;
        turn = 1 - turn;
    }
    *result = text;
    *result_bytes = bytes;
    return true;
}
