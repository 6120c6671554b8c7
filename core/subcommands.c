#include "core/subcommands.h"

#include "core/nearest.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { MAX_ROWS = 32 };

static void print_list(const struct subcommand *rows, int count, const char *program, FILE *out) {
    fprintf(out, "usage: %s COMMAND [arguments]\n\ncommands:\n", program);
    for (int i = 0; i < count; i++) fprintf(out, "  %-10s %s\n", rows[i].name, rows[i].help);
    fprintf(out, "\n%s COMMAND --help says more.\n", program);
}

static bool asks_for_help(const char *word) {
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

static int run_row(const struct subcommand *row, const char *program, int argc, char **argv) {
    char help[] = "--help", *asking[] = {argv[0], help, NULL};
    bool dashed = argc == 2 && argv[1][0] == '-' && asks_for_help(argv[1]);
    int code = dashed ? row->run(2, asking) : row->run(argc, argv);
    if (dashed && code == 0 && row->example)
        printf("\nexample: %s %s %s\n", program, row->name, row->example);
    return code;
}

static int find_row(const struct subcommand *rows, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (strcmp(rows[i].name, name) == 0) return i;
    return -1;
}

int subcommands_run(const struct subcommand *rows, int count, const char *program, int argc,
                    char **argv) {
    const char *names[MAX_ROWS];
    assert(count <= MAX_ROWS);
    if (argc < 2 || (argc == 2 && asks_for_help(argv[1]))) {
        print_list(rows, count, program, argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    bool about = asks_for_help(argv[1]); /* "help NAME" */
    char *name = argv[about ? 2 : 1], help[] = "--help", *asked[] = {name, help, NULL};
    int found = find_row(rows, count, name);
    if (found >= 0)
        return about ? run_row(&rows[found], program, 2, asked)
                     : run_row(&rows[found], program, argc - 1, argv + 1);
    for (int i = 0; i < count; i++) names[i] = rows[i].name;
    const char *nearest = nearest_word(name, names, count);
    fprintf(stderr, "%s: there is no command '%s'%s%s%s (%s --help lists all)\n", program, name,
            nearest ? "; the nearest is '" : "", nearest ? nearest : "", nearest ? "'" : "",
            program);
    return 2;
}
