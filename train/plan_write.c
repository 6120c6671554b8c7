#define _GNU_SOURCE
#include "core/atomic_file.h"
#include "core/directory.h"
#include "train/plan_print.h"

#include <stdlib.h>
#include <string.h>

/* The resolved file, with the choice in place of what it said. */
static enum status write_config(const char *path, const struct plan_request *request,
                                const struct plan_candidate *candidate) {
    struct run_options chosen = plan_options(request->options, &candidate->choice);
    struct config_table rows[RUN_TABLES];
    char *yaml = NULL;
    run_options_tables(&chosen, rows);
    TRY(config_dump(rows, RUN_TABLES, &yaml));
    enum status status = atomic_file_replace(path, yaml, strlen(yaml));
    free(yaml);
    return status;
}

/* The shape of slurm/pretrain.sbatch. */
static enum status write_job(const char *path, const char *config,
                             const struct plan_request *request,
                             const struct plan_candidate *candidate) {
    const struct plan_time *time = &candidate->time;
    bool gpu = !request->device.shared_memory;
    char *text, devices[128] = "", step[16];
    if (gpu) snprintf(devices, sizeof devices, "#SBATCH --gpus-per-node=%d\n", request->per_node);
    int bytes = asprintf(&text,
                         "#!/usr/bin/env bash\n"
                         "# Written by strata plan: %s a step and %.0f tokens/s predicted on %s.\n"
                         "#   sbatch %s [key=value ...]\n"
                         "#SBATCH --job-name=strata-train\n"
                         "#SBATCH --nodes=%d\n"
                         "#SBATCH --ntasks-per-node=%d\n"
                         "%s"
                         "#SBATCH --exclusive\n"
                         "#SBATCH --time=24:00:00\n"
                         "#SBATCH --signal=USR1@120\n"
                         "#SBATCH --requeue\n"
                         "#SBATCH --open-mode=append\n"
                         "#SBATCH --output=%%x-%%j.log\n"
                         ". \"${STRATA_ROOT:-$SLURM_SUBMIT_DIR}/slurm/common.sh\"\n"
                         "run %s-- train '%s' \"$@\"\n",
                         plan_print_seconds(step, time->seconds), time->tokens_per_second,
                         request->device.name, path, request->nodes, request->per_node, devices,
                         gpu ? "--gpu-bind=none " : "", config);
    if (bytes < 0) return status_fail(STATUS_MEMORY, "no memory for %s", path);
    enum status status = atomic_file_replace(path, text, (size_t)bytes);
    free(text);
    return status;
}

static enum status write_picture(const char *path, const struct plan_request *request,
                                 const struct plan_result *result) {
    char *svg;
    TRY(plan_draw(request, result, &svg));
    enum status status = atomic_file_replace(path, svg, strlen(svg));
    free(svg);
    return status;
}

enum status plan_write(const char *directory, const struct plan_request *request,
                       const struct plan_result *result) {
    char config[4096], job[4096], picture[4096];
    const struct plan_candidate *best = &result->candidates[0];
    snprintf(config, sizeof config, "%s/run.yaml", directory);
    snprintf(job, sizeof job, "%s/job.sbatch", directory);
    snprintf(picture, sizeof picture, "%s/plan.svg", directory);
    if (strchr(directory, '\'') || strchr(directory, '\n'))
        return status_fail(STATUS_CONFIG, "--out: a quote or line break in '%s'", directory);
    TRY(directory_make(directory));
    TRY(write_config(config, request, best));
    TRY(write_picture(picture, request, result));
    return write_job(job, config, request, best);
}
