/* strata plan CONFIG [key=value ...] --gpu NAME [--option value]... */
#define _GNU_SOURCE
#include "train/commands.h"

#include "core/memory.h"
#include "core/options.h"
#include "train/plan_calibrate.h"
#include "train/plan_print.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: strata plan CONFIG.yaml [key=value ...] --gpu h100|h200|a100|cpu\n"
    "                   [--nodes N] [--gpus-per-node G] [--option value]...\n\n"
    "Every layout of N nodes with G ranks each that fits: its bytes a rank by kind, counted by the\n"
    "program's own layout functions, and its predicted time; fastest first. No GPU is needed, and\n"
    "of model.path only the configuration. docs/plan.md explains the model.\n\n"
    "What is chosen: parallel.tp, cp, dp, pp, schedule, chunks and zero, train.micro_batch and\n"
    "train.recompute; where nothing fits, also train.optimizer adamw8bit and train.offload\n"
    "optimizer. Those that are given as key=value stay so; CONFIG's own are not asked.\n\n"
    "  --nodes N            1\n"
    "  --gpus-per-node G    ranks of a node: 8 GPUs, or 1 rank of the CPU\n"
    "  --memory GIB         of a GPU, or of a node with --gpu cpu (else what this one has left)\n"
    "  --calibrate RUN...   directories of runs that were made on such devices: rates are corrected\n"
    "                       so that their steps are predicted\n"
    "  --this-layout        CONFIG's layout alone\n"
    "  --top N              rows of the table, 20; 0 for all\n"
    "  --json               for programs\n"
    "  --out DIR            write the best one as DIR/run.yaml, DIR/job.sbatch that runs it, and\n"
    "                       DIR/plan.svg, a picture of where the bytes are in the best few\n";

struct arguments {
    const char *config, *gpu, *out;
    struct option_list settings, runs;
    int64_t nodes, per_node, memory, top;
    bool json, this_layout;
};

static enum status read_arguments(int argc, char **argv, struct arguments *a) {
    *a = (struct arguments){.nodes = 1, .top = 20};
    const struct option_row rows[] = {
        {.kind = OPTION_TEXT, .value = &a->config, .required = true},
        {.kind = OPTION_LIST, .value = &a->settings},
        {"--gpu", OPTION_TEXT, &a->gpu, true, 0, 0},
        {"--nodes", OPTION_INTEGER, &a->nodes, false, 1, 1 << 16},
        {"--gpus-per-node", OPTION_INTEGER, &a->per_node, false, 1, 1024},
        {"--memory", OPTION_INTEGER, &a->memory, false, 1, 1 << 20},
        {"--calibrate", OPTION_LIST, &a->runs, false, 0, 0},
        {"--this-layout", OPTION_FLAG, &a->this_layout, false, 0, 0},
        {"--top", OPTION_INTEGER, &a->top, false, 0, 1 << 30},
        {"--json", OPTION_FLAG, &a->json, false, 0, 0},
        {"--out", OPTION_TEXT, &a->out, false, 0, 0}};
    return options_parse(rows, sizeof rows / sizeof *rows, argc, argv);
}

/* The keys that were given as key=value. */
static unsigned fixed_keys(const struct arguments *a) {
    unsigned fixed = a->this_layout ? (1u << PLAN_KEYS) - 1u : 0u;
    for (int i = 0; i < a->settings.count; i++)
        for (int key = 0; key < PLAN_KEYS; key++) {
            size_t bytes = strlen(plan_key_names[key]);
            const char *setting = a->settings.items[i];
            if (strncmp(setting, plan_key_names[key], bytes) == 0 && setting[bytes] == '=')
                fixed |= 1u << key;
        }
    return fixed;
}

/* What the file says besides its layout must be a run. */
static enum status check_options(const struct run_options *options) {
    struct run_options plain = *options;
    plain.parallel.pp = plain.parallel.chunks = 1;
    plain.parallel.zero = 0;
    TRY(run_options_check(&plain));
    if (options->data.sequence_length > 0) return STATUS_OK;
    return status_fail(STATUS_CONFIG, "data.sequence_length must be above 0");
}

