/* What a plan says: a table for people, JSON for machines, a run file a job for Slurm and a
 * picture. */
#ifndef STRATA_TRAIN_PLAN_PRINT_H
#define STRATA_TRAIN_PLAN_PRINT_H

#include "train/plan_search.h"

#include <stdio.h>

/* The first `most` candidates (0: all), aligned. */
void plan_print_table(FILE *out, const struct plan_request *request,
                      const struct plan_result *result, int64_t most);

/* One object: the job, and its candidates as the table has them; bytes and seconds. STATUS_MEMORY.
 */
enum status plan_print_json(FILE *out, const struct plan_request *request,
                            const struct plan_result *result, int64_t most);

/* "812.4 us", "3.42 ms", "12.08 s"; returns text. */
const char *plan_print_seconds(char text[16], double seconds);

/* "-" without a pipeline, "zb-h1", "interleaved/4" with its chunks; returns what to print. */
const char *plan_print_schedule(char text[32], const struct plan_choice *choice);

enum { PLAN_BARS = 12 };

/* A picture of the first PLAN_BARS candidates: of each the bytes by kind of the rank that takes
 * most, side by side in a bar, the reserve beside them, and how much there is. STATUS_MEMORY; the
 * caller frees *svg. */
enum status plan_draw(const struct plan_request *request, const struct plan_result *result,
                      char **svg);

/* Of the first candidate directory/run.yaml, the request's options with the choice's keys, and
 * directory/job.sbatch, which runs it; directory/plan.svg, the picture. STATUS_IO. */
enum status plan_write(const char *directory, const struct plan_request *request,
                       const struct plan_result *result);

#endif
