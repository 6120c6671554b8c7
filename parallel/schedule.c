#include "parallel/schedule.h"

#include <assert.h>
#include <stdlib.h>

const char *const pipeline_schedule_words[] = {"gpipe", "1f1b", "interleaved", "zb-h1", NULL};

char action_letter(enum action_kind kind) {
    return "FBIW"[kind];
}

static int last_virtual_stage(const struct schedule *schedule) {
    return schedule->shape.stages * schedule->shape.chunks - 1;
}

bool schedule_receives(const struct schedule *schedule, const struct action *action) {
    int stage = schedule_virtual_stage(schedule, action->chunk);
    if (action->kind == ACTION_FORWARD) return stage > 0;
    return action->kind != ACTION_BACKWARD_WEIGHT && stage < last_virtual_stage(schedule);
}

bool schedule_sends(const struct schedule *schedule, const struct action *action) {
    int stage = schedule_virtual_stage(schedule, action->chunk);
    if (action->kind == ACTION_FORWARD) return stage < last_virtual_stage(schedule);
    return action->kind != ACTION_BACKWARD_WEIGHT && stage > 0;
}

static int min_int(int a, int b) {
    return a < b ? a : b;
}

static void push(struct schedule *schedule, enum action_kind kind, int microbatch, int chunk) {
    if (microbatch >= schedule->shape.microbatches) return;
    schedule->actions[schedule->count++] = (struct action){kind, microbatch, chunk, -1, -1};
}

static void push_range(struct schedule *schedule, enum action_kind kind, int first, int end) {
    for (int i = first; i < end; i++) push(schedule, kind, i, 0);
}

static void plan_gpipe(struct schedule *schedule) {
    push_range(schedule, ACTION_FORWARD, 0, schedule->shape.microbatches);
    push_range(schedule, ACTION_BACKWARD, 0, schedule->shape.microbatches);
}

static void plan_1f1b(struct schedule *schedule) {
    int m = schedule->shape.microbatches;
    int warm = min_int(m, schedule->shape.stages - 1 - schedule->stage);
    push_range(schedule, ACTION_FORWARD, 0, warm);
    for (int i = 0; i < m; i++) {
        push(schedule, ACTION_FORWARD, i + warm, 0);
        push(schedule, ACTION_BACKWARD, i, 0);
    }
}

/* The k-th forward, or the backward of that number, of a stage. */
static void push_interleaved(struct schedule *schedule, enum action_kind kind, int k) {
    int p = schedule->shape.stages, v = schedule->shape.chunks;
    int group = k / (p * v), chunk = k % (p * v) / p;
    if (kind != ACTION_FORWARD) chunk = v - 1 - chunk;
    push(schedule, kind, group * p + k % p, chunk);
}

/* The last group is planned as if it were full, and the microbatches that it lacks are left out:
 * what is left of an order without deadlock has none either. */
static void plan_interleaved(struct schedule *schedule) {
    int p = schedule->shape.stages, v = schedule->shape.chunks;
    int total = (schedule->shape.microbatches + p - 1) / p * p * v;
    int warm = min_int(total, 2 * (p - 1 - schedule->stage) + (v - 1) * p);
    for (int k = 0; k < warm; k++) push_interleaved(schedule, ACTION_FORWARD, k);
    for (int k = 0; k < total; k++) {
        if (k + warm < total) push_interleaved(schedule, ACTION_FORWARD, k + warm);
        push_interleaved(schedule, ACTION_BACKWARD, k);
    }
}

/* Stage i is i forwards behind stage 0 when the first gradient comes, and so may leave i gradients
 * of weights for later with no more sets in flight than stage 0 has: they fill the end, where the
 * stages above have nothing else to do. */
