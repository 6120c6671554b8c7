/* strata train CONFIG.yaml [--dry-run] [key=value ...] */
#define _GNU_SOURCE
#include "train/commands.h"

#include "core/atomic_file.h"
#include "core/export.h"
#include "core/log.h"
#include "core/options.h"
#include "kernels/base/units.h"
#include "train/metrics.h"
#include "train/trainer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* EX_TEMPFAIL: stopped by a signal after a checkpoint; the same command goes on from there. */
enum { EXIT_STOPPED = 75, LEAVE_SECONDS = 30 };

/* A handler can reach nothing but a global. */
static volatile sig_atomic_t stop_requested;

/* SIGTERM and SIGINT are meant the second time they come: whoever doesn't want to wait for a
 * checkpoint, or for weights that are still being read, ends the process at once. SIGUSR1, which
 * launchers hand on, may come as often as they like. */
static void request_stop(int signal) {
    const struct sigaction at_once = {.sa_handler = SIG_DFL};
    stop_requested = 1;
    if (signal == SIGUSR1) return;
    sigaction(SIGTERM, &at_once, NULL);
    sigaction(SIGINT, &at_once, NULL);
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = request_stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

static enum status make_directory(const char *path) {
    char part[4096];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return status_fail(STATUS_IO, "train.out: %s: %s", part, strerror(errno));
        *slash = '/';
    }
    if (mkdir(part, 0777) != 0 && errno != EEXIST)
        return status_fail(STATUS_IO, "train.out: %s: %s", part, strerror(errno));
    return STATUS_OK;
}

/* Two runs in one directory would overwrite each other's checkpoints. The lock lasts as long as the
 * process; its descriptor is left to the system to close. */
static enum status lock_run(const char *out) {
    char path[4096];
    snprintf(path, sizeof path, "%s/lock", out);
    int descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    if (descriptor < 0) return status_fail(STATUS_IO, "%s: %s", path, strerror(errno));
    if (flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(descriptor);
        return status_fail(STATUS_CONFIG, "train.out: another process is training in %s", out);
    }
    return STATUS_OK; /* a file system without locks is no reason not to train */
}

/* RUN/config.yaml says what this run is, all defaults spelled out. */
static enum status store_config(const struct config_table *tables, const char *out) {
    char path[4096], *yaml = NULL;
    TRY(config_dump(tables, RUN_TABLES, &yaml));
    snprintf(path, sizeof path, "%s/config.yaml", out);
    enum status status = atomic_file_replace(path, yaml, strlen(yaml));
    free(yaml);
    return status;
}

#define MFU_PEAK                                                                                   \
    "peak: the best probe of fp32 multiply-adds on all threads, at start and between steps"

static void log_start(const struct trainer *t, const struct metrics *metrics) {
    struct trainer_memory m = trainer_memory(t);
    log_line(LOG_INFO,
             "event=start family=%s parameters=%lld trained=%lld ranks=%d threads=%d "
             "instructions=%s dtype=%s steps=%lld sequences=%lld from_step=%lld",
             model_family_name(t->model.config.family),
             (long long)model_config_parameters(&t->model.config), (long long)trainer_trained(t),
             t->parallel->world.size, t->threads, t->kernels->name,
             dtype_info(t->kernels->act)->name, (long long)t->steps,
             (long long)loader_sequences(t->train), (long long)t->step);
    log_line(LOG_INFO,
             "event=memory weights_mib=%.1f gradients_mib=%.1f optimizer_mib=%.1f "
             "activations_mib=%.1f scratch_mib=%.1f batches_mib=%.1f total_mib=%.1f",
             to_mib(m.weights + m.adapter), to_mib(m.gradients), to_mib(m.optimizer),
             to_mib(m.activations), to_mib(m.scratch), to_mib(m.batches),
             to_mib(trainer_memory_total(&m)));
    log_line(LOG_INFO, "event=mfu_convention flops_per_token=%.4g peak_gflops=%.1f text=\"%s\"",
             metrics->flops_per_token, metrics->peak_flops * 1e-9,
             t->trained ? "4 N' + 12 L H D s/2, N' without embedding look-up; " MFU_PEAK
                        : "6 N' + 12 L H D s/2, N' without embedding look-up; " MFU_PEAK);
    int64_t batch = t->options->train.global_batch, sequences = loader_sequences(t->train);
    if (batch > sequences && t->parallel->world.rank == 0)
        log_line(LOG_WARN,
                 "event=small_data global_batch=%lld sequences=%lld reason=\"a step uses sequences "
                 "more than once: lower train.global_batch or data.sequence_length\"",
                 (long long)batch, (long long)sequences);
}

static bool due(int64_t every, const struct trainer *t) {
    return t->step == t->steps || (every > 0 && t->step % every == 0);
}

/* Validates when it is time; *best says whether this is the lowest loss so far. */
static enum status validate_when_due(struct trainer *t, struct metrics *metrics, bool *best) {
    *best = false;
    if (!t->validation || !due(t->options->train.validate_every, t)) return STATUS_OK;
    double loss;
    TRY(trainer_validate(t, &loss));
    *best = loss < t->best_loss;
    if (*best) t->best_loss = loss;
    return parallel_agree(&t->parallel->world, metrics_validation(metrics, loss, *best));
}

