/* strata train CONFIG.yaml [--dry-run] [key=value ...] */
#define _GNU_SOURCE
#include "train/commands.h"

#include "core/log.h"
#include "core/options.h"
#include "train/stop.h"
#include "train/train.h"

#include <stdio.h>
#include <string.h>

/* How long a failing run waits for the other ranks to come to the same end. */
enum { LEAVE_SECONDS = 30 };

static void print_usage(FILE *out) {
    fprintf(
        out,
        "usage: strata train CONFIG.yaml [--dry-run] [key=value ...]   (in any order)\n\n"
        "Trains or fine-tunes as the run file says; docs/config.md lists its keys. Started\n"
        "plainly, by mpirun -n N, or by srun --mpi=pmix. A run that was interrupted goes on\n"
        "from its newest checkpoint when the same command is given again; SIGTERM, SIGINT and\n"
        "SIGUSR1 make it finish the step, write one and exit with 75; a second SIGTERM or SIGINT\n"
        "ends it at once.\n"
        "Under mpirun send SIGUSR1: mpirun kills its ranks soon after the others.\n\n"
        "  --dry-run    print the bytes that a rank would allocate, open and check the token files,\n"
        "               say what they hold and how many steps that makes, and end\n");
}

struct arguments {
    const char *config;
    char **settings; /* key=value, gathered at the front of argv */
    int count;
    bool dry_run;
};

/* A key and '='; a path with a '=' somewhere is none. */
static bool is_setting(const char *text) {
    size_t key = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_.");
    return text[key] == '=';
}

static enum status read_arguments(int argc, char **argv, struct arguments *arguments) {
    *arguments = (struct arguments){.settings = argv + 1};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--dry-run") == 0)
            arguments->dry_run = true;
        else if (strncmp(argv[i], "--", 2) == 0)
            return status_fail(STATUS_CONFIG, "unknown option '%s'", argv[i]);
        else if (!arguments->config && !is_setting(argv[i]))
            arguments->config = argv[i];
        else
            arguments->settings[arguments->count++] = argv[i];
    }
    return arguments->config ? STATUS_OK : status_fail(STATUS_CONFIG, "no CONFIG.yaml is named");
}

static enum status train_or_plan(struct parallel *parallel, const struct arguments *arguments,
                                 const volatile sig_atomic_t *stop) {
    struct run_options options = {0};
    struct config_table tables[RUN_TABLES];
    run_options_tables(&options, tables);
    TRY(parallel_agree(&parallel->world, config_load(tables, RUN_TABLES, arguments->config,
                                                     arguments->settings, arguments->count)));
    options.parallel.zero = run_options_zero(&options, parallel->world.size); /* said as it is */
    enum status status = arguments->dry_run
                             ? parallel_agree(&parallel->world, train_dry_run(&options, parallel))
                             : train_run(&options, tables, parallel, stop);
    config_free(tables, RUN_TABLES);
    return status;
}

int cmd_train(int argc, char **argv) {
    struct arguments arguments;
    if (argc < 2 || options_ask_help(argc, argv)) {
        print_usage(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    if (read_arguments(argc, argv, &arguments) != STATUS_OK) {
        fprintf(stderr, "strata train: %s\n", status_message());
        print_usage(stderr);
        return 2;
    }
    struct parallel parallel;
    if (parallel_start(&parallel, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "strata train: %s\n", status_message());
        return 1;
    }
    /* a dry run has no checkpoint to write */
    const volatile sig_atomic_t *stop = arguments.dry_run ? NULL : stop_catch_signals();
    enum status status = train_or_plan(&parallel, &arguments, stop);
    if (status == STATUS_PEER) parallel_abort(&parallel, "training"); /* others may be waiting */
    if (status != STATUS_OK && parallel.world.rank == 0)
        log_line(status == STATUS_CANCELLED ? LOG_WARN : LOG_ERROR, "event=%s reason=%s",
                 status_name(status), log_value(&(struct log_text){0}, status_message()));
    if (status == STATUS_OK)
        parallel_finish(&parallel);
    else
        parallel_finish_failed(&parallel, LEAVE_SECONDS);
    return status == STATUS_OK ? 0 : status == STATUS_CANCELLED ? EXIT_STOPPED : 1;
}