static enum status find_memory(struct plan_device *device, int64_t gibibytes) {
    size_t available;
    if (gibibytes > 0) device->memory = (double)gibibytes * (1 << 30);
    if (device->memory > 0.0) return STATUS_OK;
    if (!memory_available("", &available))
        return status_fail(STATUS_CONFIG, "this system does not tell its memory: say --memory GIB");
    device->memory = (double)available;
    return STATUS_OK;
}

static void print_calibration(FILE *out, const struct plan_calibration *c) {
    fprintf(out, "calibrated by %d runs:", c->count);
    for (int i = 0; i < PLAN_RATES; i++)
        fprintf(out, " %s %.3g (was %.3g)", c->names[i], c->after[i], c->before[i]);
    fprintf(out, "\n");
    for (int i = 0; i < c->count; i++)
        fprintf(out, "  %s: %.4f s a step, predicted %.4f (%+.1f%%)\n", c->runs[i].path,
                c->runs[i].measured, c->runs[i].predicted,
                100.0 * (c->runs[i].predicted / c->runs[i].measured - 1.0));
}

/* Rates first, of a thread on the CPU, then as many threads as a rank has. */
static enum status find_device(struct plan_request *request, const struct arguments *a) {
    const struct plan_device *known = plan_device_find(a->gpu);
    if (!known)
        return status_fail(STATUS_CONFIG, "--gpu %s is not known: %s", a->gpu, plan_device_names);
    struct plan_device device = *known;
    request->per_node = a->per_node ? (int)a->per_node : device.shared_memory ? 1 : 8;
    if (a->runs.count > 0) {
        struct plan_calibration calibration;
        enum status status =
            plan_calibrate(&device, a->runs.items, a->runs.count, request->per_node, &calibration);
        if (status == STATUS_OK) print_calibration(a->json ? stderr : stdout, &calibration);
        plan_calibration_free(&calibration);
        TRY(status);
    }
    int64_t threads = request->options->train.threads;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN) / request->per_node;
    request->device = plan_device_of_rank(&device, threads ? threads : cpus > 0 ? cpus : 1);
    return find_memory(&request->device, a->memory);
}

static enum status print(const struct plan_request *request, const struct plan_result *result,
                         const struct arguments *a) {
    if (a->json) {
        TRY(plan_print_json(stdout, request, result, a->top));
    } else {
        plan_print_table(stdout, request, result, a->top);
    }
    if (!a->out) return STATUS_OK;
    TRY(plan_write(a->out, request, result));
    if (!a->json) printf("\nwritten: %s/run.yaml, job.sbatch and plan.svg\n", a->out);
    return STATUS_OK;
}

static enum status plan(const struct arguments *a, const struct run_options *options) {
    struct plan_request request = {
        .options = options, .nodes = (int)a->nodes, .fixed = fixed_keys(a)};
    struct plan_result result = {0};
    TRY(check_options(options));
    TRY(find_device(&request, a));
    enum status status = plan_search(&result, &request);
    if (status == STATUS_OK) status = print(&request, &result, a);
    plan_result_free(&result);
    return status;
}

int cmd_plan(int argc, char **argv) {
    struct arguments arguments;
    struct run_options options = {0};
    struct config_table tables[RUN_TABLES];
    if (options_ask_help(argc, argv)) {
        fputs(usage, stdout);
        return 0;
    }
    if (read_arguments(argc, argv, &arguments) != STATUS_OK) {
        fprintf(stderr, "strata plan: %s\n%s", status_message(), usage);
        return 2;
    }
    run_options_tables(&options, tables);
    enum status status = config_load(tables, RUN_TABLES, arguments.config, arguments.settings.items,
                                     arguments.settings.count);
    if (status == STATUS_OK) {
        status = plan(&arguments, &options);
        config_free(tables, RUN_TABLES);
    }
    if (status != STATUS_OK) fprintf(stderr, "strata plan: %s\n", status_message());
    return status == STATUS_OK ? 0 : 1;
}
