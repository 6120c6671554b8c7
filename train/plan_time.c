#include "train/plan_time.h"

#include "parallel/split_layers.h"
#include "train/plan_layer.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* Costs of virtual stages, layers of each, and when stages end. */
struct work {
    int parts;
    int *first;                       /* (parts + 1) */
    double *layer;                    /* (layers): what the cut goes by */
    double *forward, *input, *weight; /* (parts) */
    double *ends;                     /* (stages) */
};

static void work_free(struct work *work) {
    free(work->first);
    free(work->layer);
    free(work->forward);
    free(work->ends);
    *work = (struct work){0};
}

static enum status work_create(struct work *work, int parts, int layers) {
    *work = (struct work){.parts = parts};
    work->first = calloc((size_t)parts + 1, sizeof *work->first);
    work->layer = calloc((size_t)layers, sizeof *work->layer);
    work->forward = calloc(3 * (size_t)parts, sizeof *work->forward);
    work->ends = calloc((size_t)parts, sizeof *work->ends);
    if (!work->first || !work->layer || !work->forward || !work->ends) {
        work_free(work);
        return status_fail(STATUS_MEMORY, "no memory to time %d stages", parts);
    }
    work->input = work->forward + parts;
    work->weight = work->input + parts;
    return STATUS_OK;
}

int64_t plan_microbatches(const struct plan_layout *layout) {
    int64_t replicas = layout->mesh.size[MESH_DP];
    int64_t share = (layout->global_batch + replicas - 1) / replicas;
    return (share + layout->micro_batch - 1) / layout->micro_batch;
}

static int chunks_of(const struct plan_layout *layout) {
    return layout->mesh.size[MESH_PP] > 1 ? layout->chunks : 1;
}

/* As train/stages.c cuts them. */
static enum status cut_layers(const struct plan_place *p, struct work *work) {
    const struct plan_model *model = p->model;
    if (work->parts == 1) {
        work->first[1] = model->layers;
        return STATUS_OK;
    }
    double reach = (double)p->layout->length / 2.0;
    for (int i = 0; i < model->layers; i++)
        work->layer[i] = plan_layer_parameters(model) + 2.0 * model->q * reach;
    const struct split_costs costs = {.head = model->hidden * model->vocab, .layer = work->layer};
    return split_layers(work->first, model->layers, work->parts, &costs);
}

static enum status run_pipeline(const struct plan_place *p, struct work *work,
                                struct cost_pipeline *pipeline, struct plan_time *time) {
    const struct mesh *mesh = &p->layout->mesh;
    struct plan_cost layer = plan_layer_cost(p), head = plan_head_cost(p);
    int stages = mesh->size[MESH_PP], most = 0;
    int64_t microbatches = plan_microbatches(p->layout);
    for (int i = 0; i < work->parts; i++) {
        int layers = work->first[i + 1] - work->first[i];
        bool last = i == work->parts - 1;
        work->forward[i] = layers * layer.forward + (last ? head.forward : 0.0);
        work->input[i] = layers * layer.input + (last ? head.input : 0.0);
        work->weight[i] = layers * layer.weight + (last ? head.weight : 0.0);
        most = layers > most ? layers : most;
    }
    struct cost_link link = cost_hop_link(&p->network, mesh, MESH_PP);
    const struct schedule_costs costs = {
        work->forward, work->input, work->weight,
        cost_collective(COST_SEND, stages, plan_message_bytes(p), &link)};
    const struct schedule_shape shape = {
        .kind = stages > 1 ? (enum schedule_kind)p->layout->schedule : PIPELINE_1F1B,
        .stages = stages,
        .microbatches = (int)microbatches,
        .chunks = chunks_of(p->layout)};
    TRY(cost_pipeline(pipeline, work->ends, &shape, &costs));
    time->tensor = (double)microbatches * most * chunks_of(p->layout) * layer.tensor;
    time->pipeline = pipeline->seconds;
    time->bubble = pipeline->seconds - pipeline->busiest;
    return STATUS_OK;
}

