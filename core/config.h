/* Options as rows: a struct beside its owner, and beside the struct a table that says for each of
 * its fields the name, type, default, bounds and one line of help.
 *
 *     struct train_options { double lr; int64_t steps; char *out; };
 *     static const struct config_row train_rows[] = {
 *         {"lr", CONFIG_DOUBLE, offsetof(struct train_options, lr), "1e-4", .low = 0, .high = 1,
 *          .help = "peak learning rate"},
 *         {"steps", CONFIG_INT, offsetof(struct train_options, steps), NULL, .low = 1, .high = 1e9,
 *          .help = "optimizer steps"}, ...
 *     struct config_table tables[] = {{"train", train_rows, 3, &options}, ...};
 *     TRY(config_load(tables, 1, "run.yaml", argv, argc));
 *
 * A value comes from the YAML file (nested maps or dotted keys: `train: {lr: 1e-3}` is train.lr),
 * then from `train.lr=1e-3` arguments, of which the last one wins; what neither names has its
 * default. A list is a YAML sequence of scalars (a lone scalar is a list of one); as an argument it
 * is `a,b` or `[a, "b,c"]`.
 *
 * Errors are STATUS_CONFIG and name key, value, bounds, file and line. They are: an unknown key
 * (the nearest known one is told), a key twice in the file, a value of the wrong type or out of
 * bounds, a required key that is missing, anchors and aliases, several documents, text that is not
 * UTF-8. STATUS_IO: a file that can't be read. */
#ifndef STRATA_CORE_CONFIG_H
#define STRATA_CORE_CONFIG_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CONFIG_MAX_BYTES = 1 << 20, CONFIG_MAX_DEPTH = 16, CONFIG_MAX_ITEMS = 65536 };

enum config_type {
    CONFIG_BOOL,   /* bool: true, false, yes, no, on, off */
    CONFIG_INT,    /* int64_t; 1e6 is an integer too */
    CONFIG_DOUBLE, /* double, finite */
    CONFIG_STRING, /* char *, owned, never NULL */
    CONFIG_ENUM,   /* int (or an enum's variable): the index of the word in `words` */
    CONFIG_LIST,   /* struct config_list */
};

struct config_list {
    char **items; /* owned, as each of them; NULL when empty */
    int64_t count;
};

struct config_row {
    const char *name; /* without the table's prefix; may be dotted */
    enum config_type type;
    size_t offset;            /* of the field in the struct */
    const char *standard;     /* the default as an argument would say it; NULL = required */
    double low, high;         /* inclusive bounds of a number; both 0 = none */
    const char *const *words; /* NULL-terminated: an enum's words, or those a list may hold */
    const char *help;         /* one line */
};

struct config_table {
    const char *prefix; /* "train"; "" for keys without one */
    const struct config_row *rows;
    int count;
    void *values; /* the struct */
};

/* Fills every struct of `tables`. `path` may be NULL (defaults and arguments alone). What the
 * structs held is overwritten, not freed; config_free gives the strings back. After a failure
 * nothing is owned. */
enum status config_load(const struct config_table *tables, int table_count, const char *path,
                        char *const *arguments, int argument_count);

/* The same from memory; `name` stands for the path in messages. */
enum status config_parse(const struct config_table *tables, int table_count, const char *text,
                         size_t bytes, const char *name, char *const *arguments,
                         int argument_count);

/* The same for a command that spells keys as options: `options` are key=value without the dashes,
 * messages say --key. */
enum status config_parse_options(const struct config_table *tables, int table_count,
                                 char *const *options, int option_count);

/* Frees strings and lists and sets them to NULL; may be called twice. */
void config_free(const struct config_table *tables, int table_count);

/* The resolved values as YAML that config_parse reads back to equal values. The caller frees it. */
enum status config_dump(const struct config_table *tables, int table_count, char **yaml);

/* Two sets of the same tables hold different values of a key: both as an argument would say them.
 */
struct config_change {
    const char *key, *was, *is; /* borrowed for the visit */
};

/* Calls `visit` for every key whose values differ, in the order of the rows, until it fails. */
enum status config_compare(const struct config_table *was, const struct config_table *is,
                           int table_count,
                           enum status (*visit)(const struct config_change *change, void *context),
                           void *context);

/* One Markdown table a prefix: key, type, default, what is allowed, help. `values` isn't looked
 * at. The caller frees it. */
enum status config_document(const struct config_table *tables, int table_count, char **markdown);

#endif
