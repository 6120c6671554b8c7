#include "core/workspace.h"

#include "core/sequence.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* One set: room for the largest part, as the parts take turns in it. */
static void push_set(struct stage_acts *acts, struct arena *arena, const struct exec *exec,
                     const struct workspace_parts *parts, const struct workspace_plan *plan,
                     const struct block_acts *work) {
    const struct acts_plan layout = {.tokens = plan->tokens,
                                     .keep = plan->keep,
                                     .weights_later = plan->weights_later,
                                     .work = work};
    size_t mark = arena_mark(arena), end = mark;
    for (int i = 0; i < parts->count; i++) {
        arena_release(arena, mark);
        stage_acts_push(&acts[i], arena, exec, &parts->models[i], &layout);
        assert(acts[i].input == acts[0].input);
        if (arena_mark(arena) > end) end = arena_mark(arena);
    }
    arena_push(arena, end - arena_mark(arena));
}

/* All sets. What is recomputed lies once: it is used by one batch at a time. */
static enum status push_sets(struct workspace *ws, struct arena *arena, const struct exec *exec,
                             const struct model *model, const struct workspace_plan *plan) {
    const struct workspace_parts whole = {1, model, 1, 1};
    const struct workspace_parts *parts = plan->parts ? plan->parts : &whole;
    assert(parts->inputs == parts->sets || parts->inputs == parts->sets + 1);
    ws->sets = calloc((size_t)(parts->sets * parts->count), sizeof *ws->sets);
    if (!ws->sets)
        return status_fail(STATUS_MEMORY, "no memory for the lists of %d sets of activations",
                           parts->sets);
    for (int i = 0; i < parts->sets; i++)
        push_set(&ws->sets[i * parts->count], arena, exec, parts, plan,
                 i > 0 && plan->keep < ACTS_ALL ? &ws->sets[0].work : NULL);
    if (parts->inputs > parts->sets)
        ws->input = arena_push(
            arena, act_bytes(exec, sequence_part(exec, plan->tokens).room * model->config.hidden));
    ws->acts = ws->sets[0];
    return STATUS_OK;
}

static size_t count_scratch(const struct model *model, enum dtype act,
                            const struct workspace_plan *plan) {
    const struct workspace_parts whole = {1, model, 1, 1};
    const struct workspace_parts *parts = plan->parts ? plan->parts : &whole;
    size_t most = 0;
    for (int i = 0; i < parts->count; i++) {
        size_t bytes =
            stage_scratch_bytes(&parts->models[i], plan->adapter, act, plan->tokens,
                                plan->logit_rows, plan->backward, plan->sequence, plan->context);
        if (bytes > most) most = bytes;
    }
    return most;
}

enum status workspace_count(const struct model *model, enum dtype act,
                            const struct workspace_plan *plan, size_t *activation_bytes,
                            size_t *scratch_bytes) {
    struct arena counted;
    struct workspace *ws = calloc(1, sizeof *ws);
    if (!ws) return status_fail(STATUS_MEMORY, "no memory to count a workspace");
    arena_count(&counted, "activations");
    struct comm tp;
    comm_open_nothing(&tp, "tp", model->shard.tp_rank, model->shard.tp_size);
    const struct exec exec = {.k = kernels_nothing(act), .tp = &tp, .sequence = plan->sequence};
    enum status status = push_sets(ws, &counted, &exec, model, plan);
    free(ws->sets);
    free(ws);
    TRY(status);
    *activation_bytes = counted.peak;
    *scratch_bytes = count_scratch(model, act, plan);
    return STATUS_OK;
}

enum status workspace_open(struct workspace *ws, const struct model *model,
                           const struct kernels *kernels, int threads, struct comm *tp,
                           const struct workspace_plan *plan) {
    memset(ws, 0, sizeof *ws);
    stream_open_cpu(&ws->stream, threads);
    comm_open_self(&ws->self, "tp");
    size_t held, scratch;
    TRY(workspace_count(model, kernels->act, plan, &held, &scratch));
    enum status status = arena_create(&ws->held, "activations", held);
    if (status == STATUS_OK) status = arena_create(&ws->scratch, "scratch", scratch);
    ws->exec = (struct exec){.stream = &ws->stream,
                             .k = kernels,
                             .tp = tp ? tp : &ws->self,
                             .scratch = &ws->scratch,
                             .sequence = plan->sequence};
    if (status == STATUS_OK) status = push_sets(ws, &ws->held, &ws->exec, model, plan);
    if (status != STATUS_OK) workspace_close(ws);
    return status;
}

void workspace_close(struct workspace *ws) {
    arena_free(&ws->held);
    arena_free(&ws->scratch);
    free(ws->sets);
    ws->sets = NULL;
}
