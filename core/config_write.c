/* What core/config.h writes: the resolved values as YAML, and the rows as Markdown. */
#define _GNU_SOURCE
#include "core/config.h"

#include "core/config_value.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

struct writer {
    yaml_emitter_t emitter;
    bool failed;
};

/* Takes an event that was just initialised; `made` is whether that worked. */
static void emit(struct writer *writer, yaml_event_t *event, int made) {
    if (!made || writer->failed)
        writer->failed = true;
    else if (!yaml_emitter_emit(&writer->emitter, event))
        writer->failed = true;
}

static void emit_scalar(struct writer *writer, const char *text, yaml_scalar_style_t style) {
    yaml_event_t event;
    int made = yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text,
                                            (int)strlen(text), 1, 1, style);
    emit(writer, &event, made);
}

static void emit_map(struct writer *writer, bool start) {
    yaml_event_t event;
    int made =
        start ? yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE)
              : yaml_mapping_end_event_initialize(&event);
    emit(writer, &event, made);
}

static void emit_list(struct writer *writer, const struct config_list *list) {
    yaml_event_t event;
    emit(writer, &event,
         yaml_sequence_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_SEQUENCE_STYLE));
    for (int64_t i = 0; i < list->count; i++)
        emit_scalar(writer, list->items[i], YAML_DOUBLE_QUOTED_SCALAR_STYLE);
    emit(writer, &event, yaml_sequence_end_event_initialize(&event));
}

static void emit_value(struct writer *writer, const struct config_row *row, const void *field) {
    if (row->type == CONFIG_LIST) {
        emit_list(writer, field);
        return;
    }
    yaml_scalar_style_t style = row->type == CONFIG_STRING ? YAML_DOUBLE_QUOTED_SCALAR_STYLE
                                : row->type == CONFIG_ENUM ? YAML_ANY_SCALAR_STYLE
                                                           : YAML_PLAIN_SCALAR_STYLE;
    char *text;
    if (config_get_text(row, field, &text) != STATUS_OK) {
        writer->failed = true;
        return;
    }
    emit_scalar(writer, text, style);
    free(text);
}

static void emit_tables(struct writer *writer, const struct config_table *tables, int count) {
    for (int t = 0; t < count; t++) {
        const struct config_table *table = &tables[t];
        const char *before = t > 0 ? tables[t - 1].prefix : "";
        const char *after = t + 1 < count ? tables[t + 1].prefix : "";
        if (*table->prefix && strcmp(table->prefix, before) != 0) {
            emit_scalar(writer, table->prefix, YAML_ANY_SCALAR_STYLE);
            emit_map(writer, true);
        }
        for (int r = 0; r < table->count; r++) {
            const struct config_row *row = &table->rows[r];
            emit_scalar(writer, row->name, YAML_ANY_SCALAR_STYLE);
            emit_value(writer, row, (const char *)table->values + row->offset);
        }
        if (*table->prefix && strcmp(table->prefix, after) != 0) emit_map(writer, false);
    }
}

enum status config_dump(const struct config_table *tables, int table_count, char **yaml) {
    size_t bytes;
    *yaml = NULL;
    FILE *out = open_memstream(yaml, &bytes);
    if (!out) return status_fail(STATUS_MEMORY, "no memory to write the config");
    struct writer writer = {.failed = false};
    if (!yaml_emitter_initialize(&writer.emitter)) {
        fclose(out);
        free(*yaml);
        return status_fail(STATUS_MEMORY, "no memory to write the config");
    }
    yaml_emitter_set_output_file(&writer.emitter, out);
    yaml_emitter_set_unicode(&writer.emitter, 1);
    yaml_emitter_set_width(&writer.emitter, -1);
    yaml_event_t event;
    emit(&writer, &event, yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING));
    emit(&writer, &event, yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1));
    emit_map(&writer, true);
    emit_tables(&writer, tables, table_count);
    emit_map(&writer, false);
    emit(&writer, &event, yaml_document_end_event_initialize(&event, 1));
    emit(&writer, &event, yaml_stream_end_event_initialize(&event));
    yaml_emitter_delete(&writer.emitter);
    if (fclose(out) != 0) writer.failed = true;
    if (!writer.failed) return STATUS_OK;
    free(*yaml);
    *yaml = NULL;
    return status_fail(STATUS_MEMORY, "no memory to write the config");
}

static void document_allowed(FILE *out, const struct config_row *row) {
    bool first = true;
    for (const char *const *word = row->words; word && *word; word++, first = false)
        fprintf(out, "%s`%s`", first ? "" : ", ", *word);
    bool number = row->type == CONFIG_INT || row->type == CONFIG_DOUBLE;
    if (number && (row->low != 0 || row->high != 0))
        fprintf(out, "%.15g to %.15g", row->low, row->high);
}

static void document_row(FILE *out, const struct config_table *table,
                         const struct config_row *row) {
    static const char *const types[] = {
        [CONFIG_BOOL] = "bool",   [CONFIG_INT] = "integer", [CONFIG_DOUBLE] = "number",
        [CONFIG_STRING] = "text", [CONFIG_ENUM] = "word",   [CONFIG_LIST] = "list"};
    fprintf(out, "| `%s%s%s` | %s | ", table->prefix, *table->prefix ? "." : "", row->name,
            types[row->type]);
    if (!row->standard)
        fprintf(out, "required");
    else if (*row->standard)
        fprintf(out, "`%s`", row->standard);
    else
        fprintf(out, "empty");
    fprintf(out, " | ");
    document_allowed(out, row);
    fprintf(out, " | %s |\n", row->help);
}

enum status config_document(const struct config_table *tables, int table_count, char **markdown) {
    size_t bytes;
    *markdown = NULL;
    FILE *out = open_memstream(markdown, &bytes);
    if (!out) return status_fail(STATUS_MEMORY, "no memory to write the config's documentation");
    for (int t = 0; t < table_count; t++) {
        const struct config_table *table = &tables[t];
        if (t == 0 || strcmp(table->prefix, tables[t - 1].prefix) != 0)
            fprintf(out,
                    "%s## %s\n\n| key | type | default | allowed | meaning |\n"
                    "| --- | --- | --- | --- | --- |\n",
                    t > 0 ? "\n" : "", *table->prefix ? table->prefix : "general");
        for (int r = 0; r < table->count; r++) document_row(out, table, &table->rows[r]);
    }
    if (fclose(out) == 0) return STATUS_OK;
    free(*markdown);
    *markdown = NULL;
    return status_fail(STATUS_MEMORY, "no memory to write the config's documentation");
}
