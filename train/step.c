/* One optimizer step, and validation. */
#define _GNU_SOURCE
#include "train/diagnose.h"
#include "train/schedule.h"
#include "train/trainer.h"

#include <math.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* My sequences of the step, a microbatch at a time. The last ones may be empty. */
static enum status read_microbatches(struct trainer *t) {
    const struct comm *world = &t->parallel->world;
    int64_t batch = t->options->train.global_batch;
    struct loader_share mine = loader_share(batch, world->rank, world->size);
    int64_t first = t->step * batch + mine.first, left = mine.count;
    for (int i = 0; i < t->micro_count; i++) {
        int64_t count = left < t->micro_sequences ? left : t->micro_sequences;
        TRY(loader_read(t->train, first, count, &t->micro[i]));
        first += count;
        left -= count;
    }
    return STATUS_OK;
}

/* What the ranks add up before a step. */
enum { SUM_WEIGHT, SUM_TARGETS, SUM_TOKENS, SUM_FAILED, SUM_STOP, SUMS };

/* The loss is sum of weighted token losses / sum of weights over the whole global batch: divides my
 * weights by that sum. */
static enum status normalise_weights(struct trainer *t, enum status mine,
                                     struct step_report *report) {
    double sums[SUMS] = {
        [SUM_FAILED] = mine != STATUS_OK, [SUM_STOP] = t->stop && *t->stop ? 1.0 : 0.0};
    for (int i = 0; i < t->micro_count && mine == STATUS_OK; i++) {
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
    report->stop = sums[SUM_STOP] > 0.0;
    return STATUS_OK;
}

static void run_microbatch(struct trainer *t, int index, double *loss) {
    const struct loader_batch *micro = &t->micro[index];
    bool last = index == t->micro_count - 1;
    if (micro->tokens == 0) return;
    struct batch batch = loader_batch_view(micro);
    const struct adapter_span span = {0, batch.tokens, t->trained};
    batch.spans = &span;
    batch.span_count = t->trained ? 1 : 0;
    batch.training = true;
    batch.dropout_seed = (uint64_t)t->options->train.seed;
    stage_forward(&t->ws.exec, &t->model, &batch, &t->ws.acts);
    head_loss(&t->ws.exec, &t->model, &batch, t->ws.acts.hidden, t->d_hidden, loss, NULL);
    stage_backward(&t->ws.exec, &t->model, &batch, &t->ws.acts, t->d_hidden,
                   last ? dp_layer_done : NULL, &t->dp);
}

/* Ranks must stop together: the failure of one becomes everybody's. */
static enum status agree_on_numbers(struct trainer *t, const struct step_report *report) {
    enum status status = stream_check(&t->ws.stream);
    bool finite = isfinite(report->loss) && isfinite(report->gradient_norm);
    if (status == STATUS_NUMERIC || (status == STATUS_OK && !finite))
        status = diagnose_nonfinite(t, report);
    return parallel_agree(&t->parallel->world, status);
}

static float clip_scale(const struct trainer *t, double norm) {
    double clip = t->options->train.clip;
    return clip > 0.0 && norm > clip ? (float)(clip / norm) : 1.0f;
}

enum status trainer_step(struct trainer *t, struct step_report *report) {
    const struct train_options *o = &t->options->train;
    double start = now();
    *report = (struct step_report){.step = t->step + 1};
    TRY(normalise_weights(t, read_microbatches(t), report));
    dp_zero(&t->dp);
    for (int i = 0; i < t->micro_count; i++) run_microbatch(t, i, &report->loss);
    dp_finish(&t->dp);
    comm_all_reduce(&t->parallel->world, &t->ws.stream, &report->loss, 1, DTYPE_F64, COMM_SUM);
    report->gradient_norm = optimizer_gradient_norm(&t->optimizer, &t->ws.exec);
    TRY(agree_on_numbers(t, report));

    report->lr = schedule_rate(o, report->step, t->steps);
    const struct optimizer_step update = {.lr = report->lr,
                                          .beta1 = o->beta1,
                                          .beta2 = o->beta2,
                                          .eps = o->eps,
                                          .weight_decay = o->weight_decay,
                                          .step = report->step,
                                          .grad_scale = clip_scale(t, report->gradient_norm)};
    optimizer_update(&t->optimizer, &t->ws.exec, &update);
    t->step++;
    t->tokens += report->tokens;
    report->seconds = now() - start;
    return stream_check(&t->ws.stream);
}

static enum status validate_batch(struct trainer *t, int64_t first, int64_t count, double sums[2]) {
    struct loader_batch *micro = &t->micro[0];
    TRY(loader_read(t->validation, first, count, micro));
    struct batch batch = loader_batch_view(micro);
    const struct adapter_span span = {0, batch.tokens, t->trained};
    batch.spans = &span;
    batch.span_count = t->trained ? 1 : 0;
    stage_forward(&t->ws.exec, &t->model, &batch, &t->ws.acts);
    head_loss(&t->ws.exec, &t->model, &batch, t->ws.acts.hidden, NULL, &sums[0], NULL);
    sums[1] += micro->weight_sum;
    return stream_check(&t->ws.stream);
}

enum status trainer_validate(struct trainer *t, double *loss) {
    const struct comm *world = &t->parallel->world;
    struct loader_share mine =
        loader_share(loader_sequences(t->validation), world->rank, world->size);
    double sums[2] = {0.0, 0.0}; /* weighted losses, weights */
    enum status status = STATUS_OK;
    for (int64_t i = 0; i < mine.count && status == STATUS_OK; i += t->micro_sequences) {
        int64_t left = mine.count - i;
        status = validate_batch(t, mine.first + i,
                                left < t->micro_sequences ? left : t->micro_sequences, sums);
    }
    TRY(parallel_agree(&t->parallel->world, status));
    comm_all_reduce(&t->parallel->world, &t->ws.stream, sums, 2, DTYPE_F64, COMM_SUM);
    *loss = sums[0] / sums[1];
    return stream_check(&t->ws.stream);
}
