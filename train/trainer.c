/* Opening and closing a run; train/step.c is what it does. */
#define _GNU_SOURCE
#include "train/trainer.h"

#include "core/log.h"
#include "core/memory.h"
#include "kernels/base/units.h"
#include "train/checkpoints.h"
#include "train/saves.h"
#include "train/stages.h"
#include "train/trainer_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum status trainer_place(struct trainer *t, int rank, int ranks) {
    const struct parallel_options *o = &t->options->parallel;
    const struct mesh_options degrees = {o->tp, o->cp, o->dp, o->pp, o->order};
    TRY(mesh_create(&t->mesh, ranks, &degrees));
    t->place = mesh_place(&t->mesh, rank);
    return STATUS_OK;
}

static enum status open_parts(struct trainer *t) {
    const struct comm *world = &t->parallel->world;
    TRY(trainer_place(t, world->rank, world->size));
    const struct nccl *nccl;
    TRY(parallel_open_nccl(t->parallel, (enum parallel_backend)t->options->parallel.backend,
                           &nccl));
    TRY(mesh_open(&t->comms, &t->mesh, world, nccl));
    TRY(parallel_kernels(&t->parallel->world, &t->kernels, t->options->train.instructions,
                         trainer_dtype(t)));
    TRY(trainer_open_tensor_parallel(t));
    TRY(trainer_open_model(t));
    TRY(stages_view(t));
    TRY(trainer_open_adapter(t));
    TRY(trainer_list_trained(t));
    TRY(trainer_open_data(t));
    trainer_plan_steps(t);
    if (world->rank == 0) trainer_warn(t);
    TRY(trainer_plan_microbatches(t));
    if (t->options->train.trace_step) TRY(trace_open(&t->trace));
    return trainer_open_memory(t);
}

/* libgomp reads these once, before main: a program can't choose for itself. */
static bool waits_passively(void) {
    const char *policy = getenv("OMP_WAIT_POLICY"), *spins = getenv("GOMP_SPINCOUNT");
    return spins ? strcmp(spins, "0") == 0 : policy && strcasecmp(policy, "passive") == 0;
}

/* Threads that wait for others of their team spin, on CPUs that those others need when there are
 * more threads on the host than CPUs: a step then takes hundreds of times as long. Nothing that is
 * computed depends on their number, so a run gets no more than its share unless waiting threads
 * sleep. */
static int choose_threads(const struct train_options *o, const struct parallel *p) {
    int asked = o->threads ? (int)o->threads : p->threads;
    if (p->node_size * asked <= p->node_cpus) return asked;
    int share = p->node_cpus > p->node_size ? p->node_cpus / p->node_size : 1;
    int threads = asked > share && !waits_passively() ? share : asked;
    if (p->node_rank == 0)
        log_line(LOG_WARN,
                 "event=oversubscribed ranks_of_host=%d asked=%d threads=%d cpus=%d hint=\"%s\"",
                 p->node_size, asked, threads, p->node_cpus,
                 threads < asked ? "OMP_WAIT_POLICY=passive in the environment allows more"
                 : asked > 1     ? "leave train.threads at 0"
                                 : "start fewer ranks on this host");
    return threads;
}

/* STATUS_MEMORY where the ranks of a host would take more than it has, `bytes` of them this one. */
static enum status check_host(struct parallel *parallel, double bytes) {
    size_t available;
    double together = bytes;
    TRY(parallel_sum_of_host(parallel, &together));
    enum status status = STATUS_OK;
    if (memory_available("", &available) && together > (double)available)
        status = status_fail(
            STATUS_MEMORY,
            "the run needs %.1f MiB on this host (ranks: %d, this one %.1f MiB), where %.1f "
            "MiB are available: lower train.micro_batch or data.sequence_length, set "
            "train.recompute to selective or full, train.optimizer to adamw8bit, or train a smaller "
            "model",
            together / (1 << 20), parallel->node_size, bytes / (1 << 20), to_mib(available));
    return parallel_agree(&parallel->world, status);
}

/* A run that is too large would be killed by the system somewhere, without a word. One that fits
 * only without a snapshot waits for its checkpoints. Collective. */
static enum status check_memory(struct trainer *t) {
    struct trainer_memory memory;
    struct parallel *parallel = t->parallel;
    TRY(parallel_agree(&parallel->world, trainer_plan_rank(t->options, parallel->world.rank,
                                                           parallel->world.size, &memory)));
    double bytes = (double)trainer_memory_total(&memory);
    if (!*t->options->train.offload_path) bytes += (double)memory.offloaded;
    t->saves.behind = saves_want_snapshot(t->options);
    enum status status = check_host(parallel, bytes);
    if (status != STATUS_MEMORY || !t->saves.behind) return status;
    TRY(check_host(parallel, bytes - (double)memory.snapshot));
    t->saves.behind = false;
    if (parallel->world.rank == 0)
        log_line(LOG_WARN,
                 "event=checkpoint_sync snapshot_mib=%.1f reason=\"no memory for a copy of what is "
                 "saved: steps wait for checkpoints\"",
                 to_mib(memory.snapshot));
    return STATUS_OK;
}

enum status trainer_open(struct trainer *t, const struct run_options *options,
                         struct parallel *parallel) {
    memset(t, 0, sizeof *t);
    t->options = options;
    t->parallel = parallel;
    t->best_loss = INFINITY;
    t->threads = choose_threads(&options->train, parallel);
    /* agreed on before any rank takes what another one would then miss */
    enum status status = check_memory(t);
    if (status == STATUS_OK) status = parallel_agree(&parallel->world, open_parts(t));
    if (status == STATUS_OK)
        status =
            options->train.resume == RESUME_AUTO ? checkpoints_resume(t) : checkpoints_refuse(t);
    if (status != STATUS_OK) trainer_close(t);
    return status;
}

void trainer_close(struct trainer *t) {
    saves_close(t);
    if (t->parallel && t->parallel->world.rank == 0) checkpoint_claim_release(&t->claim);
    trace_close(&t->trace);
    free(t->slow.times);
    optimizer_free(&t->optimizer);
    outer_free(&t->outer);
    dp_free(&t->dp);
    tensor_parallel_close(&t->tensor);
    sharded_free(&t->sharded);
    pipeline_free(&t->pipeline);
    free(t->parts);
    workspace_close(&t->ws);
    arena_free(&t->gradients);
    arena_free(&t->optimizer_state);
    arena_free(&t->offloaded);
    arena_free(&t->batches);
    loader_close(t->train);
    loader_close(t->validation);
    tokenizer_close(t->tokenizer);
    if (t->trained) adapter_free(&t->adapter);
    model_free(&t->model);
    free(t->params);
    free(t->micro);
    free(t->cuts);
    mesh_close(&t->comms);
    memset(t, 0, sizeof *t);
}
