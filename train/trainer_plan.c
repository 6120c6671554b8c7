/* What a run would allocate and do, without weights, tokens or other ranks. */
#define _GNU_SOURCE
#include "train/saves.h"
#include "train/stages.h"
#include "train/trainer_parts.h"

#include <stdlib.h>

/* What layouts ask of a communicator that is not open. */
static void place_replica(struct trainer *t) {
    t->comms.comm[MESH_CP] =
        (struct comm){.rank = t->place.at[MESH_CP], .size = t->mesh.size[MESH_CP]};
    t->comms.replicas =
        (struct comm){.rank = t->place.at[MESH_DP] * t->mesh.size[MESH_CP] + t->place.at[MESH_CP],
                      .size = t->mesh.size[MESH_CP] * t->mesh.size[MESH_DP]};
}

static enum status plan_parts(struct trainer *t, int rank, int ranks,
                              struct trainer_memory *memory) {
    struct arena weights, factors;
    arena_count(&weights, "weights");
    arena_count(&factors, "adapter");
    TRY(trainer_place(t, rank, ranks));
    place_replica(t);
    t->saves.behind = saves_want_snapshot(t->options);
    TRY(trainer_describe_model(t, &weights));
    if (trainer_zero(t) == 3) {
        arena_count(&weights, "weights");
        TRY(sharded_plan(&t->sharded, &t->model, &t->comms.replicas, &t->ws.stream, &weights));
    }
    TRY(stages_view(t));
    TRY(trainer_describe_adapter(t, &factors));
    TRY(trainer_list_trained(t));
    TRY(trainer_plan_microbatches(t));
    TRY(trainer_count_arenas(t, memory));
    struct workspace_parts parts;
    const struct workspace_plan plan = trainer_plan_workspace(t, &parts);
    TRY(workspace_count(&t->model, trainer_dtype(t), &plan, &memory->activations,
                        &memory->scratch));
    memory->scratch += trainer_sums_bytes(t, memory->gradients);
    memory->weights = weights.peak;
    memory->adapter = factors.peak;
    return STATUS_OK;
}

enum status trainer_plan_rank(const struct run_options *options, int rank, int ranks,
                              struct trainer_memory *memory) {
    struct trainer *t = calloc(1, sizeof *t);
    if (!t) return status_fail(STATUS_MEMORY, "no memory to plan a run");
    t->options = options;
    enum status status = plan_parts(t, rank, ranks, memory);
    trainer_close(t);
    free(t);
    return status;
}

enum status trainer_plan_stages(const struct run_options *options, int ranks,
                                struct trainer_memory *stages) {
    const struct parallel_options *o = &options->parallel;
    struct mesh mesh;
    TRY(mesh_create(&mesh, ranks, &(struct mesh_options){o->tp, o->cp, o->dp, o->pp, o->order}));
    for (int stage = 0; stage < mesh.size[MESH_PP]; stage++) {
        const struct mesh_place place = {
            /* no slice is larger than the last */
            .at = {[MESH_TP] = mesh.size[MESH_TP] - 1, [MESH_PP] = stage}};
        TRY(trainer_plan_rank(options, mesh_rank(&mesh, &place), ranks, &stages[stage]));
    }
    return STATUS_OK;
}

enum status trainer_plan(const struct run_options *options, int ranks,
                         struct trainer_memory *memory) {
    int64_t count = options->parallel.pp;
    struct trainer_memory *stages = calloc((size_t)count, sizeof *stages);
    if (!stages) return status_fail(STATUS_MEMORY, "no memory to plan a run");
    enum status status = trainer_plan_stages(options, ranks, stages);
    *memory = stages[0];
    for (int64_t i = 1; i < count; i++)
        if (trainer_memory_total(&stages[i]) > trainer_memory_total(memory)) *memory = stages[i];
    free(stages);
    return status;
}

static enum status plan_data(struct trainer *t, struct trainer_data *data) {
    struct arena weights, factors;
    arena_count(&weights, "weights");
    arena_count(&factors, "adapter");
    t->mesh = (struct mesh){.size = {1, 1, 1, 1}}; /* the whole model: only its shapes count */
    TRY(trainer_describe_model(t, &weights));
    TRY(trainer_describe_adapter(t, &factors));
    if (t->trained && *t->options->lora.init_from)
        TRY(adapter_check_file(t->trained, t->options->lora.init_from));
    TRY(trainer_open_data(t));
    trainer_plan_steps(t);
    trainer_warn(t);
    *data = (struct trainer_data){.steps = t->steps,
                                  .sequences = loader_sequences(t->train),
                                  .tokens = loader_inputs(t->train),
                                  .tokenizer_checked = t->tokenizer != NULL};
    if (!t->validation) return STATUS_OK;
    data->validation_sequences = loader_sequences(t->validation);
    data->validation_tokens = loader_inputs(t->validation);
    return STATUS_OK;
}

enum status trainer_plan_data(const struct run_options *options, struct trainer_data *data) {
    struct trainer *t = calloc(1, sizeof *t);
    if (!t) return status_fail(STATUS_MEMORY, "no memory to plan a run");
    t->options = options;
    enum status status = plan_data(t, data);
    trainer_close(t);
    free(t);
    return status;
}
