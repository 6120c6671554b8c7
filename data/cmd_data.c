/* The table of `strata data` subcommands. */
#include "data/commands.h"

#include "core/subcommands.h"

static const struct subcommand subcommands[] = {
    {"bpe", cmd_data_bpe, "train a byte-level BPE vocabulary on text files",
     "--vocab 4096 --out tokenizer.json README.md"},
    {"tokenize", cmd_data_tokenize, "text and JSON lines to a token file",
     "--tokenizer models/base --out train.h5 chats.jsonl"},
};

int cmd_data(int argc, char **argv) {
    return subcommands_run(subcommands, sizeof subcommands / sizeof *subcommands, "strata data",
                           argc, argv);
}
