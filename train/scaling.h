/* How training gets faster with more ranks: runs that differ in their ranks, read from what they
 * wrote themselves, beside each other.
 *
 * Strong: the same global batch on more ranks. Weak: the same batch a rank. In both the speedup of
 * a run is its tokens/s over those of the run with fewest ranks (the fastest of several), and its
 * efficiency that speedup over how many times the ranks it has. */
#ifndef STRATA_TRAIN_SCALING_H
#define STRATA_TRAIN_SCALING_H

#include "train/options.h"
#include "train/timeline.h"

#include <stdio.h>

enum { SCALING_WORDS_BYTES = 96 };

struct scaling_run {
    const char *path;           /* borrowed */
    struct run_options options; /* as its config.yaml has them */
    struct config_table tables[RUN_TABLES];
    int64_t ranks, threads; /* of the last step; threads of a rank */
    int64_t last_step;
    char layout[SCALING_WORDS_BYTES]; /* "dp2 tp4 zero1"; "-" for one rank */
    char way[SCALING_WORDS_BYTES];    /* the same without sizes: "dp tp zero1" */
    int64_t steps;                    /* that count: medians are over these */
    double rate;                      /* tokens/s of all ranks, median */
    double mfu;                       /* of that rate */
    double flops_per_token;
    bool traced;
    struct timeline_shares shares; /* of the traced step, means over the ranks */
};

struct scaling_series {
    bool weak;
    double batch; /* sequences of a step: of all ranks, or (weak) of one */
    int count;
    const struct scaling_run **runs; /* (count) by ranks; owned */
    const struct scaling_run *base;
};

struct scaling {
    int run_count, series_count;
    struct scaling_run *runs;      /* (run_count) owned */
    struct scaling_series *series; /* (series_count) strong ones first; owned */
};

/* Reads the folder of a run: config.yaml, metrics.jsonl and, where train.trace_step asked for one,
 * that trace. The first quarter of its step lines (at least one, unless there is no other) is
 * warm-up and does not count, nor do lines of other numbers of ranks than the last one has.
 * STATUS_IO, STATUS_FORMAT and STATUS_CONFIG name the file. `path` is borrowed, and the run must
 * not move: its tables point into it. Whatever happened, scaling_run_free gives back. */
enum status scaling_run_read(struct scaling_run *run, const char *path);
void scaling_run_free(struct scaling_run *run); /* may be called twice, and on a zeroed struct */

/* Reads runs and makes series of them. STATUS_CONFIG: runs that trained different models, runs of
 * one number of ranks only, or no two that share a batch. */
enum status scaling_open(struct scaling *scaling, char *const *paths, int count);
void scaling_close(struct scaling *scaling); /* may be called twice, and on a zeroed struct */

double scaling_speedup(const struct scaling_series *series, const struct scaling_run *run);
double scaling_efficiency(const struct scaling_series *series, const struct scaling_run *run);

/* A table a series. */
void scaling_print(const struct scaling *scaling, FILE *out);

/* All of it as JSON: {"runs": [...], "series": [...]}; and speedups over ranks as a picture, strong
 * above weak, with the ideal line. The caller frees the text. STATUS_MEMORY. */
enum status scaling_json(const struct scaling *scaling, char **json);
enum status scaling_draw(const struct scaling *scaling, char **svg);

#endif