/* Sums, update and sending of what a stage trains, after its last backward; those of its gradients
 * begin with that. */
struct ending {
    double sums, update, sending;
};

static struct ending end_stage(const struct plan_place *p, const struct work *work, int stage) {
    const struct plan_layout *o = p->layout;
    const struct mesh *mesh = &o->mesh;
    int stages = mesh->size[MESH_PP], ranks = mesh->size[MESH_DP] * mesh->size[MESH_CP];
    bool lora = p->model->lora_rank > 0.0;
    double trained = 0.0, forward = 0.0, backward = 0.0;
    for (int part = stage; part < work->parts; part += stages) {
        trained += (work->first[part + 1] - work->first[part]) * plan_local_trained(p);
        forward += work->forward[part];
        backward += work->input[part] + work->weight[part];
    }
    int words = (stage == 0) + (stage == stages - 1 && !(p->model->tied && stages == 1));
    if (!lora) trained += words * plan_local_words(p);
    struct cost_link link = cost_group_link(&p->network, mesh, 1u << MESH_DP | 1u << MESH_CP);
    double bytes = trained * p->habits->gradient_bytes, hides = p->device->replica_overlap;
    double sum =
        cost_collective(o->zero ? COST_REDUCE_SCATTER : COST_ALL_REDUCE, ranks, bytes, &link);
    double gather =
        o->zero == 0 || o->zero == 3
            ? 0.0
            : cost_collective(COST_ALL_GATHER, ranks, trained * p->habits->gathered_bytes, &link);
    if (o->zero >= 2) sum = 0.0; /* within the layers, every microbatch */
    double share = o->zero ? ranks : 1.0, cleared = o->zero >= 2 ? share : 1.0;
    double moved =
        trained * (p->habits->optimizer_bytes / share + p->habits->clearing_bytes / cleared);
    return (struct ending){
        .sums = fmax(0.0, sum - hides * backward),
        .update =
            plan_update_seconds(p->device, moved, trained * p->habits->offloaded_bytes / share),
        .sending = fmax(0.0, gather - (p->habits->gathers_hidden ? hides * forward : 0.0))};
}

/* The step ends when its last stage does. */
static void end_step(const struct plan_place *p, const struct work *work, struct plan_time *time) {
    int stages = p->layout->mesh.size[MESH_PP];
    for (int stage = 0; stage < stages; stage++) {
        struct ending e = end_stage(p, work, stage);
        double end = work->ends[stage] + e.sums + e.update + e.sending;
        if (end <= time->seconds) continue;
        time->seconds = end;
        time->replicas = e.sums + e.sending;
        time->optimizer = e.update;
    }
}

enum status plan_time(struct plan_time *time, const struct plan_device *device,
                      const struct plan_model *model, const struct plan_habits *habits,
                      const struct plan_layout *layout) {
    assert(layout->micro_batch > 0 && layout->global_batch > 0);
    const struct mesh *mesh = &layout->mesh;
    const struct plan_place place = {.device = device,
                                     .model = model,
                                     .habits = habits,
                                     .layout = layout,
                                     .network = plan_network(device, layout->per_node),
                                     .tokens = (double)(layout->micro_batch * layout->length) /
                                               mesh->size[MESH_CP],
                                     .tp = mesh->size[MESH_TP]};
    struct work work;
    struct cost_pipeline pipeline;
    *time = (struct plan_time){0};
    TRY(work_create(&work, mesh->size[MESH_PP] * chunks_of(layout), model->layers));
    enum status status = cut_layers(&place, &work);
    if (status == STATUS_OK) status = run_pipeline(&place, &work, &pipeline, time);
    if (status == STATUS_OK) end_step(&place, &work, time);
    work_free(&work);
    TRY(status);
    double tokens = (double)layout->global_batch * (double)layout->length;
    time->tokens_per_second = tokens / time->seconds;
    time->mfu = tokens * plan_training_flops(model, (double)layout->length) /
                (time->seconds * mesh_ranks(mesh) * plan_device_flops(device, habits->bf16));
    return STATUS_OK;
}
