#include "core/workspace.h"

#include <string.h>

static size_t count_activations(const struct model *model, enum dtype act,
                                const struct workspace_plan *plan) {
    struct arena counted;
    struct stage_acts acts;
    arena_count(&counted, "activations");
    struct comm tp;
    comm_open_nothing(&tp, "tp", model->shard.tp_rank, model->shard.tp_size);
    const struct exec exec = {.k = kernels_nothing(act), .tp = &tp, .sequence = plan->sequence};
    stage_acts_push(&acts, &counted, &exec, model, plan->tokens, plan->keep);
    return counted.peak;
}

void workspace_count(const struct model *model, enum dtype act, const struct workspace_plan *plan,
                     size_t *activation_bytes, size_t *scratch_bytes) {
    *activation_bytes = count_activations(model, act, plan);
    *scratch_bytes = stage_scratch_bytes(model, plan->adapter, act, plan->tokens, plan->logit_rows,
                                         plan->backward, plan->sequence);
}

enum status workspace_open(struct workspace *ws, const struct model *model,
                           const struct kernels *kernels, int threads, struct comm *tp,
                           const struct workspace_plan *plan) {
    memset(ws, 0, sizeof *ws);
    stream_open_cpu(&ws->stream, threads);
    comm_open_self(&ws->self, "tp");
    size_t held, scratch;
    workspace_count(model, kernels->act, plan, &held, &scratch);
    enum status status = arena_create(&ws->held, "activations", held);
    if (status == STATUS_OK) status = arena_create(&ws->scratch, "scratch", scratch);
    if (status != STATUS_OK) {
        workspace_close(ws);
        return status;
    }
    ws->exec =
        (struct exec){&ws->stream, kernels, tp ? tp : &ws->self, &ws->scratch, plan->sequence};
    stage_acts_push(&ws->acts, &ws->held, &ws->exec, model, plan->tokens, plan->keep);
    return STATUS_OK;
}

void workspace_close(struct workspace *ws) {
    arena_free(&ws->held);
    arena_free(&ws->scratch);
}
