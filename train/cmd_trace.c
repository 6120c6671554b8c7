/* strata trace RUN [--out FILE.svg] */
#define _GNU_SOURCE
#include "train/commands.h"

#include "core/atomic_file.h"
#include "core/options.h"
#include "train/timeline.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char usage[] =
    "usage: strata trace RUN [--out FILE.svg]\n\n"
    "Draws a traced step of a run: what each rank did, and when. RUN is a trace-step-N.json\n"
    "(train.trace_step writes it), or a run's directory with one: then the newest. Prints the\n"
    "share of the step that each rank was busy, inside collectives, and idle or waiting for\n"
    "another pipeline stage. The picture lies beside the trace when no FILE is named.\n";

/* The newest trace of a run's directory: that of the largest step. */
static enum status find_trace(const char *run, char path[4096]) {
    long long newest = -1;
    DIR *directory = opendir(run);
    if (!directory) return status_fail(STATUS_IO, "%s: %s", run, strerror(errno));
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        long long step;
        int end = 0;
        if (sscanf(entry->d_name, "trace-step-%lld.json%n", &step, &end) == 1 && end > 0 &&
            !entry->d_name[end] && step > newest)
            newest = step;
    }
    closedir(directory);
    if (newest < 0)
        return status_fail(STATUS_IO, "%s holds no trace: train with train.trace_step=N", run);
    snprintf(path, 4096, "%s/trace-step-%lld.json", run, newest);
    return STATUS_OK;
}

static void print_shares(const char *who, const struct timeline_shares *shares) {
    printf("%s utilisation=%.4f collective=%.4f bubble=%.4f\n", who, shares->busy,
           shares->collective, shares->bubble);
}

static void print_timeline(const struct timeline *timeline) {
    char who[32];
    struct timeline_shares mean = timeline_mean(timeline);
    for (int rank = 0; rank < timeline->ranks; rank++) {
        snprintf(who, sizeof who, "rank=%d", rank);
        print_shares(who, &timeline->shares[rank]);
    }
    snprintf(who, sizeof who, "ranks=%d ms=%.3f", timeline->ranks, timeline->end - timeline->begin);
    print_shares(who, &mean);
}

/* "trace-step-3" of ".../trace-step-3.json" */
static void make_title(const char *path, char title[256]) {
    const char *slash = strrchr(path, '/');
    snprintf(title, 256, "%s", slash ? slash + 1 : path);
    char *ending = strrchr(title, '.');
    if (ending) *ending = '\0';
}

static enum status trace(const char *run, const char *out) {
    char path[4096], beside[4096], title[256], *svg = NULL;
    struct stat found;
    struct timeline timeline = {0};
    snprintf(path, sizeof path, "%s", run);
    if (stat(run, &found) == 0 && S_ISDIR(found.st_mode)) TRY(find_trace(run, path));
    int stem = (int)strlen(path);
    if (stem > 5 && strcmp(path + stem - 5, ".json") == 0) stem -= 5;
    snprintf(beside, sizeof beside, "%.*s.svg", stem < 4000 ? stem : 4000, path);
    make_title(path, title);
    TRY(timeline_read(&timeline, path));
    enum status status = timeline_draw(&timeline, title, &svg);
    if (!out) out = beside;
    if (status == STATUS_OK) status = atomic_file_replace(out, svg, strlen(svg));
    if (status == STATUS_OK) {
        print_timeline(&timeline);
        printf("%s\n", out);
    }
    free(svg);
    timeline_free(&timeline);
    return status;
}

static enum status read_arguments(int argc, char **argv, const char **run, const char **out) {
    const struct option_row rows[] = {{.kind = OPTION_TEXT, .value = run},
                                      {.name = "--out", .kind = OPTION_TEXT, .value = out}};
    TRY(options_parse(rows, sizeof rows / sizeof *rows, argc, argv));
    return *run ? STATUS_OK : status_fail(STATUS_CONFIG, "no RUN is named");
}

int cmd_trace(int argc, char **argv) {
    const char *run = NULL, *out = NULL;
    if (options_ask_help(argc, argv)) {
        fputs(usage, stdout);
        return 0;
    }
    if (read_arguments(argc, argv, &run, &out) != STATUS_OK) {
        fprintf(stderr, "strata trace: %s\n%s", status_message(), usage);
        return 2;
    }
    if (trace(run, out) != STATUS_OK) {
        fprintf(stderr, "strata trace: %s\n", status_message());
        return 1;
    }
    return 0;
}
