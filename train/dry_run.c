#define _GNU_SOURCE
#include "train/train.h"

#include "kernels/base/units.h"
#include "kernels/kernels.h"

#include <stdio.h>

/* `path`: train.offload_path */
static void print_memory(const struct trainer_memory *m, const char *path) {
    struct trainer_memory_part parts[TRAINER_MEMORY_PARTS + 1];
    trainer_memory_parts(m, parts);
    parts[TRAINER_MEMORY_PARTS] = (struct trainer_memory_part){"total", trainer_memory_total(m)};
    printf("%-12s %16s %12s\n", "arena", "bytes a rank", "MiB");
    for (int i = 0; i <= TRAINER_MEMORY_PARTS; i++)
        printf("%-12s %16zu %12.1f\n", parts[i].name, parts[i].bytes, to_mib(parts[i].bytes));
    if (m->offloaded)
        printf("%-12s %16zu %12.1f  not in the total: %s\n", "offloaded", m->offloaded,
               to_mib(m->offloaded), *path ? path : "the host's memory");
}

static void print_data(const struct run_options *options, const struct trainer_data *data) {
    printf("data.train: checked files=%lld sequences=%lld tokens=%lld\n",
           (long long)options->data.train.count, (long long)data->sequences,
           (long long)data->tokens);
    if (options->data.validation.count > 0)
        printf("data.validation: checked files=%lld sequences=%lld tokens=%lld\n",
               (long long)options->data.validation.count, (long long)data->validation_sequences,
               (long long)data->validation_tokens);
    printf("tokenizer: %s\n", data->tokenizer_checked
                                  ? "the one that the token files were made with"
                                  : "none beside the model, so not compared with the token files'");
    int64_t sequences = data->steps * options->train.global_batch;
    double epochs = (double)sequences / (double)data->sequences;
    printf("run: steps=%lld sequences=%lld epochs=%.4g tokens=%.0f\n", (long long)data->steps,
           (long long)sequences, epochs, epochs * (double)data->tokens);
}

static enum status print_plan(const struct run_options *options, int ranks) {
    struct trainer_memory memory = {0};
    struct trainer_data data = {0};
    TRY(trainer_plan(options, ranks, &memory));
    print_memory(&memory, options->train.offload_path);
    TRY(trainer_plan_data(options, &data));
    print_data(options, &data);
    return STATUS_OK;
}

enum status train_dry_run(const struct run_options *options, const struct parallel *parallel) {
    const struct kernels *kernels;
    TRY(run_options_check(options));
    TRY(kernels_cpu(&kernels, options->train.instructions, DTYPE_F32));
    return parallel->world.rank == 0 ? print_plan(options, parallel->world.size) : STATUS_OK;
}
