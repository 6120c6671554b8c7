/* The table of subcommands. */
#include "core/subcommands.h"
#include "data/commands.h"
#include "serve/commands.h"
#include "train/commands.h"

#include <stdio.h>
#include <string.h>

static const struct subcommand commands[] = {
    {"bench", cmd_bench, "how training gets faster with more ranks: tables and plots", NULL},
    {"convert", cmd_convert, "merge an adapter, export safetensors or GGUF",
     "models/base base-q8.gguf --dtype q8_0"},
    {"data", cmd_data, "token files and vocabularies out of text", NULL},
    {"eval", cmd_eval, "logits, loss and gradients of tokens, perplexity of texts",
     "models/base --text README.md"},
    {"inspect", cmd_inspect, "what a model file, a token file or a checkpoint holds",
     "models/base"},
    {"tokenize", cmd_tokenize, "text to token ids and back, by any tokenizer",
     "models/base < README.md"},
    {"train", cmd_train, "train or fine-tune as a run file says, on one or many ranks",
     "configs/demo/lora.yaml train.lr=1e-3 train.out=runs/first"},
    {"chat", cmd_chat, "a conversation with a model in the terminal",
     "models/base --temperature 0.7"},
    {"plan", cmd_plan, "the layouts of a job that fit its devices, ranked, without a device",
     "configs/demo/lora.yaml --nodes 2 --gpus-per-node 8 --gpu h100"},
    {"plot", cmd_plot, "loss and throughput of runs as a picture (SVG)",
     "runs/first --out loss.svg"},
    {"preflight", cmd_preflight, "which nodes of a job are slow or broken", "--seconds 4"},
    {"trace", cmd_trace, "who computed and who waited in a traced step (SVG)", "runs/first"},
    {"serve", cmd_serve, "a model over HTTP, in OpenAI's dialect",
     "models/base --adapter first=runs/first/adapter --port 8000"},
};

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("strata %s\n", STRATA_VERSION);
        return 0;
    }
    return subcommands_run(commands, sizeof commands / sizeof *commands, "strata", argc, argv);
}
