#include "core/options.h"

#include "core/nearest.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 32 };

/* Where the parse stands: which rows were given. */
struct parse {
    const struct option_row *rows;
    int count;
    bool seen[MAX_ROWS];
};

static bool is_option(const char *text) {
    return text[0] == '-' && text[1] == '-' && text[2];
}

/* The row of an argument: its name's, or the next positional one; -1 when there is none. */
static int find_row(const struct parse *parse, const char *text) {
    for (int i = 0; i < parse->count; i++) {
        const char *name = parse->rows[i].name;
        if (is_option(text) ? name && strcmp(name, text) == 0 : !name && !parse->seen[i]) return i;
    }
    return -1;
}

static enum status read_integer(const struct option_row *row, const char *text) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < row->low || value > row->high)
        return status_fail(STATUS_CONFIG, "%s: '%s' is no number from %lld to %lld", row->name,
                           text, (long long)row->low, (long long)row->high);
    *(int64_t *)row->value = value;
    return STATUS_OK;
}

/* Takes the values at argv[*at]; *at goes behind them. */
static enum status read_values(const struct option_row *row, int argc, char **argv, int *at) {
    if (row->kind == OPTION_FLAG) {
        *(bool *)row->value = true;
        return STATUS_OK;
    }
    int first = *at;
    if (first == argc || is_option(argv[first]))
        return status_fail(STATUS_CONFIG, "%s needs a value", row->name);
    *at = first + 1;
    if (row->kind == OPTION_INTEGER) return read_integer(row, argv[first]);
    if (row->kind == OPTION_TEXT) {
        *(const char **)row->value = argv[first];
        return STATUS_OK;
    }
    while (*at < argc && !is_option(argv[*at])) ++*at;
    *(struct option_list *)row->value = (struct option_list){argv + first, *at - first};
    return STATUS_OK;
}

/* `--texts a b MODEL`: a list takes all that follows, so what is missing is its last item. */
static bool take_from_list(const struct parse *parse, const struct option_row *missing) {
    if (missing->name || missing->kind != OPTION_TEXT) return false;
    for (int i = 0; i < parse->count; i++) {
        if (parse->rows[i].kind != OPTION_LIST || !parse->seen[i]) continue;
        struct option_list *list = parse->rows[i].value;
        if (list->count < 2) continue;
        *(const char **)missing->value = list->items[--list->count];
        return true;
    }
    return false;
}

static enum status fail_unknown(const struct parse *parse, const char *text) {
    const char *names[MAX_ROWS];
    if (!is_option(text)) return status_fail(STATUS_CONFIG, "unexpected argument '%s'", text);
    for (int i = 0; i < parse->count; i++) names[i] = parse->rows[i].name;
    const char *nearest = nearest_word(text, names, parse->count);
    return status_fail(STATUS_CONFIG, "unknown option '%s'%s%s", text,
                       nearest ? "; the nearest is " : "", nearest ? nearest : "");
}

enum status options_parse(const struct option_row *rows, int count, int argc, char **argv) {
    struct parse parse = {.rows = rows, .count = count};
    assert(count <= MAX_ROWS);
    for (int at = 1; at < argc;) {
        const char *text = argv[at];
        int row = find_row(&parse, text);
        if (row < 0) return fail_unknown(&parse, text);
        if (parse.seen[row]) return status_fail(STATUS_CONFIG, "%s is said twice", text);
        parse.seen[row] = true;
        if (is_option(text)) at++;
        TRY(read_values(&rows[row], argc, argv, &at));
    }
    for (int i = 0; i < count; i++)
        if (rows[i].required && !parse.seen[i] && !take_from_list(&parse, &rows[i]))
            return status_fail(STATUS_CONFIG, "%s is missing",
                               rows[i].name ? rows[i].name : "an argument");
    return STATUS_OK;
}

bool options_ask_help(int argc, char *const *argv) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0) return true;
    return false;
}
