#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/regex.h"

#include "data/containers.h"
#include "data/utf8.h"
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

/* A pattern from a file is not trusted: nested quantifiers end at this many steps. */
enum { MATCH_LIMIT = 10000000, JIT_STACK_FIRST = 32 << 10, JIT_STACK_LAST = 8 << 20 };

struct regex {
    pcre2_code *code;
    bool compiled; /* to machine code */
};

#define SPACES                                                                                     \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
/* ... among them, in Oniguruma, Latin-1's superscripts and fractions */
#define WORDS "\\xb2\\xb3\\xb9\\xbc-\\xbe\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

/* What an escape becomes outside and inside [...]; NULL leaves it as it is. */
static const struct escape {
    char letter;
    const char *outside, *inside;
} escapes[] = {
    {'s', "[" SPACES "]", SPACES}, {'S', "[^" SPACES "]", NULL},      {'w', "[" WORDS "]", WORDS},
    {'W', "[^" WORDS "]", NULL},   {'h', "[0-9a-fA-F]", "0-9a-fA-F"},
};

static bool append_escape(struct byte_buffer *out, const char *pattern, bool in_class) {
    for (size_t i = 0; i < sizeof escapes / sizeof escapes[0]; i++) {
        const char *text = in_class ? escapes[i].inside : escapes[i].outside;
        if (pattern[1] == escapes[i].letter && text) return buffer_append(out, text, strlen(text));
    }
    return buffer_append(out, pattern, 2);
}

/* Bytes of a "[:alpha:]" at `pattern`, or 0. */
static size_t named_class(const char *pattern, size_t bytes) {
    if (bytes < 4 || pattern[1] != ':') return 0;
    for (size_t i = 2; i + 1 < bytes && pattern[i] != ']'; i++)
        if (pattern[i] == ':' && pattern[i + 1] == ']') return i + 2;
    return 0;
}

static enum status spell_out(struct byte_buffer *out, const char *pattern, size_t bytes) {
    bool in_class = false, kept = true;
    for (size_t i = 0; i < bytes && kept;) {
        char c = pattern[i];
        size_t width = 1, named = in_class && c == '[' ? named_class(pattern + i, bytes - i) : 0;
        if (c == '\\' && i + 1 < bytes && (unsigned char)pattern[i + 1] < 0x80) {
            kept = append_escape(out, pattern + i, in_class);
            i += 2;
            continue;
        }
        if (named > 0)
            width = named;
        else if (in_class && (c == '[' || (c == '&' && i + 1 < bytes && pattern[i + 1] == '&')))
            return status_fail(STATUS_UNSUPPORTED, "regex '%.*s': a class inside a class",
                               bytes < 200 ? (int)bytes : 200, pattern);
        else if (c == '[')
            in_class = true;
        else if (c == ']')
            in_class = false;
        kept = buffer_append(out, pattern + i, width);
        i += width;
    }
    return kept ? STATUS_OK
                : status_fail(STATUS_MEMORY, "no memory for a regex of %zu bytes", bytes);
}

enum status regex_compile(struct regex **regex, const char *pattern, size_t bytes, bool lines) {
    *regex = NULL;
    struct byte_buffer spelled = {0};
    enum status status = spell_out(&spelled, pattern, bytes);
    if (status != STATUS_OK) {
        buffer_free(&spelled);
        return status;
    }
    int error = 0;
    PCRE2_SIZE offset = 0;
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE;
    if (lines) options |= PCRE2_MULTILINE;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)(spelled.data ? spelled.data : ""), spelled.count,
                                     options, &error, &offset, NULL);
    buffer_free(&spelled);
    if (!code) {
        char reason[128];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)reason, sizeof reason);
        return status_fail(STATUS_FORMAT, "regex '%.*s': %s", bytes < 200 ? (int)bytes : 200,
                           pattern, reason);
    }
    *regex = malloc(sizeof **regex);
    if (!*regex) {
        pcre2_code_free(code);
        return status_fail(STATUS_MEMORY, "no memory for a regex");
    }
    (*regex)->code = code;
    (*regex)->compiled = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
    return STATUS_OK;
}

void regex_free(struct regex *regex) {
    if (!regex) return;
    pcre2_code_free(regex->code);
    free(regex);
}

void regex_scratch_free(struct regex_scratch *scratch) {
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    pcre2_jit_stack_free(scratch->stack);
    *scratch = (struct regex_scratch){0};
}

static bool scratch_ready(struct regex_scratch *scratch) {
    if (scratch->match) return true;
    scratch->context = pcre2_match_context_create(NULL);
    scratch->match = pcre2_match_data_create(1, NULL);
    if (!scratch->match || !scratch->context) {
        regex_scratch_free(scratch);
        return false;
    }
    pcre2_set_match_limit(scratch->context, MATCH_LIMIT);
    return true;
}

static int match_at(const struct regex *regex, struct regex_scratch *scratch, const char *text,
                    size_t bytes, size_t from) {
    if (regex->compiled)
        return pcre2_jit_match(regex->code, (PCRE2_SPTR)text, bytes, from, 0, scratch->match,
                               scratch->context);
    return pcre2_match(regex->code, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK,
                       scratch->match, scratch->context);
}

bool regex_next(const struct regex *regex, struct regex_scratch *scratch, const char *text,
                size_t bytes, struct regex_cursor *cursor) {
    if (!scratch_ready(scratch)) return false;
    while (cursor->next <= bytes) {
        int found = match_at(regex, scratch, text, bytes, cursor->next);
        if (found == PCRE2_ERROR_JIT_STACKLIMIT && !scratch->stack) {
            scratch->stack = pcre2_jit_stack_create(JIT_STACK_FIRST, JIT_STACK_LAST, NULL);
            pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
            found = match_at(regex, scratch, text, bytes, cursor->next);
        }
        if (found < 0) return false;
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(scratch->match);
        if (span[0] > span[1]) return false; /* \K in a lookahead can do this */
        if (span[0] == span[1] && cursor->matched && span[0] == cursor->end) {
            cursor->next =
                span[0] + (span[0] < bytes ? (size_t)utf8_width((unsigned char)text[span[0]]) : 1);
            continue;
        }
        cursor->start = span[0];
        cursor->end = cursor->next = span[1];
        cursor->matched = true;
        return true;
    }
    return false;
}
