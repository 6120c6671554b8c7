/* The training loop and what stands around it; train/step.c is one step. */
#define _GNU_SOURCE
#include "train/train.h"

#include "core/log.h"
#include "kernels/base/units.h"
#include "train/metrics.h"
#include "train/observe.h"
#include "train/result.h"
#include "train/run_directory.h"
#include "train/safety.h"
#include "train/saves.h"

#include <math.h>
#include <stdio.h>

#define MFU_PEAK                                                                                   \
    "peak: the best probe of fp32 multiply-adds on all threads, at start and between steps"

/* The newest losses; NaN before there is one. */
struct losses {
    double training, validation;
    bool best; /* validation is the lowest so far, and was just found */
};

static void log_memory(const struct trainer *t) {
    struct trainer_memory m = trainer_memory(t);
    log_line(LOG_INFO,
             "event=memory weights_mib=%.1f gradients_mib=%.1f optimizer_mib=%.1f "
             "activations_mib=%.1f scratch_mib=%.1f batches_mib=%.1f snapshot_mib=%.1f "
             "total_mib=%.1f",
             to_mib(m.weights + m.adapter), to_mib(m.gradients), to_mib(m.optimizer),
             to_mib(m.activations), to_mib(m.scratch), to_mib(m.batches), to_mib(m.snapshot),
             to_mib(trainer_memory_total(&m)));
}

static void log_start(const struct trainer *t, const struct metrics *metrics) {
    log_line(LOG_INFO,
             "event=start family=%s parameters=%lld trained=%lld ranks=%d threads=%d "
             "zero=%d instructions=%s dtype=%s steps=%lld sequences=%lld from_step=%lld",
             model_family_name(t->model.config.family),
             (long long)model_config_parameters(&t->model.config), (long long)t->trained_elements,
             t->parallel->world.size, t->threads, t->dp.zero, t->kernels->name,
             dtype_info(t->kernels->act)->name, (long long)t->steps,
             (long long)loader_sequences(t->train), (long long)t->step);
    log_memory(t);
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
    if (t->step == t->steps)
        log_line(LOG_INFO,
                 "event=finished step=%lld steps=%lld hint=\"the run was complete already: raise "
                 "train.%s to go on, or choose another train.out\"",
                 (long long)t->step, (long long)t->steps,
                 t->options->train.steps ? "steps" : "epochs");
}

/* Far above ln(vocabulary), the loss of a model that knows nothing and says so, the model has
 * become sure of what is wrong: the steps are done, and the result is of no use. */
static void warn_if_diverged(const struct trainer *t, const struct losses *losses) {
    double uniform = log((double)t->model.config.vocab), limit = uniform + 1.0;
    bool diverged = losses->training > limit || losses->validation > limit;
    if (!diverged || t->parallel->world.rank != 0) return;
    char validation[32] = "none";
    if (!isnan(losses->validation))
        snprintf(validation, sizeof validation, "%.4f", losses->validation);
    log_line(LOG_WARN,
             "event=diverged step=%lld loss=%.4f validation_loss=%s uniform_loss=%.4f "
             "hint=\"worse than guessing among the %lld tokens: lower train.lr, or raise "
             "train.warmup\"",
             (long long)t->step, losses->training, validation, uniform,
             (long long)t->model.config.vocab);
}

static bool due(int64_t every, const struct trainer *t) {
    return t->step == t->steps || (every > 0 && t->step % every == 0);
}

static bool checkpoint_due(const struct trainer *t) {
    int64_t every = t->options->train.checkpoint_every;
    return every >= 0 && due(every, t);
}

static enum status validate_when_due(struct trainer *t, struct metrics *metrics,
                                     struct losses *losses) {
    losses->best = false;
    if (!t->validation || !due(t->options->train.validate_every, t)) return STATUS_OK;
    double loss;
    struct trace_span span = trace_begin_phase(&t->trace, TRACE_VALIDATION);
    TRY(trainer_validate(t, &loss));
    trace_end(&t->trace, &span);
    losses->validation = loss;
    losses->best = loss < t->best_loss;
    if (losses->best) t->best_loss = loss;
    return parallel_agree(&t->parallel->world, metrics_validation(metrics, loss, losses->best));
}

