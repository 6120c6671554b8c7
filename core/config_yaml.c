/* The YAML side of core/config.h: libyaml's events in, and out for the dump. Events are taken one
 * at a time and aliases are refused, so neither nesting nor expansion can use up memory. */
#define _GNU_SOURCE
#include "core/config_value.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct reader {
    yaml_parser_t parser;
    const struct config_table *tables;
    int table_count;
    const char *name;
    long *seen;
    char path[CONFIG_MAX_KEY]; /* dotted key of the map that is being read */
    const char *text;
    size_t bytes;
    size_t list_line; /* where the list begins that is being read; 0: none is */
};

static struct config_source source_at(const struct reader *reader, const yaml_event_t *event) {
    return (struct config_source){.name = reader->name, .line = (long)event->start_mark.line + 1};
}

/* Is the line of the problem indented with a tab? */
static bool at_tab(const struct reader *reader) {
    const char *at = reader->text, *end = at + reader->bytes;
    for (size_t line = 0; at && line < reader->parser.problem_mark.line; line++) {
        at = memchr(at, '\n', (size_t)(end - at));
        if (at) at++;
    }
    while (at && at < end && *at == ' ') at++;
    return at && at < end && *at == '\t';
}

static enum status fail_syntax(const struct reader *reader) {
    const yaml_parser_t *parser = &reader->parser;
    char opened[96] = "";
    if (parser->error == YAML_MEMORY_ERROR)
        return status_fail(STATUS_MEMORY, "no memory to read %s", reader->name);
    if (at_tab(reader))
        return status_fail(STATUS_CONFIG, "%s:%zu: a tab: YAML indents with spaces", reader->name,
                           parser->problem_mark.line + 1);
    if (reader->list_line > 0)
        snprintf(opened, sizeof opened, " in the list that '[' or '-' begins on line %zu",
                 reader->list_line);
    return status_fail(STATUS_CONFIG, "%s:%zu: %s%s%s%s", reader->name,
                       parser->problem_mark.line + 1, *reader->path ? reader->path : "",
                       *reader->path ? ": " : "", parser->problem ? parser->problem : "not YAML",
                       opened);
}

static enum status fail_at(const struct reader *reader, const yaml_event_t *event,
                           const char *what) {
    return status_fail(STATUS_CONFIG, "%s:%zu: %s", reader->name, event->start_mark.line + 1, what);
}

/* The next event, which the caller deletes; an alias is refused here for everybody. */
static enum status next_event(struct reader *reader, yaml_event_t *event) {
    if (!yaml_parser_parse(&reader->parser, event)) return fail_syntax(reader);
    if (event->type != YAML_ALIAS_EVENT) return STATUS_OK;
    enum status status = fail_at(reader, event, "aliases are not supported");
    yaml_event_delete(event);
    return status;
}

static enum status scalar_text(const struct reader *reader, const yaml_event_t *event,
                               const char **text) {
    *text = (const char *)event->data.scalar.value;
    if (strlen(*text) != event->data.scalar.length)
        return fail_at(reader, event, "a value holds a NUL character");
    return STATUS_OK;
}

/* After a list's start event, `start`, to its end. */
static enum status read_items(struct reader *reader, const struct config_slot *slot,
                              const yaml_event_t *start) {
    config_list_clear(slot);
    reader->list_line = start->start_mark.line + 1;
    for (;;) {
        yaml_event_t event;
        TRY(next_event(reader, &event));
        enum status status = STATUS_OK;
        bool ended = event.type == YAML_SEQUENCE_END_EVENT;
        if (event.type == YAML_SCALAR_EVENT) {
            const char *text;
            status = scalar_text(reader, &event, &text);
            if (status == STATUS_OK)
                status = config_list_append(slot, text, source_at(reader, &event));
        } else if (!ended) {
            status = config_fail_value(slot->key, "", source_at(reader, &event),
                                       "must be a list of plain values");
        }
        yaml_event_delete(&event);
        if (ended) reader->list_line = 0;
        if (status != STATUS_OK || ended) return status;
    }
}

