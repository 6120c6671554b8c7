<<<<<<< HEAD
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
=======
#define _GNU_SOURCE
#include "data/commands.h"

#include "data/bpe_train.h"
#include "data/tokenizer_parts.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char bpe_usage[] =
    "usage: strata data bpe --vocab N --out tokenizer.json [--special TOKEN]... FILE...\n"
    "  trains a byte-level BPE of N tokens on the text of the files\n";

struct bpe_options {
    long vocab;
    const char *out;
    const char **specials, **files; /* views of argv */
    size_t special_count, file_count;
};

/* False when the arguments make no sense. `room` holds argc pointers for each list. */
static bool parse_bpe(int argc, char **argv, struct bpe_options *options, const char **room) {
    *options = (struct bpe_options){.specials = room, .files = room + argc};
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        char *end = "";
        if (strcmp(argv[i], "--vocab") == 0 && has_value) {
            options->vocab = strtol(argv[++i], &end, 10);
            if (*end || options->vocab > TOKENIZER_MAX_TOKENS) return false;
        } else if (strcmp(argv[i], "--out") == 0 && has_value) {
            options->out = argv[++i];
        } else if (strcmp(argv[i], "--special") == 0 && has_value) {
            options->specials[options->special_count++] = argv[++i];
        } else if (argv[i][0] == '-') {
            return false;
        } else {
            options->files[options->file_count++] = argv[i];
        }
    }
    return options->vocab > 0 && options->out && options->file_count > 0;
}

static enum status train(struct bpe_trainer *trainer, const struct bpe_options *options) {
    for (size_t i = 0; i < options->file_count; i++) {
        char *text;
        size_t bytes;
        TRY(read_whole_file(options->files[i], &text, &bytes));
        enum status status = bpe_trainer_add(trainer, text, bytes);
        free(text);
        TRY(status);
    }
    TRY(bpe_trainer_run(trainer, (int32_t)options->vocab));
    return bpe_trainer_write(trainer, options->out);
}

static int data_bpe(int argc, char **argv) {
    struct bpe_options options;
    struct bpe_trainer *trainer;
    const char **room = calloc(2 * (size_t)argc, sizeof *room);
    if (!room || !parse_bpe(argc, argv, &options, room)) {
        fputs(bpe_usage, stderr);
        free(room);
        return 2;
    }
    enum status status = bpe_trainer_create(&trainer, options.specials, options.special_count);
    if (status == STATUS_OK) {
        status = train(trainer, &options);
        if (status == STATUS_OK)
            printf("tokens=%d words=%zu file=%s\n", bpe_trainer_size(trainer),
                   bpe_trainer_words(trainer), options.out);
        bpe_trainer_free(trainer);
    }
    free(room);
    if (status == STATUS_OK) return 0;
    fprintf(stderr, "strata data bpe: %s\n", status_message());
    return 1;
}

static const struct data_command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the name; returns the exit code */
    const char *help;
} commands[] = {
    {"bpe", data_bpe, "train a byte-level BPE vocabulary on text files"},
};

static void print_usage(FILE *out) {
    fprintf(out, "usage: strata data COMMAND [arguments]\n\ncommands:\n");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
}

int cmd_data(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        print_usage(stdout);
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
>>>>>>> tokenizers
    print_usage(stderr);
    return 2;
}
