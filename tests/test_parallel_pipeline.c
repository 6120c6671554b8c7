/* The walk through a pipeline's actions: what arrives is what was sent, and stays as long as it is
 * needed, for every schedule. A stage of arithmetic stands in for layers. */
#define _GNU_SOURCE
#include "tests/check.h"

#include "parallel/comm_mpi.h"
#include "parallel/parallel.h"
#include "parallel/pipeline.h"

enum { ELEMENTS = 50000, MICROBATCHES = 7, EMPTY = 4 };

static struct parallel job; /* cmocka's tests take no arguments */

struct stage {
    struct pipeline pipeline;
    float *outputs[64];               /* of each set */
    int forwards, backwards, results; /* done; gradients that came to the model's beginning */
};

/* Virtual stage q makes 2 x + q of x, and 3 d + q of a gradient d; the model begins with the
 * microbatch's number, and a gradient with that and 100. */
static float activation(int microbatch, int stages) {
    float x = (float)microbatch;
    for (int q = 0; q < stages; q++) x = 2.0f * x + (float)q;
    return x;
}

static float gradient(int microbatch, int last, int stage) {
    float d = (float)microbatch + 100.0f;
    for (int q = last; q >= stage; q--) d = 3.0f * d + (float)q;
    return d;
}

/* Microbatches have different lengths, and one is empty. */
static int64_t elements_of(void *context, int microbatch) {
    (void)context;
    return microbatch == EMPTY ? PIPELINE_EMPTY : ELEMENTS - microbatch;
}

static void check_all(const float *values, int64_t count, float want) {
    for (int64_t i = 0; i < count; i++)
        if (values[i] != want)
            fail_msg("element %lld is %g, not %g", (long long)i, (double)values[i], (double)want);
}

static int last_of(const struct stage *stage) {
    const struct schedule_shape *shape = &stage->pipeline.schedule.shape;
    return shape->stages * shape->chunks - 1;
}

static const void *run_forward(void *context, const struct action *action, void *input) {
    struct stage *stage = context;
    int q = schedule_virtual_stage(&stage->pipeline.schedule, action->chunk);
    int64_t count = elements_of(NULL, action->microbatch);
    float *x = input, *y = stage->outputs[action->set];
    for (int64_t i = 0; i < count && q == 0; i++) x[i] = (float)action->microbatch;
    check_all(x, count, activation(action->microbatch, q));
    for (int64_t i = 0; i < count; i++) y[i] = 2.0f * x[i] + (float)q;
    pipeline_poke(&stage->pipeline);
    stage->forwards++;
    return y;
}

static void run_backward(void *context, const struct action *action, void *gradients) {
    struct stage *stage = context;
    int q = schedule_virtual_stage(&stage->pipeline.schedule, action->chunk), last = last_of(stage);
    int64_t count = elements_of(NULL, action->microbatch);
    check_all(stage->pipeline.inputs[action->input], count, activation(action->microbatch, q));
    check_all(stage->outputs[action->set], count, activation(action->microbatch, q + 1));
    if (action->kind == ACTION_BACKWARD_WEIGHT) {
        assert_null(gradients);
        return;
    }
    float *d = gradients;
    for (int64_t i = 0; i < count && q == last; i++) d[i] = (float)action->microbatch + 100.0f;
    check_all(d, count, gradient(action->microbatch, last, q + 1));
    for (int64_t i = 0; i < count; i++) d[i] = 3.0f * d[i] + (float)q;
    pipeline_poke(&stage->pipeline);
    stage->backwards++;
    stage->results += q == 0;
}

static float *push_floats(struct arena *arena) {
    return arena_push(arena, ELEMENTS * sizeof(float));
}

static void stage_open(struct stage *stage, const struct schedule_shape *shape,
                       struct arena *arena) {
    *stage = (struct stage){0};
    assert_ok(pipeline_plan(&stage->pipeline, shape, job.world.rank, DTYPE_F32, ELEMENTS, arena));
    assert_in_range(stage->pipeline.schedule.sets, 1, 64);
    for (int i = 0; i < stage->pipeline.schedule.sets; i++) stage->outputs[i] = push_floats(arena);
    for (int i = 0; i < stage->pipeline.schedule.inputs; i++)
        stage->pipeline.inputs[i] = push_floats(arena);
}

static void check_schedule(enum schedule_kind kind, int chunks, struct comm *down) {
    const struct schedule_shape shape = {kind, job.world.size, MICROBATCHES, chunks};
    struct stage stage;
    struct stream stream;
    struct arena arena;
    stream_open_cpu(&stream, 1);
    arena_count(&arena, "buffers");
    stage_open(&stage, &shape, &arena);
    pipeline_free(&stage.pipeline);
    assert_ok(arena_create(&arena, "buffers", arena.peak));
    stage_open(&stage, &shape, &arena);
    stage.pipeline.up = &job.world;
    stage.pipeline.down = down;
    stage.pipeline.stream = &stream;
    const struct pipeline_calls calls = {&stage, elements_of, run_forward, run_backward};
    int works = (MICROBATCHES - 1) * chunks;
    for (int step = 1; step <= 3; step++) {
        pipeline_run(&stage.pipeline, &calls, PIPELINE_TRAIN);
        assert_ok(stream_check(&stream));
        assert_int_equal(stage.forwards, works * (2 * step - 1));
        assert_int_equal(stage.backwards, works * step);
        assert_int_equal(stage.results, job.world.rank == 0 ? (MICROBATCHES - 1) * step : 0);
        pipeline_run(&stage.pipeline, &calls, PIPELINE_FORWARD_ONLY);
        assert_ok(stream_check(&stream));
        assert_int_equal(stage.forwards, works * 2 * step);
    }
    pipeline_free(&stage.pipeline);
    arena_free(&arena);
}

static void test_what_arrives_is_what_was_sent(void **state) {
    struct comm down;
    (void)state;
    assert_ok(comm_mpi_open_split(&down, &job.world, "down", 0, job.world.rank));
    check_schedule(PIPELINE_GPIPE, 1, &down);
    check_schedule(PIPELINE_1F1B, 1, &down);
    check_schedule(PIPELINE_ZB_H1, 1, &down);
    for (int chunks = 2; chunks <= 3 && job.world.size > 1; chunks++)
        check_schedule(PIPELINE_INTERLEAVED, chunks, &down);
    comm_close(&down);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_arrives_is_what_was_sent)};
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "walking through a pipeline");
    parallel_finish(&job);
    return failed;
}