static bool is_null(const yaml_event_t *event) {
    const char *text = (const char *)event->data.scalar.value;
    return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static enum status mark_seen(struct reader *reader, const struct config_slot *slot,
                             const yaml_event_t *event) {
    long *line = &reader->seen[slot->index];
    if (*line)
        return status_fail(STATUS_CONFIG, "%s:%zu: %s was already set on line %ld", reader->name,
                           event->start_mark.line + 1, slot->key, *line);
    *line = (long)event->start_mark.line + 1;
    return STATUS_OK;
}

static enum status read_map(struct reader *reader, int depth);

/* The value of the key that reader->path spells, which begins with `event`. */
static enum status read_value(struct reader *reader, const yaml_event_t *event, int depth) {
    struct config_source source = source_at(reader, event);
    const char *text = "";
    if (event->type == YAML_SCALAR_EVENT) TRY(scalar_text(reader, event, &text));
    struct config_slot slot;
    if (config_find(reader->tables, reader->table_count, reader->path, &slot)) {
        TRY(mark_seen(reader, &slot, event));
        if (event->type == YAML_SEQUENCE_START_EVENT && slot.row->type == CONFIG_LIST)
            return read_items(reader, &slot, event);
        if (event->type != YAML_SCALAR_EVENT)
            return config_fail_value(slot.key, "", source,
                                     event->type == YAML_MAPPING_START_EVENT
                                         ? "must be a value, not a map"
                                         : "must be one value, not a list");
        /* `key:` alone is text of no characters or a list of no items. */
        if (is_null(event) && slot.row->type >= CONFIG_STRING && slot.row->type != CONFIG_ENUM)
            return config_set_text(&slot, "", source);
        return config_set(&slot, text, source);
    }
    if (!config_is_group(reader->tables, reader->table_count, reader->path))
        return config_fail_unknown(reader->tables, reader->table_count, reader->path, source);
    if (event->type == YAML_MAPPING_START_EVENT) return read_map(reader, depth + 1);
    if (event->type == YAML_SCALAR_EVENT && is_null(event)) return STATUS_OK;
    return config_fail_value(reader->path, text, source, "is a group of keys, not a value");
}

/* One key and its value; `event` is the key's. */
static enum status read_entry(struct reader *reader, const yaml_event_t *event, int depth) {
    const char *key;
    if (event->type != YAML_SCALAR_EVENT) return fail_at(reader, event, "a key is not a word");
    TRY(scalar_text(reader, event, &key));
    size_t used = strlen(reader->path), bytes = strlen(key);
    if (bytes == 0 || used + bytes + 2 > sizeof reader->path)
        return fail_at(reader, event, "a key is empty or too long");
    snprintf(reader->path + used, sizeof reader->path - used, "%s%s", used ? "." : "", key);
    yaml_event_t value;
    TRY(next_event(reader, &value));
    enum status status = read_value(reader, &value, depth);
    yaml_event_delete(&value);
    reader->path[used] = 0;
    return status;
}

/* After a map's start event, to its end. */
static enum status read_map(struct reader *reader, int depth) {
    for (;;) {
        yaml_event_t event;
        TRY(next_event(reader, &event));
        enum status status = STATUS_OK;
        bool ended = event.type == YAML_MAPPING_END_EVENT;
        if (depth > CONFIG_MAX_DEPTH)
            status = fail_at(reader, &event, "maps are nested too deeply");
        else if (!ended)
            status = read_entry(reader, &event, depth);
        yaml_event_delete(&event);
        if (status != STATUS_OK || ended) return status;
    }
}

static enum status read_documents(struct reader *reader) {
    int documents = 0;
    for (;;) {
        yaml_event_t event;
        TRY(next_event(reader, &event));
        enum status status = STATUS_OK;
        bool ended = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_DOCUMENT_START_EVENT && documents++ > 0)
            status = fail_at(reader, &event, "the file holds more than one document");
        else if (event.type == YAML_MAPPING_START_EVENT)
            status = read_map(reader, 1);
        else if (event.type == YAML_SEQUENCE_START_EVENT ||
                 (event.type == YAML_SCALAR_EVENT && !is_null(&event)))
            status = fail_at(reader, &event, "the file must be a map of keys to values");
        yaml_event_delete(&event);
        if (status != STATUS_OK || ended) return status;
    }
}

enum status config_read_yaml(const struct config_table *tables, int table_count, const char *text,
                             size_t bytes, const char *name, long *seen) {
    if (bytes > CONFIG_MAX_BYTES)
        return status_fail(STATUS_CONFIG, "%s: larger than %d bytes, which no config is", name,
                           CONFIG_MAX_BYTES);
    struct reader reader = {.tables = tables,
                            .table_count = table_count,
                            .name = name,
                            .seen = seen,
                            .text = text,
                            .bytes = bytes};
    if (!yaml_parser_initialize(&reader.parser))
        return status_fail(STATUS_MEMORY, "no memory to read %s", name);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, bytes);
    enum status status = read_documents(&reader);
    yaml_parser_delete(&reader.parser);
    return status;
}

/* `text` is one document that is a list. */
static enum status read_list_document(struct reader *reader, const struct config_slot *slot) {
    for (;;) {
        yaml_event_t event;
        TRY(next_event(reader, &event));
        yaml_event_type_t type = event.type;
        enum status status =
            type == YAML_SEQUENCE_START_EVENT ? read_items(reader, slot, &event) : STATUS_OK;
        yaml_event_delete(&event);
        if (status != STATUS_OK || type == YAML_STREAM_END_EVENT) return status;
    }
}

enum status config_read_yaml_list(const struct config_slot *slot, const char *text,
                                  struct config_source source) {
    struct reader reader = {.name = source.name, .text = text, .bytes = strlen(text)};
    snprintf(reader.path, sizeof reader.path, "%s", slot->key);
    if (!yaml_parser_initialize(&reader.parser))
        return status_fail(STATUS_MEMORY, "no memory to read %s", slot->key);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, strlen(text));
    enum status status = read_list_document(&reader, slot);
    yaml_parser_delete(&reader.parser);
    return status;
}
