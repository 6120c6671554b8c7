/* strata plot RUN... [--out FILE.svg] */
#define _GNU_SOURCE
#include "train/commands.h"

#include "core/atomic_file.h"
#include "core/directory.h"
#include "core/options.h"
#include "train/plot.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char usage[] =
    "usage: strata plot RUN... [--out FILE.svg]\n\n"
    "Draws loss and tokens/s over the steps of one or several runs (their directories, or\n"
    "metrics.jsonl files) as one SVG; plot.svg beside the first run's metrics when no FILE is\n"
    "named.\n";

/* plot.svg in the run's directory, or beside its file. */
static void default_path(char path[4096], const char *run) {
    struct stat found;
    const char *slash = strrchr(run, '/');
    if (stat(run, &found) == 0 && S_ISDIR(found.st_mode))
        snprintf(path, 4096, "%s/plot.svg", run);
    else
        snprintf(path, 4096, "%.*splot.svg", slash ? (int)(slash - run + 1) : 0, run);
}

static enum status read_runs(char **paths, int count, struct plot_run *runs) {
    for (int i = 0; i < count; i++) TRY(plot_run_read(&runs[i], paths[i]));
    return STATUS_OK;
}

static enum status plot(char **paths, int count, const char *out) {
    struct plot_run runs[PLOT_MAX_RUNS] = {0};
    char *svg = NULL;
    enum status status = read_runs(paths, count, runs);
    if (status == STATUS_OK) status = plot_draw(runs, count, &svg);
    if (status == STATUS_OK) status = directory_make_for(out);
    if (status == STATUS_OK) status = atomic_file_replace(out, svg, strlen(svg));
    free(svg);
    for (int i = 0; i < count; i++) plot_run_free(&runs[i]);
    return status;
}

static enum status read_arguments(int argc, char **argv, struct option_list *runs,
                                  const char **out) {
    const struct option_row rows[] = {{.kind = OPTION_LIST, .value = runs},
                                      {.name = "--out", .kind = OPTION_TEXT, .value = out}};
    TRY(options_parse(rows, sizeof rows / sizeof *rows, argc, argv));
    if (runs->count == 0) return status_fail(STATUS_CONFIG, "no RUN is named");
    if (runs->count > PLOT_MAX_RUNS)
        return status_fail(STATUS_CONFIG, "more than %d runs", PLOT_MAX_RUNS);
    return STATUS_OK;
}

int cmd_plot(int argc, char **argv) {
    const char *out = NULL;
    struct option_list runs = {0};
    char path[4096];
    if (options_ask_help(argc, argv)) {
        fputs(usage, stdout);
        return 0;
    }
    if (read_arguments(argc, argv, &runs, &out) != STATUS_OK) {
        fprintf(stderr, "strata plot: %s\n%s", status_message(), usage);
        return 2;
    }
    if (!out) {
        default_path(path, runs.items[0]);
        out = path;
    }
    if (plot(runs.items, runs.count, out) != STATUS_OK) {
        fprintf(stderr, "strata plot: %s\n", status_message());
        return 1;
    }
    printf("%s\n", out);
    return 0;
}
