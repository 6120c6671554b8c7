/* strata data bpe */
#define _GNU_SOURCE
#include "data/commands.h"

#include "core/atomic_file.h"
#include "core/directory.h"
#include "core/options.h"
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

/* One that isn't known, or one of ours at the end. */
static enum status fail_option(const char *text) {
    static const char *const known[] = {"--vocab", "--out", "--special"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(text, known[i]) == 0)
            return status_fail(STATUS_CONFIG, "%s needs a value", text);
    return status_fail(STATUS_CONFIG, "unknown option '%s'", text);
}

/* `room` holds argc pointers for each list. */
static enum status parse_bpe(int argc, char **argv, struct bpe_options *options,
                             const char **room) {
    *options = (struct bpe_options){.specials = room, .files = room + argc};
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        char *end = "";
        if (strcmp(argv[i], "--vocab") == 0 && has_value) {
            options->vocab = strtol(argv[++i], &end, 10);
            if (*end || options->vocab < 1 || options->vocab > TOKENIZER_MAX_TOKENS)
                return status_fail(STATUS_CONFIG, "--vocab: '%s' is no number from 1 to %d",
                                   argv[i], TOKENIZER_MAX_TOKENS);
        } else if (strcmp(argv[i], "--out") == 0 && has_value) {
            options->out = argv[++i];
        } else if (strcmp(argv[i], "--special") == 0 && has_value) {
            options->specials[options->special_count++] = argv[++i];
        } else if (argv[i][0] == '-') {
            return fail_option(argv[i]);
        } else {
            options->files[options->file_count++] = argv[i];
        }
    }
    const char *missing = !options->vocab ? "--vocab" : !options->out ? "--out" : "a file";
    if (options->vocab && options->out && options->file_count) return STATUS_OK;
    return status_fail(STATUS_CONFIG, "%s is missing", missing);
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
    TRY(directory_make_for(options->out));
    return bpe_trainer_write(trainer, options->out);
}

int cmd_data_bpe(int argc, char **argv) {
    struct bpe_options options;
    struct bpe_trainer *trainer;
    if (options_ask_help(argc, argv)) {
        fputs(bpe_usage, stdout);
        return 0;
    }
    const char **room = calloc(2 * (size_t)argc, sizeof *room);
    if (!room || parse_bpe(argc, argv, &options, room) != STATUS_OK) {
        fprintf(stderr, "strata data bpe: %s\n%s", room ? status_message() : "no memory",
                bpe_usage);
        free(room);
        return 2;
    }
    enum status status = bpe_trainer_create(&trainer, options.specials, options.special_count);
    if (status == STATUS_OK) {
        status = atomic_file_spares(options.out, options.files, (int)options.file_count);
        if (status == STATUS_OK) status = train(trainer, &options);
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
