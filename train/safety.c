#define _GNU_SOURCE
#include "train/safety.h"

#include "core/log.h"
#include "train/checkpoints.h"
#include "train/diagnose.h"

#include <math.h>

/* fabs: a NaN's sign says nothing and would be printed. */
static enum status end_run(struct trainer *t, const struct step_report *report,
                           const struct diagnosis *diagnosis) {
    struct comm *world = &t->parallel->world;
    bool nonfinite = report->verdict == GUARD_NONFINITE;
    if (world->rank != diagnosis->rank) return parallel_agree(world, STATUS_OK);
    return parallel_agree(
        world, status_fail(STATUS_NUMERIC, "step %lld: loss %g, gradient norm %g%s: the %s is %s",
                           (long long)report->step, fabs(report->loss), fabs(report->gradient_norm),
                           t->guard.skipped > 1 ? ", and the steps before it were skipped" : "",
                           nonfinite ? "first tensor that is not finite" : "largest tensor",
                           diagnosis->tensor));
}

static void tell(const struct trainer *t, const struct step_report *report, double median,
                 const struct diagnosis *diagnosis) {
    if (t->parallel->world.rank != diagnosis->rank) return;
    log_line(LOG_WARN,
             "event=step_skipped step=%lld reason=%s loss=%.6f grad_norm=%.4f median=%.4f "
             "in_a_row=%lld tensor=%s",
             (long long)report->step, guard_verdict_name(report->verdict), fabs(report->loss),
             fabs(report->gradient_norm), fabs(median), (long long)t->guard.skipped,
             log_value(&(struct log_text){0}, diagnosis->tensor));
}

enum status safety_judge(struct trainer *t, struct step_report *report, double loss) {
    const struct train_options *o = &t->options->train;
    const struct guard_limits limits = {o->spike_factor,
                                        o->rewind_after > 0 ? o->rewind_factor : 0.0};
    double median = guard_median(&t->guard.norms);
    struct diagnosis diagnosis;
    enum status status = stream_check(&t->ws.stream);
    if (status == STATUS_PEER) return status; /* nobody left to agree with */
    report->verdict = guard_judge(&t->guard, &limits, report->loss, report->gradient_norm);
    report->rewind = o->rewind_after > 0 && t->guard.high == o->rewind_after;
    bool nonfinite = report->verdict == GUARD_NONFINITE;
    bool stop = nonfinite && o->on_nonfinite == NONFINITE_STOP;
    if (nonfinite && status == STATUS_NUMERIC) status = STATUS_OK; /* that is the NaN */
    if (!stop) TRY(parallel_agree(&t->parallel->world, status));
    if (report->verdict == GUARD_TAKE) return STATUS_OK;
    TRY(nonfinite ? diagnose_nonfinite(t, loss, &diagnosis) : diagnose_largest(t, &diagnosis));
    if (stop || t->guard.skipped > o->max_skipped) return end_run(t, report, &diagnosis);
    tell(t, report, median, &diagnosis);
    return STATUS_OK;
}

enum status safety_rewind(struct trainer *t, struct step_report *report, struct rewind *rewind) {
    int64_t below = t->step - t->guard.high + 1, cursor = trainer_cursor(t), step;
    bool first = t->parallel->world.rank == 0;
    *rewind = (struct rewind){.from = t->step};
    if (t->rewinds == SAFETY_REWINDS)
        return status_fail(STATUS_NUMERIC,
                           "step %lld: the loss is %g, too high for train.rewind_after %lld steps, "
                           "also after going back %d times",
                           (long long)t->step, fabs(report->loss),
                           (long long)t->options->train.rewind_after, t->rewinds);
    TRY(checkpoints_rewind(t, below, &step));
    report->rewind = step >= 0;
    if (step < 0 && first)
        log_line(LOG_WARN, "event=no_rewind step=%lld reason=\"no checkpoint before step %lld\"",
                 (long long)t->step, (long long)below);
    if (step < 0) return STATUS_OK;
    rewind->to = step;
    rewind->first_sample = trainer_cursor(t);
    rewind->samples = cursor - rewind->first_sample;
    t->data_offset += rewind->samples;
    t->rewinds++;
    if (first)
        log_line(LOG_WARN, "event=rewind step=%lld to=%lld first_sample=%lld samples=%lld",
                 (long long)rewind->from, (long long)step, (long long)rewind->first_sample,
                 (long long)rewind->samples);
    return STATUS_OK;
}
