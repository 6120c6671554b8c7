#define _GNU_SOURCE
#include "core/config.h"

#include "core/config_value.h"
#include "core/nearest.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void slot_make(struct config_slot *slot, const struct config_table *table, int row,
                      int index) {
    slot->table = table;
    slot->row = &table->rows[row];
    slot->index = index;
    int used = snprintf(slot->key, sizeof slot->key, "%s%s%s", table->prefix,
                        *table->prefix ? "." : "", slot->row->name);
    assert(used > 0 && used < (int)sizeof slot->key);
    (void)used;
}

/* Calls `visit` with every slot until it returns true; whether it did. */
static bool visit_slots(const struct config_table *tables, int table_count,
                        bool (*visit)(const struct config_slot *slot, void *context),
                        void *context) {
    int index = 0;
    for (int t = 0; t < table_count; t++)
        for (int r = 0; r < tables[t].count; r++) {
            struct config_slot slot;
            slot_make(&slot, &tables[t], r, index++);
            if (visit(&slot, context)) return true;
        }
    return false;
}

struct search {
    const char *key;
    struct config_slot *found;
};

static bool is_key(const struct config_slot *slot, void *context) {
    struct search *search = context;
    if (strcmp(slot->key, search->key) != 0) return false;
    *search->found = *slot;
    return true;
}

bool config_find(const struct config_table *tables, int table_count, const char *key,
                 struct config_slot *slot) {
    struct search search = {key, slot};
    return visit_slots(tables, table_count, is_key, &search);
}

static bool is_under(const struct config_slot *slot, void *context) {
    const char *key = context;
    size_t bytes = strlen(key);
    return strncmp(slot->key, key, bytes) == 0 && slot->key[bytes] == '.';
}

bool config_is_group(const struct config_table *tables, int table_count, const char *key) {
    char copy[CONFIG_MAX_KEY];
    snprintf(copy, sizeof copy, "%s", key);
    return visit_slots(tables, table_count, is_under, copy);
}

struct nearest {
    const char *key;
    char best[CONFIG_MAX_KEY];
    int distance;
};

static bool compare_distance(const struct config_slot *slot, void *context) {
    struct nearest *nearest = context;
    int distance = edit_distance(nearest->key, slot->key);
    if (strcmp(nearest->key, slot->row->name) == 0) distance = 0; /* only the prefix is missing */
    if (distance < nearest->distance) {
        nearest->distance = distance;
        memcpy(nearest->best, slot->key, sizeof nearest->best);
    }
    return false;
}

enum status config_fail_unknown(const struct config_table *tables, int table_count, const char *key,
                                struct config_source source) {
    char copy[CONFIG_MAX_KEY], line[32] = "";
    snprintf(copy, sizeof copy, "%s", key);
    struct nearest nearest = {.key = copy, .best = "", .distance = 1 << 20};
    visit_slots(tables, table_count, compare_distance, &nearest);
    if (source.line > 0) snprintf(line, sizeof line, ":%ld", source.line);
    if (source.option)
        return status_fail(STATUS_CONFIG, "unknown option --%s; the nearest known one is --%s",
                           copy, nearest.best);
    return status_fail(STATUS_CONFIG, "%s%s: unknown key \"%s\"; the nearest known one is \"%s\"",
                       source.name, line, copy, nearest.best);
}

static bool clear_field(const struct config_slot *slot, void *context) {
    bool forget = *(const bool *)context;
    char *values = slot->table->values;
    if (slot->row->type == CONFIG_STRING) {
        char **text = (char **)(values + slot->row->offset);
        if (!forget) free(*text);
        *text = NULL;
    } else if (slot->row->type == CONFIG_LIST) {
        if (forget)
            memset(values + slot->row->offset, 0, sizeof(struct config_list));
        else
            config_list_clear(slot);
    }
    return false;
}

void config_free(const struct config_table *tables, int table_count) {
    bool forget = false;
    visit_slots(tables, table_count, clear_field, &forget);
}

static enum status read_argument(const struct config_table *tables, int table_count,
                                 const char *argument, bool option, long *seen) {
    struct config_source source = {.name = "argument", .option = option};
    const char *equals = strchr(argument, '=');
    if (!equals || equals == argument)
        return status_fail(STATUS_CONFIG, "argument \"%.200s\" is not key=value", argument);
    char key[CONFIG_MAX_KEY];
    snprintf(key, sizeof key, "%.*s", (int)(equals - argument > 255 ? 255 : equals - argument),
             argument);
    struct config_slot slot;
    if (!config_find(tables, table_count, key, &slot)) {
        if (config_is_group(tables, table_count, key))
            return config_fail_value(key, equals + 1, source, "is a group of keys, not a value");
        return config_fail_unknown(tables, table_count, key, source);
    }
    TRY(config_set_text(&slot, equals + 1, source));
    seen[slot.index] = -1;
    return STATUS_OK;
}

