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
    char **names; /* runs, or the run file; gathered at the front of argv */
    int name_count;
    const char *out, *ranks, *steps;
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

/* The option's place for its value; NULL for what is none. */
static const char **find_option(struct arguments *arguments, const char *name) {
    if (strcmp(name, "--out") == 0) return &arguments->out;
    if (strcmp(name, "--ranks") == 0) return &arguments->ranks;
    if (strcmp(name, "--steps") == 0) return &arguments->steps;
    if (strcmp(name, "--launch") == 0) return &arguments->plan.launch;
    return NULL;
}

static enum status add_setting(struct arguments *arguments, char *text) {
    struct scaling_plan *plan = &arguments->plan;
    if (plan->setting_count == SCALING_MAX_WORDS)
        return status_fail(STATUS_CONFIG, "more than %d settings", SCALING_MAX_WORDS);
    arguments->settings[plan->setting_count++] = text;
    return STATUS_OK;
}

static enum status read_words(int argc, char **argv, struct arguments *arguments) {
    for (int i = 1; i < argc; i++) {
        size_t key = strspn(argv[i], "abcdefghijklmnopqrstuvwxyz0123456789_.");
        const char **value = find_option(arguments, argv[i]);
        if (strcmp(argv[i], "--weak") == 0)
            arguments->plan.weak = true;
        else if (value && i + 1 == argc)
            return status_fail(STATUS_CONFIG, "%s needs a value", argv[i]);
        else if (value)
            *value = argv[++i];
        else if (argv[i][0] == '-')
            return status_fail(STATUS_CONFIG, "unknown option '%s'", argv[i]);
        else if (argv[i][key] == '=')
            TRY(add_setting(arguments, argv[i]));
        else
            arguments->names[arguments->name_count++] = argv[i];
    }
    return STATUS_OK;
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
    char *end = "";
    plan->steps = arguments->steps ? strtoll(arguments->steps, &end, 10) : DEFAULT_STEPS;
    if (*end || plan->steps < 2 || plan->steps > 1000000)
        return status_fail(STATUS_CONFIG, "--steps: '%s' is not a number from 2 to 1000000",
                           arguments->steps);
    plan->config = arguments->names[0];
    plan->settings = arguments->settings;
    plan->out = arguments->out;
    return STATUS_OK;
}

static int cmd_bench_scaling(int argc, char **argv) {
    struct arguments arguments = {.names = argv + 1, .out = "scaling"};
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
