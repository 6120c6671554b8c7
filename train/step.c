/* One optimizer step, and validation. */
#define _GNU_SOURCE
#include "core/log.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"
#include "train/diagnose.h"
#include "train/observe.h"
#include "train/schedule.h"
#include "train/trainer.h"

#include <math.h>
#include <string.h>

/* My sequences of the step, a microbatch at a time. The last ones may be empty. */
static enum status read_microbatches(struct trainer *t) {
    int64_t batch = t->options->train.global_batch;
    struct loader_share mine = loader_share(batch, t->place.at[MESH_DP], t->mesh.size[MESH_DP]);
    int64_t first = t->step * batch + mine.first, left = mine.count;
    for (int i = 0; i < t->micro_count; i++) {
        int64_t count = min_i64(left, t->micro_sequences);
        TRY(loader_read(t->train, first, count, &t->micro[i]));
        first += count;
        left -= count;
    }
    return STATUS_OK;
}

static void say_stop(struct trainer *t) {
    if (t->stop_said) return;
    log_line(LOG_INFO,
             "event=stopping step=%lld text=\"finishing the step, then checkpoint; a second "
             "SIGTERM or SIGINT ends at once\"",
             (long long)t->step + 1);
    t->stop_said = true;
}

/* Looked at often, so that whoever asks is answered before a long step ends. */
static bool stop_asked(struct trainer *t) {
    if (!t->stop || !*t->stop) return false;
    say_stop(t);
    return true;
}

/* What the ranks add up before a step. */
enum { SUM_WEIGHT, SUM_TARGETS, SUM_TOKENS, SUM_FAILED, SUMS };

/* Tensor-parallel ranks have the same tokens, and the same losses: one of them counts. */
static bool counts_tokens(const struct trainer *t) {
    return t->place.at[MESH_TP] == 0;
}

/* The loss is sum of weighted token losses / sum of weights over the whole global batch: divides my
 * weights by that sum. */
static enum status normalise_weights(struct trainer *t, enum status mine,
                                     struct step_report *report) {
    double sums[SUMS] = {[SUM_FAILED] = mine != STATUS_OK};
    for (int i = 0; i < t->micro_count && mine == STATUS_OK && counts_tokens(t); i++) {
        sums[SUM_WEIGHT] += t->micro[i].weight_sum;
        sums[SUM_TARGETS] += (double)t->micro[i].trained;
        sums[SUM_TOKENS] += (double)t->micro[i].tokens;
    }
    comm_all_reduce(&t->parallel->world, &t->ws.stream, sums, SUMS, DTYPE_F64, COMM_SUM);
    TRY(stream_check(&t->ws.stream));
    if (sums[SUM_FAILED] > 0.0) return parallel_agree(&t->parallel->world, mine);
    int64_t batch = t->options->train.global_batch;
    TRY(loader_check_trained(t->train, (int64_t)sums[SUM_TARGETS], t->step + 1, t->step * batch,
                             batch));
    float scale = (float)(1.0 / sums[SUM_WEIGHT]);
    for (int i = 0; i < t->micro_count; i++)
        for (int64_t j = 0; j < t->micro[i].tokens; j++) t->micro[i].weights[j] *= scale;
    report->tokens = (int64_t)sums[SUM_TOKENS];
    return STATUS_OK;
}

/* What the layers see of a batch; `span` must live as long. */
static struct batch view_batch(const struct trainer *t, const struct loader_batch *micro,
                               struct adapter_span *span, bool training) {
    struct batch batch = loader_batch_view(micro);
    *span = (struct adapter_span){0, batch.tokens, t->trained};
    batch.spans = span;
    batch.span_count = t->trained ? 1 : 0;
    batch.training = training;
    batch.dropout_seed = (uint64_t)t->options->train.seed;
    return batch;
}

void trainer_forward(struct trainer *t, const struct loader_batch *micro) {
    struct adapter_span span;
    const struct batch batch = view_batch(t, micro, &span, true);
    stage_forward(&t->ws.exec, &t->model, &batch, &t->ws.acts);
}

/* The gradients of a layer are complete here. */
static void reduce_layer(void *context, int layer) {
    struct trainer *t = context;
    tensor_parallel_layer_done(&t->tensor, layer);
    dp_layer_done(&t->dp, layer);
}

static struct trace_span begin_layers(const struct trainer *t, enum trace_kind kind, int index) {
    const struct shard *shard = &t->model.shard;
    return trace_begin(&t->trace, kind, index, shard->first_layer, shard->end_layer);
}

static void run_microbatch(struct trainer *t, int index, double *loss) {
    bool last = index == t->micro_count - 1;
    struct adapter_span span;
    if (t->micro[index].tokens == 0) return;
    const struct batch batch = view_batch(t, &t->micro[index], &span, true);
    t->ws.stream.where.microbatch = index;
    struct trace_span trace = begin_layers(t, TRACE_FORWARD, index);
    stage_forward(&t->ws.exec, &t->model, &batch, &t->ws.acts);
    trace_end(&t->trace, &trace);
    trace = trace_begin(&t->trace, TRACE_LOSS, index, TRACE_NONE, TRACE_NONE);
    head_loss(&t->ws.exec, &t->model, &batch, t->ws.acts.hidden, t->d_hidden, loss, NULL);
    trace_end(&t->trace, &trace);
    trace = begin_layers(t, TRACE_BACKWARD, index);
    stage_backward(&t->ws.exec, &t->model, &batch, &t->ws.acts, t->d_hidden,
                   last ? reduce_layer : NULL, t);
    trace_end(&t->trace, &trace);
    t->ws.stream.where = (struct where){0};
}

/* Ranks must stop together: the failure of one becomes everybody's. The sums that all ranks share
 * are not finite when anything on one rank isn't. */