static void plan_zb_h1(struct schedule *schedule) {
    int m = schedule->shape.microbatches, late = min_int(m, schedule->stage);
    int warm = min_int(m, schedule->shape.stages - 1 - schedule->stage);
    push_range(schedule, ACTION_FORWARD, 0, warm);
    for (int i = 0; i < m; i++) {
        push(schedule, ACTION_FORWARD, i + warm, 0);
        push(schedule, ACTION_BACKWARD_INPUT, i, 0);
        if (i >= late) push(schedule, ACTION_BACKWARD_WEIGHT, i - late, 0);
    }
    push_range(schedule, ACTION_BACKWARD_WEIGHT, m - late, m);
}

static bool ends_backward(const struct action *action) {
    return action->kind == ACTION_BACKWARD || action->kind == ACTION_BACKWARD_WEIGHT;
}

static bool same_work(const struct action *a, const struct action *b) {
    return a->microbatch == b->microbatch && a->chunk == b->chunk;
}

/* The lowest number that is not taken, noted as taken. */
static int take(bool *taken, int *count) {
    int i = 0;
    while (taken[i]) i++;
    taken[i] = true;
    if (i >= *count) *count = i + 1;
    return i;
}

static struct action *next_forward(struct schedule *schedule, int from) {
    for (int i = from; i < schedule->count; i++)
        if (schedule->actions[i].kind == ACTION_FORWARD) return &schedule->actions[i];
    return NULL;
}

/* Looked for from the backward on back: it is seldom far. */
static const struct action *forward_of(const struct schedule *schedule, int backward) {
    for (int i = backward; i-- > 0;)
        if (schedule->actions[i].kind == ACTION_FORWARD &&
            same_work(&schedule->actions[i], &schedule->actions[backward]))
            return &schedule->actions[i];
    assert(!"a backward without a forward");
    return NULL;
}

/* Walks the actions with the sets and inputs that are in flight. */
static void assign(struct schedule *schedule, bool *sets, bool *inputs) {
    for (int i = 0; i < schedule->count; i++) {
        struct action *action = &schedule->actions[i];
        if (action->kind == ACTION_FORWARD) {
            struct action *next = next_forward(schedule, i + 1);
            action->set = take(sets, &schedule->sets);
            if (action->input < 0) action->input = take(inputs, &schedule->inputs);
            if (next && schedule_receives(schedule, next))
                next->input = take(inputs, &schedule->inputs);
            continue;
        }
        const struct action *forward = forward_of(schedule, i);
        action->set = forward->set;
        action->input = forward->input;
        if (ends_backward(action)) sets[action->set] = inputs[action->input] = false;
    }
}

enum status schedule_create(struct schedule *schedule, const struct schedule_shape *shape,
                            int stage) {
    static void (*const plans[])(struct schedule *) = {plan_gpipe, plan_1f1b, plan_interleaved,
                                                       plan_zb_h1};
    assert(stage >= 0 && stage < shape->stages && shape->microbatches > 0 && shape->chunks > 0);
    *schedule = (struct schedule){.shape = *shape, .stage = stage};
    if (shape->chunks > 1 && shape->kind != PIPELINE_INTERLEAVED)
        return status_fail(STATUS_CONFIG, "%d chunks a stage need the schedule interleaved, not %s",
                           shape->chunks, pipeline_schedule_words[shape->kind]);
    size_t forwards = (size_t)shape->microbatches * (size_t)shape->chunks;
    schedule->actions = calloc(3 * forwards, sizeof *schedule->actions);
    bool *taken = calloc(2 * forwards + 2, sizeof *taken);
    if (!schedule->actions || !taken) {
        free(taken);
        schedule_free(schedule);
        return status_fail(STATUS_MEMORY, "no memory for a schedule of %d microbatches",
                           shape->microbatches);
    }
    bool plain = shape->kind == PIPELINE_INTERLEAVED && shape->chunks == 1;
    plans[plain ? PIPELINE_1F1B : shape->kind](schedule);
    assign(schedule, taken, taken + forwards + 1);
    free(taken);
    return STATUS_OK;
}

void schedule_free(struct schedule *schedule) {
    free(schedule->actions);
    *schedule = (struct schedule){0};
}
