/* strata bench scaling ... */
#define _GNU_SOURCE
#include "train/commands.h"

#include "core/atomic_file.h"
#include "core/directory.h"
#include "core/options.h"
#include "core/subcommands.h"
#include "train/scaling.h"
#include "train/scaling_launch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_STEPS = 20 };

static const char usage[] =
    "usage: strata bench scaling RUN... [--out DIR]\n"
    "       strata bench scaling CONFIG.yaml --ranks 1,2,4 [--weak] [--steps N] [--launch WORDS]\n"
    "                            [--out DIR] [key=value ...]\n\n"
    "How training gets faster with more ranks. The first form reports on runs that are there; the\n"
    "second makes them first, one after the other, as DIR/strong-N and DIR/weak-N, and leaves out\n"
    "what an earlier call has made. Prints a table of the runs with the same global batch (strong)\n"
    "and one of those with the same batch a rank (weak): the median tokens/s of the steps after a\n"
    "warm-up, speedup and efficiency over the fewest ranks; DIR (scaling) gets report.json and\n"
    "scaling.svg.\n\n"
    "  --ranks     numbers of ranks; {ranks} in a key=value is each of them: parallel.tp={ranks}\n"
    "  --weak      besides the global batch of the run file one that grows with the ranks\n"
    "  --steps     steps of each run (20), of which the first quarter is warm-up\n"
    "  --launch    what starts ranks, its words split at blanks, such as \"mpirun -n {ranks}\n"
    "              --oversubscribe\"; else srun in a Slurm job and mpirun outside of one. {nodes} is\n"
    "              as many nodes as the ranks fill at SLURM_NTASKS_PER_NODE\n";

struct arguments {
    struct option_list words, more; /* before options and after them */
    char *names[SCALING_MAX_WORDS]; /* of these: runs, or the run file */
    int name_count;
    const char *out, *ranks;
    int64_t steps; /* 0: not said */
    struct scaling_plan plan;
    char *settings[SCALING_MAX_WORDS];
};

static enum status write_text(const char *folder, const char *name, const char *text) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    TRY(atomic_file_replace(path, text, strlen(text)));
    printf("%s\n", path);
    return STATUS_OK;
}

static enum status report(char *const *paths, int count, const char *out) {
    struct scaling scaling;
    char *json = NULL, *svg = NULL;
    TRY(scaling_open(&scaling, paths, count));
    enum status status = scaling_json(&scaling, &json);
    if (status == STATUS_OK) status = scaling_draw(&scaling, &svg);
    if (status == STATUS_OK) status = directory_make(out);
    if (status == STATUS_OK) {
        scaling_print(&scaling, stdout);
        status = write_text(out, "report.json", json);
    }
    if (status == STATUS_OK) status = write_text(out, "scaling.svg", svg);
    free(json);
    free(svg);
    scaling_close(&scaling);
    return status;
}

static enum status launch_and_report(const struct arguments *arguments) {
    char *paths[SCALING_MAX_RUNS * 2] = {0};
    int count = 0;
    enum status status = scaling_launch(&arguments->plan, paths, &count);
    if (status == STATUS_OK) status = report(paths, count, arguments->out);
    for (int i = 0; i < count; i++) free(paths[i]);
    return status;
}

/* Tells settings from names by their "key=". */
static enum status sort_words(struct arguments *arguments, const struct option_list *words) {
    struct scaling_plan *plan = &arguments->plan;
    for (int i = 0; i < words->count; i++) {
        char *word = words->items[i];
        bool setting = word[strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_.")] == '=';
        int *count = setting ? &plan->setting_count : &arguments->name_count;
        if (*count == SCALING_MAX_WORDS)
            return status_fail(STATUS_CONFIG, "more than %d %s", SCALING_MAX_WORDS,
                               setting ? "settings" : "runs");
        (setting ? arguments->settings : arguments->names)[(*count)++] = word;
    }
    return STATUS_OK;
}

static enum status read_words(int argc, char **argv, struct arguments *arguments) {
    const struct option_row rows[] = {
        {.kind = OPTION_LIST, .value = &arguments->words},
        {.kind = OPTION_LIST, .value = &arguments->more},
        {"--out", OPTION_TEXT, &arguments->out, false, 0, 0},
        {"--ranks", OPTION_TEXT, &arguments->ranks, false, 0, 0},
        {"--weak", OPTION_FLAG, &arguments->plan.weak, false, 0, 0},
        {"--steps", OPTION_INTEGER, &arguments->steps, false, 2, 1000000},
        {"--launch", OPTION_TEXT, &arguments->plan.launch, false, 0, 0},
    };
    TRY(options_parse(rows, sizeof rows / sizeof *rows, argc, argv));
    TRY(sort_words(arguments, &arguments->words));
    return sort_words(arguments, &arguments->more);
}

/* Which of the two forms it is, and whether it is whole. */
static enum status check(struct arguments *arguments) {
    struct scaling_plan *plan = &arguments->plan;
    if (arguments->name_count == 0)
        return status_fail(STATUS_CONFIG, "no RUN and no CONFIG is named");
    if (!arguments->ranks) {
        bool makes = plan->weak || plan->launch || arguments->steps || plan->setting_count > 0;
        return makes ? status_fail(STATUS_CONFIG, "--ranks is missing: it says what runs to make")
                     : STATUS_OK;
    }
    if (arguments->name_count > 1)
        return status_fail(STATUS_CONFIG, "--ranks makes the runs of one CONFIG; '%s' is another",
                           arguments->names[1]);
    TRY(scaling_plan_ranks(plan, arguments->ranks));
    plan->steps = arguments->steps ? arguments->steps : DEFAULT_STEPS;
    plan->config = arguments->names[0];
    plan->settings = arguments->settings;
    plan->out = arguments->out;
    return STATUS_OK;
}

static int cmd_bench_scaling(int argc, char **argv) {
    struct arguments arguments = {.out = "scaling"};
    if (options_ask_help(argc, argv)) {
        fputs(usage, stdout);
        return 0;
    }
    enum status status = read_words(argc, argv, &arguments);
    if (status == STATUS_OK) status = check(&arguments);
    if (status != STATUS_OK) {
        fprintf(stderr, "strata bench scaling: %s\n%s", status_message(), usage);
        return 2;
    }
    status = arguments.ranks ? launch_and_report(&arguments)
                             : report(arguments.names, arguments.name_count, arguments.out);
    if (status == STATUS_OK) return 0;
    fprintf(stderr, "strata bench scaling: %s\n", status_message());
    return status == STATUS_CANCELLED ? EXIT_STOPPED : 1;
}

static const struct subcommand subcommands[] = {
    {"scaling", cmd_bench_scaling, "how training gets faster with more ranks: tables and plots",
     "configs/demo/lora.yaml --ranks 1,2 --steps 8"},
};

int cmd_bench(int argc, char **argv) {
    return subcommands_run(subcommands, sizeof subcommands / sizeof *subcommands, "strata bench",
                           argc, argv);
}