static enum status agree_on_numbers(struct trainer *t, const struct step_report *report,
                                    double loss) {
    enum status status = stream_check(&t->ws.stream);
    if (status == STATUS_PEER) return status; /* nobody left to agree with */
    if (!isfinite(report->loss) || !isfinite(report->gradient_norm))
        return diagnose_nonfinite(t, report, loss);
    return parallel_agree(&t->parallel->world, status);
}

/* Ranks decide by these figures, and must decide alike; that a sum over ranks has the same last bit
 * on all of them is a habit of MPI libraries, not a promise. */
static void take_first_ranks_figures(struct trainer *t, struct step_report *report) {
    double figures[2] = {report->loss, report->gradient_norm};
    comm_broadcast(&t->parallel->world, &t->ws.stream, figures, 2, DTYPE_F64, 0);
    report->loss = figures[0];
    report->gradient_norm = figures[1];
}

/* The loss, and whether any rank was asked to stop. */
static void sum_loss(struct trainer *t, double mine, struct step_report *report) {
    double sums[2] = {counts_tokens(t) ? mine : 0.0, stop_asked(t) ? 1.0 : 0.0};
    comm_all_reduce(&t->parallel->world, &t->ws.stream, sums, 2, DTYPE_F64, COMM_SUM);
    report->loss = sums[0];
    report->stop = sums[1] > 0.0;
    if (report->stop) say_stop(t);
}

static float clip_scale(const struct trainer *t, double norm) {
    double clip = t->options->train.clip;
    return clip > 0.0 && norm > clip ? (float)(clip / norm) : 1.0f;
}

static enum status take_step(struct trainer *t, struct step_report *report) {
    const struct train_options *o = &t->options->train;
    double start = clock_seconds();
    *report = (struct step_report){.step = t->step + 1};
    struct trace_span span = trace_begin_phase(&t->trace, TRACE_DATA);
    enum status read = read_microbatches(t);
    trace_end(&t->trace, &span);
    TRY(normalise_weights(t, read, report));
    span = trace_begin_phase(&t->trace, TRACE_OPTIMIZER);
    dp_zero(&t->dp);
    trace_end(&t->trace, &span);
    double mine = 0.0;
    for (int i = 0; i < t->micro_count; i++) {
        run_microbatch(t, i, &mine);
        stop_asked(t);
    }
    tensor_parallel_finish(&t->tensor);
    dp_finish(&t->dp);
    sum_loss(t, mine, report);
    span = trace_begin_phase(&t->trace, TRACE_OPTIMIZER);
    report->gradient_norm = optimizer_gradient_norm(&t->optimizer, &t->ws.exec);
    trace_end(&t->trace, &span);
    take_first_ranks_figures(t, report);
    TRY(agree_on_numbers(t, report, mine));

    report->lr = schedule_rate(o, report->step, t->steps);
    const struct optimizer_step update = {.lr = report->lr,
                                          .beta1 = o->beta1,
                                          .beta2 = o->beta2,
                                          .eps = o->eps,
                                          .weight_decay = o->weight_decay,
                                          .step = report->step,
                                          .grad_scale = clip_scale(t, report->gradient_norm)};
    span = trace_begin_phase(&t->trace, TRACE_OPTIMIZER);
    optimizer_update(&t->optimizer, &t->ws.exec, &update);
    trace_end(&t->trace, &span);
    t->step++;
    t->tokens += report->tokens;
    report->seconds = clock_seconds() - start;
    return stream_check(&t->ws.stream);
}

enum status trainer_step(struct trainer *t, struct step_report *report) {
    observe_begin(t);
    enum status status = take_step(t, report);
    observe_end(t);
    return status;
}

static enum status validate_batch(struct trainer *t, int64_t first, int64_t count, double sums[2]) {
    struct loader_batch *micro = &t->micro[0];
    struct adapter_span span;
    TRY(parallel_agree(&t->comms.comm[MESH_TP], /* who share a layer go on together */
                       loader_read(t->validation, first, count, micro)));
    const struct batch batch = view_batch(t, micro, &span, false);
    t->ws.stream.where.microbatch = WHERE_NO_MICROBATCH;
    stage_forward(&t->ws.exec, &t->model, &batch, &t->ws.acts);
    head_loss(&t->ws.exec, &t->model, &batch, t->ws.acts.hidden, NULL, &sums[0], NULL);
    t->ws.stream.where = (struct where){0};
    sums[1] += micro->weight_sum;
    return stream_check(&t->ws.stream);
}

enum status trainer_validate(struct trainer *t, double *loss) {
    struct loader_share mine =
        loader_share(loader_sequences(t->validation), t->place.at[MESH_DP], t->mesh.size[MESH_DP]);
    double sums[2] = {0.0, 0.0}; /* weighted losses, weights */
    enum status status = STATUS_OK;
    for (int64_t i = 0; i < mine.count && status == STATUS_OK; i += t->micro_sequences) {
        int64_t left = mine.count - i;
        status = validate_batch(t, mine.first + i, min_i64(left, t->micro_sequences), sums);
        stop_asked(t);
    }
    TRY(parallel_agree(&t->parallel->world, status));
    if (!counts_tokens(t)) sums[0] = sums[1] = 0.0;
    comm_all_reduce(&t->parallel->world, &t->ws.stream, sums, 2, DTYPE_F64, COMM_SUM);
    TRY(stream_check(&t->ws.stream));
    if (!(sums[1] > 0.0))
        return status_fail(STATUS_FORMAT,
                           "data.validation: no token of its %lld sequences has a loss weight "
                           "above 0",
                           (long long)loader_sequences(t->validation));
    *loss = sums[0] / sums[1];
    return STATUS_OK;
}
