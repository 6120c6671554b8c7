#include "parallel/schedule_simulate.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* Where each stage stands. `when` (virtual stage, microbatch, direction) is the time from which an
 * action has what it needs of its neighbour, NAN before it is known; `posted`
 * the number of the action with which its stage begins to wait for it. */
struct walk {
    const struct schedule *schedules;
    const struct schedule_costs *costs;
    enum schedule_send send;
    struct schedule_timeline *timeline;
    int *next;      /* (stages) */
    bool *computed; /* (stages): the next action has computed and waits for its send */
    double *when, *done;
    int *posted;
};

static size_t cell(const struct walk *walk, int virtual_stage, int microbatch, bool forward) {
    size_t m = (size_t)walk->schedules->shape.microbatches;
    return ((size_t)virtual_stage * m + (size_t)microbatch) * 2 + forward;
}

static double cost_of(const struct walk *walk, const struct action *action, int stage) {
    switch (action->kind) {
    case ACTION_FORWARD:
        return walk->costs->forward[stage];
    case ACTION_BACKWARD_INPUT:
        return walk->costs->input[stage];
    case ACTION_BACKWARD_WEIGHT:
        return walk->costs->weight[stage];
    default:
        return walk->costs->input[stage] + walk->costs->weight[stage];
    }
}

/* When the stage was free for action `index`; its past is known. */
static double free_at(const struct walk *walk, int stage, int index) {
    return index > 0 ? walk->timeline->events[stage][index - 1].freed : 0.0;
}

/* NAN when something that the action needs has no time yet. */
static double ready_at(const struct walk *walk, const struct schedule *schedule,
                       const struct action *action) {
    int stage = schedule_virtual_stage(schedule, action->chunk);
    bool forward = action->kind == ACTION_FORWARD;
    double ready = 0.0;
    if (schedule_receives(schedule, action))
        ready = walk->when[cell(walk, stage, action->microbatch, forward)];
    if (forward) return ready;
    bool after_forward = action->kind != ACTION_BACKWARD_WEIGHT;
    double own = walk->done[cell(walk, stage, action->microbatch, after_forward)];
    return isnan(own) || isnan(ready) ? NAN : fmax(own, ready);
}

static bool compute(struct walk *walk, int stage) {
    const struct schedule *schedule = &walk->schedules[stage];
    const struct action *action = &schedule->actions[walk->next[stage]];
    struct schedule_event *event = &walk->timeline->events[stage][walk->next[stage]];
    int virtual_stage = schedule_virtual_stage(schedule, action->chunk);
    double ready = ready_at(walk, schedule, action);
    if (isnan(ready)) return false;
    event->start = fmax(ready, free_at(walk, stage, walk->next[stage]));
    event->end = event->freed = event->start + cost_of(walk, action, virtual_stage);
    if (action->kind != ACTION_BACKWARD_WEIGHT)
        walk->done[cell(walk, virtual_stage, action->microbatch, action->kind == ACTION_FORWARD)] =
            event->end;
    walk->computed[stage] = true;
    return true;
}

/* False while a blocking send waits for a receiver whose time is not known yet. */
static bool deliver(struct walk *walk, int stage) {
    const struct schedule *schedule = &walk->schedules[stage];
    const struct action *action = &schedule->actions[walk->next[stage]];
    struct schedule_event *event = &walk->timeline->events[stage][walk->next[stage]];
    if (schedule_sends(schedule, action)) {
        bool forward = action->kind == ACTION_FORWARD;
        int to = schedule_virtual_stage(schedule, action->chunk) + (forward ? 1 : -1);
        int peer = to % schedule->shape.stages;
        size_t message = cell(walk, to, action->microbatch, forward);
        double arrives = event->end + (peer == stage ? 0.0 : walk->costs->transfer);
        if (walk->send == SEND_BLOCKING && peer != stage) {
            int posted = walk->posted[message];
            if (walk->next[peer] < posted) return false;
            arrives = fmax(event->end, free_at(walk, peer, posted)) + walk->costs->transfer;
            event->freed = arrives;
        }
        walk->when[message] = arrives;
    }
    walk->computed[stage] = false;
    walk->next[stage]++;
    return true;
}

/* As far as the stage comes; whether that was anywhere. */
static bool advance(struct walk *walk, int stage) {
    bool moved = false;
    while (walk->next[stage] < walk->schedules[stage].count) {
        if (!walk->computed[stage] && !compute(walk, stage)) break;
        if (!deliver(walk, stage)) break; /* computing alone lets nobody else go on */
        moved = true;
    }
    return moved;
}

