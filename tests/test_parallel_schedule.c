/* Properties of the pipeline schedules over many shapes: order, deadlock, bubble, memory. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "parallel/schedule_simulate.h"

enum { MAX_STAGES = 8, MAX_VIRTUAL = 32, MAX_MICROBATCHES = 33 };

struct pipeline {
    struct schedule_shape shape;
    struct schedule stages[MAX_STAGES];
};

static void create(struct pipeline *pipeline, struct schedule_shape shape) {
    pipeline->shape = shape;
    for (int i = 0; i < shape.stages; i++)
        assert_ok(schedule_create(&pipeline->stages[i], &shape, i));
}

static void release(struct pipeline *pipeline) {
    for (int i = 0; i < pipeline->shape.stages; i++) schedule_free(&pipeline->stages[i]);
}

static int chunk_limit(enum schedule_kind kind) {
    return kind == PIPELINE_INTERLEAVED ? 4 : 1;
}

static void for_each_shape(void (*check)(const struct pipeline *)) {
    static const int counts[] = {1, 2, 3, 4, 5, 7, 8, 12, 16, 33};
    struct schedule_shape shape;
    for (shape.kind = PIPELINE_GPIPE; shape.kind <= PIPELINE_ZB_H1; shape.kind++)
        for (shape.stages = 1; shape.stages <= MAX_STAGES; shape.stages++)
            for (shape.chunks = 1; shape.chunks <= chunk_limit(shape.kind); shape.chunks++)
                for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
                    struct pipeline pipeline;
                    shape.microbatches = counts[i];
                    create(&pipeline, shape);
                    check(&pipeline);
                    release(&pipeline);
                }
}

static const char *describe(const struct pipeline *pipeline) {
    static char text[128];
    const struct schedule_shape *s = &pipeline->shape;
    snprintf(text, sizeof text, "%s, %d stages, %d chunks, %d microbatches",
             pipeline_schedule_words[s->kind], s->stages, s->chunks, s->microbatches);
    return text;
}

/* How far a microbatch's chunk has come: forward, gradient of the input, of the weights. */
static void check_order(const struct pipeline *pipeline) {
    bool split = pipeline->shape.kind == PIPELINE_ZB_H1;
    for (int stage = 0; stage < pipeline->shape.stages; stage++) {
        const struct schedule *s = &pipeline->stages[stage];
        int done[MAX_VIRTUAL][4] = {{0}}; /* of each kind: microbatches come in ascending order */
        for (int i = 0; i < s->count; i++) {
            const struct action *a = &s->actions[i];
            assert_in_range(a->chunk, 0, s->shape.chunks - 1);
            assert_int_equal(a->microbatch, done[a->chunk][a->kind]++);
            assert_true(split ? a->kind != ACTION_BACKWARD : a->kind <= ACTION_BACKWARD);
            if (a->kind == ACTION_BACKWARD_WEIGHT)
                assert_true(a->microbatch < done[a->chunk][ACTION_BACKWARD_INPUT]);
            else if (a->kind != ACTION_FORWARD)
                assert_true(a->microbatch < done[a->chunk][ACTION_FORWARD]);
        }
        assert_int_equal(s->count,
                         pipeline->shape.microbatches * s->shape.chunks * (split ? 3 : 2));
    }
}

/* A set or an input belongs to one microbatch from its forward to the end of its backward. */
static void check_buffers(const struct pipeline *pipeline) {
    for (int stage = 0; stage < pipeline->shape.stages; stage++) {
        const struct schedule *s = &pipeline->stages[stage];
        int owner[2][MAX_VIRTUAL * MAX_MICROBATCHES + 1] = {{0}}; /* work + 1; 0 is free */
        for (int i = 0; i < s->count; i++) {
            const struct action *a = &s->actions[i];
            int work = a->chunk * s->shape.microbatches + a->microbatch + 1;
            assert_in_range(a->set, 0, s->sets - 1);
            assert_in_range(a->input, 0, s->inputs - 1);
            bool forward = a->kind == ACTION_FORWARD;
            assert_int_equal(owner[0][a->set], forward ? 0 : work);
            if (!(forward && schedule_receives(s, a)))
                assert_int_equal(owner[1][a->input], forward ? 0 : work);
            owner[0][a->set] = owner[1][a->input] = work;
            if (a->kind == ACTION_BACKWARD || a->kind == ACTION_BACKWARD_WEIGHT)
                owner[0][a->set] = owner[1][a->input] = 0;
            const struct action *next = a + 1; /* what the next forward receives may come now */
            while (forward && next < s->actions + s->count && next->kind != ACTION_FORWARD) next++;
            if (forward && next < s->actions + s->count && schedule_receives(s, next)) {
                assert_int_equal(owner[1][next->input], 0);
                owner[1][next->input] = next->chunk * s->shape.microbatches + next->microbatch + 1;
            }
        }
        assert_in_range(s->inputs, s->sets, s->sets + 1);
    }
}

