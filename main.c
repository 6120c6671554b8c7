/* The table of subcommands. */
#include "data/commands.h"
#include "kernels/base/status.h"
#include "serve/commands.h"
#include "train/commands.h"

#include <stdio.h>
#include <string.h>

struct command {
    const char *name;
    int (*run)(int argc, char **argv); /* argv[0] is the subcommand's name; returns the exit code */
    const char *help;
};

static const struct command commands[] = {
    {"convert", cmd_convert, "merge an adapter, export safetensors or GGUF"},
    {"data", cmd_data, "token files and vocabularies out of text"},
    {"eval", cmd_eval, "logits, loss and gradients of tokens, perplexity of texts"},
    {"inspect", cmd_inspect, "what a model file holds: metadata, tensors, parameters, bytes"},
    {"tokenize", cmd_tokenize, "text to token ids and back, by any tokenizer"},
    {"train", cmd_train, "train or fine-tune as a run file says, on one or many ranks"},
    {"chat", cmd_chat, "a conversation with a model in the terminal"},
    {"plot", cmd_plot, "loss and throughput of runs as a picture (SVG)"},
    {"serve", cmd_serve, "a model over HTTP, in OpenAI's dialect"},
    {NULL, NULL, NULL},
};

static void print_usage(FILE *out) {
    fprintf(out, "usage: strata COMMAND [arguments]\n\ncommands:\n");
    for (const struct command *command = commands; command->name; command++)
        fprintf(out, "  %-10s %s\n", command->name, command->help);
    fprintf(out, "\nstrata COMMAND --help says more.\n");
}

int main(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        print_usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("strata %s\n", STRATA_VERSION);
        return 0;
    }
    for (const struct command *command = commands; command->name; command++)
        if (strcmp(argv[1], command->name) == 0) return command->run(argc - 1, argv + 1);
    fprintf(stderr, "strata: unknown command '%s'\n", argv[1]);
    print_usage(stderr);
    return 2;
}