static enum status run(struct walk *walk) {
    int stages = walk->schedules->shape.stages;
    for (bool moved = true; moved;) {
        moved = false;
        for (int stage = 0; stage < stages; stage++) moved |= advance(walk, stage);
    }
    for (int stage = 0; stage < stages; stage++) {
        if (walk->next[stage] == walk->schedules[stage].count) continue;
        const struct action *action = &walk->schedules[stage].actions[walk->next[stage]];
        return status_fail(
            STATUS_CONFIG,
            "the schedule deadlocks: stage %d waits %s %c of microbatch %d, chunk %d", stage,
            walk->computed[stage] ? "to send" : "for", action_letter(action->kind),
            action->microbatch, action->chunk);
    }
    return STATUS_OK;
}

static void measure(struct schedule_timeline *timeline, const struct schedule *schedules) {
    double first = INFINITY, last = 0.0;
    for (int stage = 0; stage < timeline->stages; stage++) {
        double busy = 0.0;
        for (int i = 0; i < schedules[stage].count; i++) {
            const struct schedule_event *event = &timeline->events[stage][i];
            busy += event->end - event->start;
            first = fmin(first, event->start);
            last = fmax(last, event->end);
        }
        timeline->busiest = fmax(timeline->busiest, busy);
    }
    timeline->seconds = last - first;
}

/* Finds when each message is waited for and forgets all times. */
static void prepare(struct walk *walk, size_t cells) {
    for (size_t i = 0; i < cells; i++) walk->when[i] = walk->done[i] = NAN;
    for (int stage = 0; stage < walk->schedules->shape.stages; stage++) {
        const struct schedule *schedule = &walk->schedules[stage];
        int before[2] = {0, 0}; /* the action before, of each direction */
        for (int i = 0; i < schedule->count; i++) {
            const struct action *action = &schedule->actions[i];
            bool forward = action->kind == ACTION_FORWARD;
            if (action->kind == ACTION_BACKWARD_WEIGHT) continue;
            walk->posted[cell(walk, schedule_virtual_stage(schedule, action->chunk),
                              action->microbatch, forward)] = before[forward];
            before[forward] = i;
        }
    }
}

static enum status create(struct schedule_timeline *timeline, const struct schedule *schedules) {
    int stages = schedules->shape.stages;
    *timeline = (struct schedule_timeline){.stages = stages};
    timeline->events = calloc((size_t)stages, sizeof *timeline->events);
    bool whole = timeline->events;
    for (int stage = 0; stage < stages && whole; stage++) {
        timeline->events[stage] =
            calloc((size_t)schedules[stage].count, sizeof *timeline->events[stage]);
        whole = timeline->events[stage];
    }
    if (whole) return STATUS_OK;
    schedule_timeline_free(timeline);
    return status_fail(STATUS_MEMORY, "no memory for the timeline of %d stages", stages);
}

enum status schedule_simulate(struct schedule_timeline *timeline, const struct schedule *schedules,
                              const struct schedule_costs *costs, enum schedule_send send) {
    const struct schedule_shape *shape = &schedules->shape;
    TRY(create(timeline, schedules));
    size_t stages = (size_t)shape->stages;
    size_t cells = stages * (size_t)shape->chunks * (size_t)shape->microbatches * 2;
    struct walk walk = {.schedules = schedules, .costs = costs, .send = send, .timeline = timeline};
    walk.next = calloc(stages, sizeof *walk.next);
    walk.computed = calloc(stages, sizeof *walk.computed);
    walk.when = calloc(cells, sizeof *walk.when);
    walk.done = calloc(cells, sizeof *walk.done);
    walk.posted = calloc(cells, sizeof *walk.posted);
    enum status status = STATUS_OK;
    if (walk.next && walk.computed && walk.when && walk.done && walk.posted) {
        prepare(&walk, cells);
        status = run(&walk);
    } else {
        status = status_fail(STATUS_MEMORY, "no memory to simulate %zu stages", stages);
    }
    free(walk.next);
    free(walk.computed);
    free(walk.when);
    free(walk.done);
    free(walk.posted);
    if (status == STATUS_OK)
        measure(timeline, schedules);
    else
        schedule_timeline_free(timeline);
    return status;
}

void schedule_timeline_free(struct schedule_timeline *timeline) {
    for (int stage = 0; stage < timeline->stages && timeline->events; stage++)
        free(timeline->events[stage]);
    free(timeline->events);
    *timeline = (struct schedule_timeline){0};
}