/* What a stage sends a neighbour comes in the order in which that one receives it. */
static void check_links(const struct pipeline *pipeline) {
    int p = pipeline->shape.stages;
    for (int stage = 0; stage < p && p > 1; stage++)
        for (int forward = 0; forward <= 1; forward++) {
            const struct schedule *from = &pipeline->stages[stage];
            const struct schedule *to = &pipeline->stages[(stage + (forward ? 1 : p - 1)) % p];
            int j = 0;
            for (int i = 0; i < from->count; i++) {
                const struct action *sent = &from->actions[i];
                if ((sent->kind == ACTION_FORWARD) != forward || !schedule_sends(from, sent))
                    continue;
                while (j < to->count && ((to->actions[j].kind == ACTION_FORWARD) != forward ||
                                         !schedule_receives(to, &to->actions[j])))
                    j++;
                assert_true(j < to->count);
                assert_int_equal(to->actions[j].microbatch, sent->microbatch);
                assert_int_equal(schedule_virtual_stage(to, to->actions[j].chunk),
                                 schedule_virtual_stage(from, sent->chunk) + (forward ? 1 : -1));
                j++;
            }
        }
}

struct cost_arrays {
    double forward[MAX_VIRTUAL], input[MAX_VIRTUAL], weight[MAX_VIRTUAL];
};

static struct schedule_costs same_costs(struct cost_arrays *arrays, double f, double b, double w) {
    for (int i = 0; i < MAX_VIRTUAL; i++) {
        arrays->forward[i] = f;
        arrays->input[i] = b;
        arrays->weight[i] = w;
    }
    return (struct schedule_costs){arrays->forward, arrays->input, arrays->weight, 0.0};
}

/* Every message has been sent before it is used, and a stage does one thing at a time. */
static void check_timeline(const struct pipeline *pipeline, const struct schedule_costs *costs,
                           enum schedule_send send) {
    struct schedule_timeline timeline;
    if (schedule_simulate(&timeline, pipeline->stages, costs, send) != STATUS_OK)
        fail_msg("%s: %s", describe(pipeline), status_message());
    for (int stage = 0; stage < pipeline->shape.stages; stage++)
        for (int i = 0; i + 1 < pipeline->stages[stage].count; i++)
            assert_true(timeline.events[stage][i].freed <= timeline.events[stage][i + 1].start);
    assert_true(schedule_timeline_bubble(&timeline) >= -1e-12);
    schedule_timeline_free(&timeline);
}

static void check_deadlock(const struct pipeline *pipeline) {
    struct cost_arrays arrays;
    struct schedule_costs costs = same_costs(&arrays, 1.0, 1.0, 1.0);
    check_timeline(pipeline, &costs, SEND_FREE);
    check_timeline(pipeline, &costs, SEND_BLOCKING);
    for (int i = 0; i < MAX_VIRTUAL; i++) { /* uneven stages, slow links */
        arrays.forward[i] = 1.0 + i * 7 % 5;
        arrays.input[i] = 2.0 + i * 3 % 4;
        arrays.weight[i] = i * 5 % 3;
    }
    costs.transfer = 1.5;
    check_timeline(pipeline, &costs, SEND_FREE);
    check_timeline(pipeline, &costs, SEND_BLOCKING);
}

static double bubble(const struct pipeline *pipeline, double f, double b, double w) {
    struct cost_arrays arrays;
    struct schedule_costs costs = same_costs(&arrays, f, b, w);
    struct schedule_timeline timeline;
    assert_ok(schedule_simulate(&timeline, pipeline->stages, &costs, SEND_FREE));
    double result = timeline.seconds - timeline.busiest;
    assert_true(fabs(timeline.busiest -
                     pipeline->shape.microbatches * pipeline->shape.chunks * (f + b + w)) < 1e-9);
    schedule_timeline_free(&timeline);
    return result;
}

