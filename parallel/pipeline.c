#include "parallel/pipeline.h"

#include <stdlib.h>

static int count_gradients(const struct schedule *schedule) {
    bool receives = false, sends = false;
    for (int i = 0; i < schedule->count; i++) {
        const struct action *action = &schedule->actions[i];
        if (action->kind == ACTION_FORWARD) continue;
        receives |= schedule_receives(schedule, action);
        sends |= schedule_sends(schedule, action);
    }
    return 1 + receives + sends;
}

enum status pipeline_plan(struct pipeline *pipeline, const struct schedule_shape *shape, int stage,
                          enum dtype dtype, int64_t elements, struct arena *arena) {
    struct schedule *schedule = &pipeline->schedule;
    *pipeline = (struct pipeline){.dtype = dtype};
    TRY(schedule_create(schedule, shape, stage));
    size_t inputs = (size_t)schedule->inputs, sets = (size_t)schedule->sets;
    pipeline->inputs = calloc(inputs, sizeof *pipeline->inputs);
    pipeline->arriving = calloc(inputs, sizeof *pipeline->arriving);
    pipeline->leaving = calloc(sets, sizeof *pipeline->leaving);
    if (!pipeline->inputs || !pipeline->arriving || !pipeline->leaving) {
        pipeline_free(pipeline);
        return status_fail(STATUS_MEMORY, "no memory for a pipeline of %zu batches", sets);
    }
    pipeline->gradient_count = count_gradients(schedule);
    for (int i = 0; i < pipeline->gradient_count; i++)
        pipeline->gradients[i] = arena_push(arena, dtype_bytes(dtype, (size_t)elements));
    return STATUS_OK;
}

void pipeline_free(struct pipeline *pipeline) {
    schedule_free(&pipeline->schedule);
    free(pipeline->inputs);
    free(pipeline->arriving);
    free(pipeline->leaving);
    *pipeline = (struct pipeline){0};
}

/* A run through the actions. */
struct run {
    struct pipeline *pipeline;
    const struct pipeline_calls *calls;
};

static int gradient_of(const struct pipeline *pipeline, int backward) {
    return backward % pipeline->gradient_count;
}

static int64_t elements_of(const struct run *run, const struct action *action) {
    return run->calls->elements(run->calls->context, action->microbatch);
}

/* The first forward, or backward that sends and receives, from `index` on. */
static const struct action *find(const struct pipeline *pipeline, int index, bool forward) {
    for (int i = index; i < pipeline->schedule.count; i++) {
        const struct action *action = &pipeline->schedule.actions[i];
        if (action->kind != ACTION_BACKWARD_WEIGHT && (action->kind == ACTION_FORWARD) == forward)
            return action;
    }
    return NULL;
}

/* The neighbour below (-1) or above (1). */
static int neighbour(const struct pipeline *pipeline, int way) {
    int stages = pipeline->schedule.shape.stages;
    return (pipeline->schedule.stage + stages + way) % stages;
}

static void receive_input(struct run *run, const struct action *action) {
    struct pipeline *p = run->pipeline;
    if (!action || !schedule_receives(&p->schedule, action)) return;
    if (elements_of(run, action) == PIPELINE_EMPTY) return;
    comm_start_recv(p->up, p->stream, p->inputs[action->input], elements_of(run, action), p->dtype,
                    neighbour(p, -1), &p->arriving[action->input]);
}

/* The gradient of the backward of that number. */
static void receive_gradient(struct run *run, const struct action *action, int backward) {
    struct pipeline *p = run->pipeline;
    if (!action || !schedule_receives(&p->schedule, action)) return;
    if (elements_of(run, action) == PIPELINE_EMPTY) return;
    int i = gradient_of(p, backward);
    comm_wait(p->down, p->stream, &p->d_leaving[i]);
    comm_start_recv(p->down, p->stream, p->gradients[i], elements_of(run, action), p->dtype,
                    neighbour(p, 1), &p->d_arriving[i]);
}

static void forward(struct run *run, int index) {
    struct pipeline *p = run->pipeline;
    const struct action *action = &p->schedule.actions[index];
    int64_t elements = elements_of(run, action);
    receive_input(run, find(p, index + 1, true));
    if (elements == PIPELINE_EMPTY) return;
    comm_wait(p->up, p->stream, &p->arriving[action->input]);
    comm_wait(p->up, p->stream, &p->leaving[action->set]);
    const void *output = run->calls->forward(run->calls->context, action, p->inputs[action->input]);
    if (schedule_sends(&p->schedule, action))
        comm_start_send(p->up, p->stream, output, elements, p->dtype, neighbour(p, 1),
                        &p->leaving[action->set]);
}

static void backward(struct run *run, int index) {
    struct pipeline *p = run->pipeline;
    const struct action *action = &p->schedule.actions[index];
    int64_t elements = elements_of(run, action);
    int i = gradient_of(p, p->backwards++);
    receive_gradient(run, find(p, index + 1, false), p->backwards);
    if (elements == PIPELINE_EMPTY) return;
    comm_wait(p->down, p->stream, &p->d_arriving[i]);
    comm_wait(p->down, p->stream, &p->d_leaving[i]);
    run->calls->backward(run->calls->context, action, p->gradients[i]);
    if (schedule_sends(&p->schedule, action))
        comm_start_send(p->down, p->stream, p->gradients[i], elements, p->dtype, neighbour(p, -1),
                        &p->d_leaving[i]);
}

static void backward_weight(struct run *run, int index) {
    const struct action *action = &run->pipeline->schedule.actions[index];
    if (elements_of(run, action) == PIPELINE_EMPTY) return;
    run->calls->backward(run->calls->context, action, NULL);
}

static void finish(struct pipeline *pipeline) {
    for (int i = 0; i < pipeline->schedule.sets; i++)
        comm_wait(pipeline->up, pipeline->stream, &pipeline->leaving[i]);
    for (int i = 0; i < pipeline->gradient_count; i++)
        comm_wait(pipeline->down, pipeline->stream, &pipeline->d_leaving[i]);
}

void pipeline_run(struct pipeline *pipeline, const struct pipeline_calls *calls,
                  enum pipeline_part part) {
    struct run run = {pipeline, calls};
    const struct schedule *schedule = &pipeline->schedule;
    pipeline->backwards = 0;
    receive_input(&run, find(pipeline, 0, true));
    if (part == PIPELINE_TRAIN) receive_gradient(&run, find(pipeline, 0, false), 0);
    for (int i = 0; i < schedule->count; i++) {
        enum action_kind kind = schedule->actions[i].kind;
        if (kind == ACTION_FORWARD)
            forward(&run, i);
        else if (part == PIPELINE_FORWARD_ONLY)
            continue;
        else if (kind == ACTION_BACKWARD_WEIGHT)
            backward_weight(&run, i);
        else
            backward(&run, i);
    }
    finish(pipeline);
}

void pipeline_poke(struct pipeline *pipeline) {
    for (int i = 0; i < pipeline->schedule.inputs; i++)
        comm_test(pipeline->up, pipeline->stream, &pipeline->arriving[i]);
    for (int i = 0; i < pipeline->schedule.sets; i++)
        comm_test(pipeline->up, pipeline->stream, &pipeline->leaving[i]);
    for (int i = 0; i < pipeline->gradient_count; i++) {
        comm_test(pipeline->down, pipeline->stream, &pipeline->d_arriving[i]);
        comm_test(pipeline->down, pipeline->stream, &pipeline->d_leaving[i]);
    }
}
