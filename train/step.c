/* One optimizer step, and validation. */
#define _GNU_SOURCE
#include "core/log.h"
#include "kernels/base/clock.h"
#include "kernels/base/units.h"
#include "train/observe.h"
#include "train/safety.h"
#include "train/schedule.h"
#include "train/stages.h"
#include "train/trainer_parts.h"

#include <math.h>
#include <string.h>

int64_t trainer_cursor(const struct trainer *t) {
    return t->step * t->options->train.global_batch + t->data_offset;
}

/* My sequences of the step, a microbatch at a time. The last ones may be empty. */
static enum status read_microbatches(struct trainer *t) {
    int64_t batch = t->options->train.global_batch;
    struct loader_share mine = loader_share(batch, t->place.at[MESH_DP], t->mesh.size[MESH_DP]);
    int64_t first = trainer_cursor(t) + mine.first, left = mine.count;
    for (int i = 0; i < t->micro_count; i++) {
        int64_t count = min_i64(left, t->micro_sequences);
        TRY(loader_read(t->train, first, count, &t->micro[i]));
        context_cut(&t->cuts[i], &t->micro[i]);
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

/* The ranks of a replica read the same batches: one of them counts the tokens, and one of the last
 * stage, which alone knows the losses, counts those. */
static bool counts_tokens(const struct trainer *t) {
    return t->place.at[MESH_TP] == 0 && t->place.at[MESH_PP] == 0;
}

static bool counts_losses(const struct trainer *t) {
    return t->place.at[MESH_TP] == 0 && t->model.shard.head;
}

/* Replicas whose losses and norms are averaged, and not summed. */
static double averaged(const struct trainer *t) {
    return trainer_steps_alone(t) ? (double)t->mesh.size[MESH_DP] : 1.0;
}

static double replica_weight(struct trainer *t) {
    double sum = 0.0;
    for (int i = 0; i < t->micro_count; i++) sum += t->micro[i].weight_sum;
    comm_all_reduce(&t->comms.comm[MESH_CP], &t->ws.stream, &sum, 1, DTYPE_F64, COMM_SUM);
    return sum;
}

/* The loss is sum of weighted token losses / sum of weights over the whole global batch, or over
 * the replica's share of it in a step that it takes alone: divides my weights by that sum. */
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
    TRY(loader_check_trained(t->train, (int64_t)sums[SUM_TARGETS], t->step + 1, trainer_cursor(t),
                             batch));
    double whole = trainer_steps_alone(t) ? replica_weight(t) : sums[SUM_WEIGHT];
    float scale = whole > 0.0 ? (float)(1.0 / whole) : 0.0f;
    for (int i = 0; i < t->micro_count; i++)
        for (int64_t j = 0; j < t->micro[i].tokens; j++) t->micro[i].weights[j] *= scale;
    report->tokens = (int64_t)sums[SUM_TOKENS];
    return STATUS_OK;
}

static void look_for_stop(struct trainer *t, const struct model *part,
                          const struct stage_acts *acts, int64_t tokens, void *context) {
    (void)part, (void)acts, (void)tokens, (void)context;
    stop_asked(t);
}

static double run_microbatches(struct trainer *t) {
    struct stages_walk walk = {
        .trainer = t, .batches = t->micro, .training = true, .visit = look_for_stop};
    struct trace_span span = trace_begin_phase(&t->trace, TRACE_OPTIMIZER);
    dp_zero(&t->dp);
    trace_end(&t->trace, &span);
    stages_train(&walk);
    tensor_parallel_finish(&t->tensor);
    dp_finish(&t->dp);
    stages_sum_tied(t);
    return walk.loss;
}

/* Stages have different tensors. */
static double gradient_norm(struct trainer *t) {
    double sum = optimizer_square_sum(&t->optimizer, &t->ws.exec);
    comm_all_reduce(&t->comms.comm[MESH_PP], &t->ws.stream, &sum, 1, DTYPE_F64, COMM_SUM);
    return sqrt(sum);
}

/* Of replicas that step alone; not finite where any is not. */
static double mean_norm(struct trainer *t, double own) {
    double sum = own;
    if (!trainer_steps_alone(t)) return own;
    comm_all_reduce(&t->comms.comm[MESH_DP], &t->ws.stream, &sum, 1, DTYPE_F64, COMM_SUM);
    return sum / averaged(t);
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
    double sums[2] = {counts_losses(t) ? mine / averaged(t) : 0.0, stop_asked(t) ? 1.0 : 0.0};
    comm_all_reduce(&t->parallel->world, &t->ws.stream, sums, 2, DTYPE_F64, COMM_SUM);
    report->loss = sums[0];
    report->stop = sums[1] > 0.0;
    if (report->stop) say_stop(t);
}

static float clip_scale(const struct trainer *t, double norm) {
    double clip = t->options->train.clip;
    return clip > 0.0 && norm > clip ? (float)(clip / norm) : 1.0f;
}

static void update_weights(struct trainer *t, const struct step_report *report, double norm) {
    const struct train_options *o = &t->options->train;
    const struct optimizer_step update = {.lr = report->lr,
                                          .beta1 = o->beta1,
                                          .beta2 = o->beta2,
                                          .eps = o->eps,
                                          .weight_decay = o->weight_decay,
                                          .step = report->step,
                                          .grad_scale = clip_scale(t, norm)};
    struct trace_span span = trace_begin_phase(&t->trace, TRACE_OPTIMIZER);
    optimizer_update(&t->optimizer, &t->ws.exec, &update);
    trace_end(&t->trace, &span);
    t->tokens += report->tokens;
}

/* Every sync_every steps, and at the end. */
static void meet_replicas(struct trainer *t) {
    const struct parallel_options *o = &t->options->parallel;
    if (!trainer_steps_alone(t) || (t->step % o->sync_every != 0 && t->step != t->steps)) return;
    struct trace_span span = trace_begin_phase(&t->trace, TRACE_OPTIMIZER);
    outer_step(&t->outer, &t->comms.comm[MESH_DP], &t->ws.stream, o->outer_lr, o->outer_momentum);
    trace_end(&t->trace, &span);
}

static enum status take_step(struct trainer *t, struct step_report *report) {
    double start = clock_seconds();
    *report = (struct step_report){.step = t->step + 1};
    struct trace_span span = trace_begin_phase(&t->trace, TRACE_DATA);
    enum status read = read_microbatches(t);
    trace_end(&t->trace, &span);
    TRY(normalise_weights(t, read, report));
    double mine = run_microbatches(t);
    sum_loss(t, mine, report);
    span = trace_begin_phase(&t->trace, TRACE_OPTIMIZER);
    double norm = gradient_norm(t);
    report->gradient_norm = mean_norm(t, norm);
    trace_end(&t->trace, &span);
    take_first_ranks_figures(t, report);
    TRY(safety_judge(t, report, mine));
    report->lr = schedule_rate(&t->options->train, report->step, t->steps);
    if (report->verdict == GUARD_TAKE)
        update_weights(t, report, trainer_steps_alone(t) ? norm : report->gradient_norm);
    t->step++;
    meet_replicas(t);
    report->seconds = clock_seconds() - start;
    return stream_check(&t->ws.stream);
}

enum status trainer_step(struct trainer *t, struct step_report *report) {
    observe_begin(t);
    enum status status = take_step(t, report);
    observe_end(t);
    return status;
}

/* The next micro_count microbatches of the validation set, of which `left` sequences from `first`
 * on are mine. All ranks agree before the stages wait for each other. */
static enum status validate_round(struct trainer *t, int64_t first, int64_t left, double sums[2]) {
    struct stages_walk walk = {.trainer = t, .batches = t->micro, .visit = look_for_stop};
    enum status status = STATUS_OK;
    for (int i = 0; i < t->micro_count; i++) {
        int64_t count = max_i64(0, min_i64(left, t->micro_sequences));
        status = loader_read(t->validation, first, count, &t->micro[i]);
        if (status != STATUS_OK) break;
        context_cut(&t->cuts[i], &t->micro[i]);
        if (counts_tokens(t) && count > 0) sums[1] += t->micro[i].weight_sum;
        first += count;
        left -= count;
    }
    TRY(parallel_agree(&t->parallel->world, status));
    stages_forward(&walk);
    if (counts_losses(t)) sums[0] += walk.loss;
    return stream_check(&t->ws.stream);
}

enum status trainer_validate(struct trainer *t, double *loss) {
    int64_t sequences = loader_sequences(t->validation),
            round = t->micro_count * t->micro_sequences;
    struct loader_share mine = loader_share(sequences, t->place.at[MESH_DP], t->mesh.size[MESH_DP]);
    int64_t most = loader_share(sequences, 0, t->mesh.size[MESH_DP]).count;
    double sums[2] = {0.0, 0.0}; /* weighted losses, weights */
    enum status status = STATUS_OK;
    for (int64_t i = 0; i < most && status == STATUS_OK; i += round)
        status = parallel_agree(&t->parallel->world,
                                validate_round(t, mine.first + i, mine.count - i, sums));
    TRY(status);
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
