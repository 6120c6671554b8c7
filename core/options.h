/* A subcommand's options as rows: `--name value`, flags, lists. */
#ifndef STRATA_CORE_OPTIONS_H
#define STRATA_CORE_OPTIONS_H

#include "kernels/base/status.h"
#include <stdbool.h>
#include <stdint.h>

enum option_kind {
    OPTION_FLAG,    /* bool: no value follows */
    OPTION_TEXT,    /* const char *: borrowed from argv */
    OPTION_INTEGER, /* int64_t, low..high */
    OPTION_LIST     /* struct option_list: all that follows, up to the next option */
};

struct option_list {
    char **items; /* borrowed from argv */
    int count;
};

struct option_row {
    const char *name; /* "--tokens"; NULL for a positional argument, filled in order */
    enum option_kind kind;
    void *value; /* left alone where the option isn't given */
    bool required;
    int64_t low, high;
};

/* Fills the rows' values from argv[1 ...], in any order. A required positional argument that
 * nothing else gives is the last item of a list that has others. STATUS_CONFIG names what is
 * unknown, missing, said twice or no number of its range. */
enum status options_parse(const struct option_row *rows, int count, int argc, char **argv);

/* Whether --help is among the arguments, wherever it stands. */
bool options_ask_help(int argc, char *const *argv);

#endif