struct defaults {
    const long *seen;
    const char *name;
    enum status status;
};

static bool set_default(const struct config_slot *slot, void *context) {
    struct defaults *defaults = context;
    if (defaults->seen[slot->index]) return false;
    if (slot->row->standard) {
        struct config_source source = {.name = "default"};
        defaults->status = config_set_text(slot, slot->row->standard, source);
    } else {
        defaults->status = status_fail(STATUS_CONFIG, "%s: %s is required (%s)", defaults->name,
                                       slot->key, slot->row->help);
    }
    return defaults->status != STATUS_OK;
}

/* Where values come from. */
struct inputs {
    const char *text; /* YAML, or NULL */
    size_t bytes;
    const char *name;
    char *const *arguments;
    int argument_count;
    bool options; /* the arguments were spelt --key */
};

static enum status parse(const struct config_table *tables, int table_count,
                         const struct inputs *inputs, long *seen) {
    if (inputs->text)
        TRY(config_read_yaml(tables, table_count, inputs->text, inputs->bytes, inputs->name, seen));
    for (int i = 0; i < inputs->argument_count; i++)
        TRY(read_argument(tables, table_count, inputs->arguments[i], inputs->options, seen));
    struct defaults defaults = {seen, inputs->name, STATUS_OK};
    visit_slots(tables, table_count, set_default, &defaults);
    return defaults.status;
}

static enum status read_inputs(const struct config_table *tables, int table_count,
                               const struct inputs *inputs) {
    bool forget = true;
    visit_slots(tables, table_count, clear_field, &forget);
    size_t rows = 0;
    for (int t = 0; t < table_count; t++) rows += (size_t)tables[t].count;
    long *seen = calloc(rows + 1, sizeof *seen);
    if (!seen) return status_fail(STATUS_MEMORY, "no memory to read %s", inputs->name);
    enum status status = parse(tables, table_count, inputs, seen);
    free(seen);
    if (status != STATUS_OK) config_free(tables, table_count);
    return status;
}

enum status config_parse(const struct config_table *tables, int table_count, const char *text,
                         size_t bytes, const char *name, char *const *arguments,
                         int argument_count) {
    const struct inputs inputs = {text, bytes, name, arguments, argument_count, false};
    return read_inputs(tables, table_count, &inputs);
}

enum status config_parse_options(const struct config_table *tables, int table_count,
                                 char *const *options, int option_count) {
    const struct inputs inputs = {NULL, 0, "options", options, option_count, true};
    return read_inputs(tables, table_count, &inputs);
}

/* One byte more than a config may have is asked for, so that too large a file is seen. */
static enum status read_file(const char *path, char *text, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    *bytes = fread(text, 1, CONFIG_MAX_BYTES + 1, file);
    int failed = ferror(file) ? errno : 0;
    fclose(file);
    if (failed) return status_fail(STATUS_IO, "%s: %s", path, strerror(failed));
    return STATUS_OK;
}

enum status config_load(const struct config_table *tables, int table_count, const char *path,
                        char *const *arguments, int argument_count) {
    if (!path)
        return config_parse(tables, table_count, NULL, 0, "arguments", arguments, argument_count);
    char *text = malloc(CONFIG_MAX_BYTES + 1);
    if (!text) return status_fail(STATUS_MEMORY, "no memory to read %s", path);
    size_t bytes = 0;
    enum status status = read_file(path, text, &bytes);
    if (status == STATUS_OK)
        status = config_parse(tables, table_count, text, bytes, path, arguments, argument_count);
    free(text);
    return status;
}

struct comparison {
    const struct config_table *was, *is;
    enum status (*visit)(const struct config_change *change, void *context);
    void *context;
    enum status status;
};

static bool compare_slot(const struct config_slot *slot, void *context) {
    struct comparison *comparison = context;
    const struct config_row *row = slot->row;
    const struct config_table *was = &comparison->was[slot->table - comparison->is];
    char *before = NULL, *now = NULL;
    enum status status = config_get_text(row, (const char *)was->values + row->offset, &before);
    if (status == STATUS_OK)
        status = config_get_text(row, (const char *)slot->table->values + row->offset, &now);
    const struct config_change change = {slot->key, before, now};
    if (status == STATUS_OK && strcmp(before, now) != 0)
        status = comparison->visit(&change, comparison->context);
    free(before);
    free(now);
    comparison->status = status;
    return status != STATUS_OK;
}

enum status config_compare(const struct config_table *was, const struct config_table *is,
                           int table_count,
                           enum status (*visit)(const struct config_change *change, void *context),
                           void *context) {
    struct comparison comparison = {was, is, visit, context, STATUS_OK};
    visit_slots(is, table_count, compare_slot, &comparison);
    return comparison.status;
}