static void check_bubble(const struct pipeline *pipeline) {
    const struct schedule_shape *s = &pipeline->shape;
    static const double costs[][3] = {{1, 1, 1}, {1, 1.5, 0.5}, {2, 1.25, 1}, {1, 3, 1}};
    if (s->kind == PIPELINE_INTERLEAVED && s->microbatches % s->stages != 0) return;
    if (s->kind == PIPELINE_ZB_H1 && s->microbatches < 2 * s->stages) return; /* no steady state */
    for (size_t i = 0; i < sizeof costs / sizeof *costs; i++) {
        double f = costs[i][0], b = costs[i][1], w = costs[i][2];
        double want = (s->stages - 1) * (s->kind == PIPELINE_ZB_H1 ? f + b - w : f + b + w);
        double got = bubble(pipeline, f, b, w);
        if (fabs(got - want) > 1e-9)
            fail_msg("%s, costs %g %g %g: bubble %g, want %g", describe(pipeline), f, b, w, got,
                     want);
    }
}

static int min_int(int a, int b) {
    return a < b ? a : b;
}

static void check_in_flight(const struct pipeline *pipeline) {
    const struct schedule_shape *s = &pipeline->shape;
    int p = s->stages, m = s->microbatches, v = s->chunks;
    for (int i = 0; i < p; i++) {
        int sets = pipeline->stages[i].sets;
        if (s->kind == PIPELINE_GPIPE)
            assert_int_equal(sets, m);
        else if (s->kind == PIPELINE_1F1B || v == 1)
            assert_int_equal(sets, min_int(m, s->kind == PIPELINE_ZB_H1 ? p : p - i));
        else if (i == 0 && m % p == 0) /* p v (1 + (p-1) / (p v)), where there are so many */
            assert_int_equal(sets, min_int(m * v, p * v + p - 1));
        else
            assert_true(sets <= min_int(m * v, p * v + p - 1));
    }
}

static void test_every_microbatch_goes_both_ways(void **state) {
    (void)state;
    for_each_shape(check_order);
}

static void test_buffers_have_one_owner(void **state) {
    (void)state;
    for_each_shape(check_buffers);
}

static void test_links_keep_order(void **state) {
    (void)state;
    for_each_shape(check_links);
}

static void test_nothing_deadlocks(void **state) {
    (void)state;
    for_each_shape(check_deadlock);
}

static void test_bubbles_are_the_formulas(void **state) {
    (void)state;
    for_each_shape(check_bubble);
}

static void test_activations_in_flight_are_the_formulas(void **state) {
    (void)state;
    for_each_shape(check_in_flight);
}

/* The order that a stage with one forward too few would have. */
static void test_a_deadlock_is_named(void **state) {
    (void)state;
    struct pipeline pipeline;
    struct cost_arrays arrays;
    struct schedule_timeline timeline;
    create(&pipeline, (struct schedule_shape){PIPELINE_1F1B, 2, 2, 1});
    struct action *actions = pipeline.stages[1].actions, first = actions[0];
    actions[0] = actions[1];
    actions[1] = first;
    const struct schedule_costs costs = same_costs(&arrays, 1, 1, 1);
    assert_int_equal(schedule_simulate(&timeline, pipeline.stages, &costs, SEND_FREE),
                     STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "stage 0 waits for B of microbatch 0"));
    release(&pipeline);
}

static void test_chunks_need_interleaving(void **state) {
    (void)state;
    struct schedule schedule;
    const struct schedule_shape shape = {PIPELINE_ZB_H1, 2, 4, 2};
    assert_int_equal(schedule_create(&schedule, &shape, 0), STATUS_CONFIG);
    assert_non_null(strstr(status_message(), "zb-h1"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_microbatch_goes_both_ways),
        cmocka_unit_test(test_buffers_have_one_owner),
        cmocka_unit_test(test_links_keep_order),
        cmocka_unit_test(test_nothing_deadlocks),
        cmocka_unit_test(test_bubbles_are_the_formulas),
        cmocka_unit_test(test_activations_in_flight_are_the_formulas),
        cmocka_unit_test(test_a_deadlock_is_named),
        cmocka_unit_test(test_chunks_need_interleaving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