static enum status train(struct trainer *t, struct metrics *metrics) {
    struct step_report report = {0};
    bool best = false;
    if (t->step == t->steps)
        log_line(LOG_INFO,
                 "event=finished step=%lld steps=%lld hint=\"the run was complete already: raise "
                 "train.%s to go on, or choose another train.out\"",
                 (long long)t->step, (long long)t->steps,
                 t->options->train.steps ? "steps" : "epochs");
    while (t->step < t->steps && !report.stop) {
        TRY(trainer_step(t, &report));
        TRY(parallel_agree(&t->parallel->world, metrics_step(metrics, &report)));
        TRY(validate_when_due(t, metrics, &best));
        if (best || report.stop || due(t->options->train.checkpoint_every, t))
            TRY(trainer_checkpoint(t, best));
    }
    if (report.stop && t->step < t->steps)
        return status_fail(STATUS_CANCELLED, "stopped at step %lld of %lld, checkpoint written",
                           (long long)t->step, (long long)t->steps);
    return STATUS_OK;
}

/* Where the tokenizer's files lie that go with an exported model; "" when nothing names one. */
static void tokenizer_folder(const struct run_options *o, char folder[4096]) {
    const char *path = *o->model.tokenizer ? o->model.tokenizer : o->model.path;
    struct stat found;
    snprintf(folder, 4096, "%s", path);
    if (!*path || (stat(folder, &found) == 0 && S_ISDIR(found.st_mode))) return;
    char *slash = strrchr(folder, '/');
    if (!slash) snprintf(folder, 4096, ".");
    if (slash) slash[slash == folder] = '\0'; /* a file of the root keeps its slash */
}

/* The result in a form that others read: a PEFT adapter, or a safetensors model. */
static enum status export_result(const struct trainer *t) {
    const struct run_options *o = t->options;
    if (!o->train.export_model || t->parallel->world.rank != 0) return STATUS_OK;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", o->train.out, t->trained ? "adapter" : "model");
    if (t->trained) {
        TRY(adapter_save(&t->adapter, path, o->model.path));
    } else {
        char companions[4096];
        tokenizer_folder(o, companions);
        const struct export_request request = {.model = &t->model,
                                               .format = EXPORT_SAFETENSORS,
                                               .dtype = t->model.config.dtype,
                                               .path = path,
                                               .companions = companions};
        TRY(export_model(&request));
    }
    log_line(LOG_INFO, "event=exported path=%s", log_value(&(struct log_text){0}, path));
    return STATUS_OK;
}

static enum status run(const struct run_options *options, const struct config_table *tables,
                       struct parallel *parallel) {
    TRY(run_options_check(options));
    enum status status = STATUS_OK;
    if (parallel->world.rank == 0) {
        status = make_directory(options->train.out);
        if (status == STATUS_OK) status = lock_run(options->train.out);
    }
    TRY(parallel_agree(&parallel->world, status));
    struct trainer trainer;
    struct metrics metrics = {0};
    TRY(trainer_open(&trainer, options, parallel));
    trainer.stop = &stop_requested;
    if (parallel->world.rank == 0) status = store_config(tables, options->train.out);
    if (status == STATUS_OK) status = metrics_open(&metrics, &trainer);
    status = parallel_agree(&parallel->world, status);
    if (status == STATUS_OK) {
        log_start(&trainer, &metrics);
        status = train(&trainer, &metrics);
    }
    metrics_close(&metrics);
    if (status == STATUS_OK) status = parallel_agree(&parallel->world, export_result(&trainer));
    trainer_close(&trainer);
    return status;
}

/* What a rank would allocate; nothing is read but configurations, nothing is written. */
static enum status print_plan(const struct run_options *options, const struct parallel *parallel) {
    struct trainer_memory m = {0};
    TRY(run_options_check(options));
    TRY(trainer_plan(options, parallel->world.size, &m));
    if (parallel->world.rank != 0) return STATUS_OK;
    const struct {
        const char *name;
        size_t bytes;
    } rows[] = {{"weights", m.weights},         {"adapter", m.adapter},
                {"gradients", m.gradients},     {"optimizer", m.optimizer},
                {"activations", m.activations}, {"scratch", m.scratch},
                {"batches", m.batches},         {"total", trainer_memory_total(&m)}};
    printf("%-12s %16s %12s\n", "arena", "bytes a rank", "MiB");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        printf("%-12s %16zu %12.1f\n", rows[i].name, rows[i].bytes, to_mib(rows[i].bytes));
    return STATUS_OK;
}

static void print_usage(FILE *out) {
    fprintf(
        out,
        "usage: strata train CONFIG.yaml [--dry-run] [key=value ...]   (in any order)\n\n"
        "Trains or fine-tunes as the run file says; docs/config.md lists its keys. Started\n"
        "plainly, by mpirun -n N, or by srun --mpi=pmix. A run that was interrupted goes on\n"
        "from its newest checkpoint when the same command is given again; SIGTERM, SIGINT and\n"
        "SIGUSR1 make it write one and exit with 75; a second SIGTERM or SIGINT ends it at once.\n"
        "Under mpirun send SIGUSR1: mpirun kills its ranks soon after the others.\n\n"
        "  --dry-run    print the bytes that a rank would allocate, and end\n");
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

static enum status train_or_plan(struct parallel *parallel, const struct arguments *arguments) {
    struct run_options options = {0};
    struct config_table tables[RUN_TABLES];
    run_options_tables(&options, tables);
    TRY(parallel_agree(&parallel->world, config_load(tables, RUN_TABLES, arguments->config,
                                                     arguments->settings, arguments->count)));
    enum status status = arguments->dry_run
                             ? parallel_agree(&parallel->world, print_plan(&options, parallel))
                             : run(&options, tables, parallel);
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
    if (!arguments.dry_run) catch_signals(); /* which has no checkpoint to write */
    enum status status = train_or_plan(&parallel, &arguments);
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
