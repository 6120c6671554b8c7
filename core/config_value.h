/* One value of one row: text in, field out. Used by config.c and config_yaml.c alone. */
#ifndef STRATA_CORE_CONFIG_VALUE_H
#define STRATA_CORE_CONFIG_VALUE_H

#include "core/config.h"

enum { CONFIG_MAX_KEY = 256 };

/* Where a value came from, for messages. */
struct config_source {
    const char *name; /* file, "argument" or "default" */
    long line;        /* from 1; 0 = none */
    bool option;      /* the key was spelt --key: messages say "option" */
};

/* A row found by its key. */
struct config_slot {
    const struct config_table *table;
    const struct config_row *row;
    char key[CONFIG_MAX_KEY]; /* with the prefix */
    int index;                /* among all rows of all tables */
};

/* The slot of `key`; false if there is none. */
bool config_find(const struct config_table *tables, int table_count, const char *key,
                 struct config_slot *slot);

/* Whether some key begins with `key` and a dot. */
bool config_is_group(const struct config_table *tables, int table_count, const char *key);

/* STATUS_CONFIG with the nearest known key. */
enum status config_fail_unknown(const struct config_table *tables, int table_count, const char *key,
                                struct config_source source);

/* "file:line: " or "argument: " before a message about key and value. */
enum status config_fail_value(const char *key, const char *value, struct config_source source,
                              const char *reason);

/* Sets the field from text; a list becomes that one item. What the field owned is freed. */
enum status config_set(const struct config_slot *slot, const char *text,
                       struct config_source source);

/* Empties a list; appends to it. */
void config_list_clear(const struct config_slot *slot);
enum status config_list_append(const struct config_slot *slot, const char *text,
                               struct config_source source);

/* As an argument or default says it: config_set, but a list is `a,b`, and "" is the empty one. */
enum status config_set_text(const struct config_slot *slot, const char *text,
                            struct config_source source);

/* A field as an argument says it: the fewest digits that read back as the same number, a list in
 * brackets with its items quoted where they need it. The caller frees it. */
enum status config_get_text(const struct config_row *row, const void *field, char **text);

/* Reads a whole YAML document into the tables. seen[slot.index] is the line a key was set on. */
enum status config_read_yaml(const struct config_table *tables, int table_count, const char *text,
                             size_t bytes, const char *name, long *seen);

/* A list argument in brackets. */
enum status config_read_yaml_list(const struct config_slot *slot, const char *text,
                                  struct config_source source);

#endif
