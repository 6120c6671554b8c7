#define _GNU_SOURCE
#include "core/config_value.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The longest value that a message repeats. */
enum { SHOWN_BYTES = 120 };

static const char *const type_wants[] = {
    [CONFIG_BOOL] = "true or false",      [CONFIG_INT] = "an integer",
    [CONFIG_DOUBLE] = "a finite number",  [CONFIG_STRING] = "text",
    [CONFIG_ENUM] = "one of these words", [CONFIG_LIST] = "a list of these words",
};

static void *field(const struct config_slot *slot) {
    return (char *)slot->table->values + slot->row->offset;
}

enum status config_fail_value(const char *key, const char *value, struct config_source source,
                              const char *reason) {
    char line[32] = "";
    if (source.line > 0) snprintf(line, sizeof line, ":%ld", source.line);
    bool cut = strlen(value) > SHOWN_BYTES;
    if (source.option)
        return status_fail(STATUS_CONFIG, "option --%s: \"%.*s\"%s %s", key, SHOWN_BYTES, value,
                           cut ? "..." : "", reason);
    return status_fail(STATUS_CONFIG, "%s%s: %s = \"%.*s\"%s %s", source.name, line, key,
                       SHOWN_BYTES, value, cut ? "..." : "", reason);
}

/* Python's and JSON's UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF. What isn't
 * UTF-8 could not be dumped as YAML. */
static bool is_utf8(const char *text) {
    const unsigned char *p = (const unsigned char *)text;
    while (*p) {
        unsigned lead = *p++;
        if (lead < 0x80) continue;
        int rest = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
        if (lead < 0xC2 || lead > 0xF4) return false;
        uint32_t code = lead & (0x3Fu >> rest);
        for (int i = 0; i < rest; i++, p++) {
            if ((*p & 0xC0) != 0x80) return false;
            code = code << 6 | (*p & 0x3Fu);
        }
        static const uint32_t lowest[] = {0, 0x80, 0x800, 0x10000};
        if (code < lowest[rest] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
            return false;
    }
    return true;
}

static bool parse_bool(const char *text, bool *value) {
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcasecmp(text, words[i]) == 0) {
            *value = i % 2;
            return true;
        }
    return false;
}

static bool parse_double(const char *text, double *value) {
    if (!*text || text[strspn(text, "+-0123456789.eE")])
        return false; /* no hex, no nan, no space */
    char *end;
    *value = strtod(text, &end);
    return !*end && isfinite(*value);
}

static bool parse_int(const char *text, int64_t *value) {
    if (!*text || text[strspn(text, "+-0123456789.eE")]) return false;
    char *end;
    errno = 0;
    long long whole = strtoll(text, &end, 10);
    *value = whole;
    if (!*end && end != text) return errno == 0;
    double real;
    if (!parse_double(text, &real) || real != floor(real) || fabs(real) > 0x1p53) return false;
    *value = (int64_t)real;
    return true;
}

static int find_word(const char *const *words, const char *text) {
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], text) == 0) return i;
    return -1;
}

static enum status fail_type(const struct config_slot *slot, const char *text,
                             struct config_source source) {
    char reason[512];
    int used = snprintf(reason, sizeof reason, "must be %s", type_wants[slot->row->type]);
    const char *const *word = slot->row->words;
    for (; word && *word && used < (int)sizeof reason; word++)
        used += snprintf(reason + used, sizeof reason - (size_t)used, "%s %s",
                         word == slot->row->words ? ":" : ",", *word);
    return config_fail_value(slot->key, text, source, reason);
}

static enum status check_bounds(const struct config_slot *slot, double value, const char *text,
                                struct config_source source) {
    const struct config_row *row = slot->row;
    if ((row->low == 0 && row->high == 0) || (value >= row->low && value <= row->high))
        return STATUS_OK;
    char reason[128];
    snprintf(reason, sizeof reason, "must be from %.15g to %.15g", row->low, row->high);
    return config_fail_value(slot->key, text, source, reason);
}

static enum status copy_text(char **copy, const struct config_slot *slot, const char *text,
                             struct config_source source) {
    if (!is_utf8(text)) return config_fail_value(slot->key, "", source, "must be UTF-8");
    *copy = strdup(text);
    return *copy ? STATUS_OK
                 : status_fail(STATUS_MEMORY, "no memory for the value of %s", slot->key);
}

void config_list_clear(const struct config_slot *slot) {
    struct config_list *list = field(slot);
    for (int64_t i = 0; i < list->count; i++) free(list->items[i]);
    free(list->items);
    *list = (struct config_list){0};
}