/* Nobody trains on after the last one. */
static enum status checkpoint(struct trainer *t, const struct step_report *report, bool best) {
    struct trace_span span = trace_begin_phase(&t->trace, TRACE_CHECKPOINT);
    TRY(saves_begin(t, best, report->stop || t->step == t->steps));
    trace_end(&t->trace, &span);
    if (t->guard.high == 0) t->rewinds = 0;
    return STATUS_OK;
}

/* Lines of the steps that are undone go, as they do when an interrupted run goes on. Where there
 * was nothing to go back to, report->rewind is taken back. */
static enum status rewind_run(struct trainer *t, struct metrics *metrics,
                              struct step_report *report) {
    struct rewind rewind;
    TRY(safety_rewind(t, report, &rewind));
    return report->rewind ? parallel_agree(&t->parallel->world, metrics_rewind(metrics, &rewind))
                          : STATUS_OK;
}

static enum status train(struct trainer *t, struct metrics *metrics) {
    struct step_report report = {0};
    struct losses losses = {.training = NAN, .validation = NAN};
    while (t->step < t->steps && !report.stop) {
        TRY(trainer_step(t, &report));
        losses.training = report.loss;
        TRY(parallel_agree(&t->parallel->world, metrics_step(metrics, &report)));
        TRY(saves_poll(t));
        if (report.rewind) TRY(rewind_run(t, metrics, &report));
        if (report.rewind) continue;
        TRY(validate_when_due(t, metrics, &losses));
        if (losses.best || report.stop || checkpoint_due(t))
            TRY(checkpoint(t, &report, losses.best));
        TRY(observe_slow_ranks(t));
        TRY(observe_trace(t));
    }
    if (t->step < t->steps)
        return status_fail(STATUS_CANCELLED, "stopped at step %lld of %lld, checkpoint written",
                           (long long)t->step, (long long)t->steps);
    warn_if_diverged(t, &losses);
    return STATUS_OK;
}

/* A verdict on the numbers is every rank's, and the checkpoint from before is what is left to go on
 * from. */
static enum status settle_after(struct trainer *t, enum status verdict) {
    char message[1024];
    snprintf(message, sizeof message, "%s", status_message());
    if (saves_settle(t) != STATUS_OK)
        log_line(LOG_WARN, "event=checkpoint_lost reason=%s",
                 log_value(&(struct log_text){0}, status_message()));
    return status_fail(verdict, "%s", message);
}

static enum status train_with(struct trainer *t, const struct config_table *tables) {
    struct metrics metrics = {0};
    struct comm *world = &t->parallel->world;
    enum status status = STATUS_OK;
    if (world->rank == 0) status = run_directory_store_config(t->options->train.out, tables);
    if (status == STATUS_OK) status = metrics_open(&metrics, t);
    status = parallel_agree(world, status);
    if (status == STATUS_OK) {
        log_start(t, &metrics);
        status = train(t, &metrics);
        if (status == STATUS_NUMERIC) status = settle_after(t, status);
    }
    metrics_close(&metrics);
    return status == STATUS_OK ? parallel_agree(world, result_export(t)) : status;
}

enum status train_run(const struct run_options *options, const struct config_table *tables,
                      struct parallel *parallel, const volatile sig_atomic_t *stop) {
    TRY(run_options_check(options));
    enum status status = STATUS_OK;
    if (parallel->world.rank == 0) status = run_directory_take(options->train.out);
    TRY(parallel_agree(&parallel->world, status));
    TRY(parallel_watch(parallel, options->parallel.watchdog, options->train.out));
    struct trainer trainer;
    TRY(trainer_open(&trainer, options, parallel));
    trainer.stop = stop;
    status = train_with(&trainer, tables);
    trainer_close(&trainer);
    return status;
}
