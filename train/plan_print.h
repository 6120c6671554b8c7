/* What a plan says: a table for people, JSON for machines, a run file and a job for Slurm. */
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

/* directory/run.yaml, the request's options with the choice's keys, and directory/job.sbatch, which
 * runs it. STATUS_IO. */
enum status plan_write(const char *directory, const struct plan_request *request,
                       const struct plan_candidate *candidate);

#endif
