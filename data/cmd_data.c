/* The table of `strata data` subcommands. */
#include "data/commands.h"

#include <stdio.h>
#include <string.h>

struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
};

static const struct subcommand subcommands[] = {
    {"bpe", cmd_data_bpe, "train a byte-level BPE vocabulary on text files"},
    {"tokenize", cmd_data_tokenize, "text and JSON lines to a token file"},
    {NULL, NULL, NULL},
};

static void print_usage(FILE *out) {
    fprintf(out, "usage: strata data SUBCOMMAND [arguments]\n\nsubcommands:\n");
    for (const struct subcommand *row = subcommands; row->name; row++)
        fprintf(out, "  %-10s %s\n", row->name, row->help);
    fprintf(out, "\nstrata data SUBCOMMAND --help says more.\n");
}

int cmd_data(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        print_usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    for (const struct subcommand *row = subcommands; row->name; row++)
        if (strcmp(argv[1], row->name) == 0) return row->run(argc - 1, argv + 1);
    fprintf(stderr, "strata data: unknown subcommand '%s'\n", argv[1]);
    print_usage(stderr);
    return 2;
}