enum status config_list_append(const struct config_slot *slot, const char *text,
                               struct config_source source) {
    assert(slot->row->type == CONFIG_LIST);
    struct config_list *list = field(slot);
    if (slot->row->words && find_word(slot->row->words, text) < 0)
        return fail_type(slot, text, source);
    if (list->count >= CONFIG_MAX_ITEMS)
        return config_fail_value(slot->key, text, source, "is one item too many");
    char *copy;
    TRY(copy_text(&copy, slot, text, source));
    char **items = realloc(list->items, (size_t)(list->count + 1) * sizeof *items);
    if (!items) {
        free(copy);
        return status_fail(STATUS_MEMORY, "no memory for the list %s", slot->key);
    }
    list->items = items;
    items[list->count++] = copy;
    return STATUS_OK;
}

static enum status set_string(const struct config_slot *slot, const char *text,
                              struct config_source source) {
    char *copy, **owned = field(slot);
    TRY(copy_text(&copy, slot, text, source));
    free(*owned);
    *owned = copy;
    return STATUS_OK;
}

enum status config_set(const struct config_slot *slot, const char *text,
                       struct config_source source) {
    bool flag;
    int64_t whole;
    double real;
    int word;
    switch (slot->row->type) {
    case CONFIG_BOOL:
        if (!parse_bool(text, &flag)) return fail_type(slot, text, source);
        *(bool *)field(slot) = flag;
        return STATUS_OK;
    case CONFIG_INT:
        if (!parse_int(text, &whole)) return fail_type(slot, text, source);
        TRY(check_bounds(slot, (double)whole, text, source));
        *(int64_t *)field(slot) = whole;
        return STATUS_OK;
    case CONFIG_DOUBLE:
        if (!parse_double(text, &real)) return fail_type(slot, text, source);
        TRY(check_bounds(slot, real, text, source));
        *(double *)field(slot) = real;
        return STATUS_OK;
    case CONFIG_ENUM:
        word = find_word(slot->row->words, text);
        if (word < 0) return fail_type(slot, text, source);
        memcpy(field(slot), &word, sizeof word);
        return STATUS_OK;
    case CONFIG_STRING:
        return set_string(slot, text, source);
    case CONFIG_LIST:
        config_list_clear(slot);
        return config_list_append(slot, text, source);
    }
    assert(!"a row's type");
    return STATUS_CONFIG;
}

enum status config_set_text(const struct config_slot *slot, const char *text,
                            struct config_source source) {
    if (slot->row->type != CONFIG_LIST) return config_set(slot, text, source);
    if (*text == '[') return config_read_yaml_list(slot, text, source);
    config_list_clear(slot);
    while (*text) {
        size_t bytes = strcspn(text, ",");
        char *item = strndup(text, bytes);
        if (!item) return status_fail(STATUS_MEMORY, "no memory for the list %s", slot->key);
        enum status status = config_list_append(slot, item, source);
        free(item);
        TRY(status);
        text += bytes + (text[bytes] == ',');
    }
    return STATUS_OK;
}

static void print_double(FILE *out, double value) {
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    fputs(text, out);
}

static void print_list(FILE *out, const struct config_list *list) {
    fputc('[', out);
    for (int64_t i = 0; i < list->count; i++) {
        const char *item = list->items[i];
        bool quoted = !*item || item[strcspn(item, " ,[]\"\\")];
        fputs(i ? ", " : "", out);
        if (quoted) fputc('"', out);
        for (const char *at = item; *at; at++)
            fprintf(out, "%s%c", *at == '"' || *at == '\\' ? "\\" : "", *at);
        if (quoted) fputc('"', out);
    }
    fputc(']', out);
}

static void print_field(FILE *out, const struct config_row *row, const void *value) {
    int word;
    switch (row->type) {
    case CONFIG_BOOL:
        fputs(*(const bool *)value ? "true" : "false", out);
        return;
    case CONFIG_INT:
        fprintf(out, "%lld", (long long)*(const int64_t *)value);
        return;
    case CONFIG_DOUBLE:
        print_double(out, *(const double *)value);
        return;
    case CONFIG_STRING:
        fputs(*(char *const *)value, out);
        return;
    case CONFIG_ENUM:
        memcpy(&word, value, sizeof word);
        fputs(row->words[word], out);
        return;
    case CONFIG_LIST:
        print_list(out, value);
        return;
    }
    assert(!"a row's type");
}

enum status config_get_text(const struct config_row *row, const void *value, char **text) {
    size_t bytes;
    *text = NULL;
    FILE *out = open_memstream(text, &bytes);
    if (out) print_field(out, row, value);
    if (out && fclose(out) == 0) return STATUS_OK;
    free(*text);
    *text = NULL;
    return status_fail(STATUS_MEMORY, "no memory for the value of %s", row->name);
}
