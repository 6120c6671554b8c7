/* Steps that are skipped: the judgement on its own, and runs in which an op goes wrong at a step.
 */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/temporary.h"

#include "data/token_file.h"
#include "train/trainer.h"

#include <fcntl.h>
#include <unistd.h>

static struct parallel job; /* cmocka's tests take no arguments */

/* --- the judgement ---------------------------------------------------------------------------- */

static enum guard_verdict judge(struct guard *guard, double loss, double norm) {
    const struct guard_limits limits = {.norm_factor = 5.0, .loss_factor = 1.5};
    return guard_judge(guard, &limits, loss, norm);
}

static void test_spikes_are_skipped(void **state) {
    (void)state;
    struct guard guard = {0};
    for (int i = 0; i < GUARD_LEAST; i++) /* too few to judge by */
        assert_int_equal(judge(&guard, 3.0, i == 5 ? 100.0 : 1.0 + 0.01 * i), GUARD_TAKE);
    assert_true(guard_median(&guard.norms) == 1.08); /* the 100 is the largest of 16, 1.05 absent */
    assert_int_equal(judge(&guard, 3.0, 5.3), GUARD_TAKE);
    assert_int_equal(judge(&guard, 3.0, 5.6), GUARD_SPIKE);
    assert_int_equal(judge(&guard, 3.0, NAN), GUARD_NONFINITE);
    assert_int_equal(judge(&guard, INFINITY, 1.0), GUARD_NONFINITE);
    assert_int_equal(guard.skipped, 3);
    assert_int_equal(judge(&guard, 3.0, 1.0), GUARD_TAKE);
    assert_int_equal(guard.skipped, 0);
    assert_int_equal(guard.total_skipped, 3);
    assert_int_equal(guard.norms.count, GUARD_LEAST + 4); /* NaN is not among them */
}

/* Norms that stay large are the new measure after half a window; off, nothing is a spike. */
static void test_window_and_off(void **state) {
    (void)state;
    struct guard guard = {0}, off = {0};
    const struct guard_limits none = {0};
    for (int i = 0; i < GUARD_WINDOW; i++) judge(&guard, 3.0, 1.0);
    int skipped = 0;
    while (judge(&guard, 3.0, 50.0) == GUARD_SPIKE) skipped++;
    assert_int_equal(skipped, GUARD_WINDOW / 2 + 1);
    for (int i = 0; i < 100; i++)
        assert_int_equal(guard_judge(&off, &none, i == 80 ? 1e9 : 3.0, i == 90 ? 1e9 : 1.0),
                         GUARD_TAKE);
    assert_int_equal(off.high, 0);
}

/* Losses that are too high don't become the measure. */
static void test_high_losses(void **state) {
    (void)state;
    struct guard guard = {0};
    for (int i = 0; i < 20; i++) judge(&guard, 2.0, 1.0);
    for (int i = 0; i < 100; i++) {
        judge(&guard, i == 50 ? NAN : 3.1, 1.0);
        assert_int_equal(guard.high, i + 1);
    }
    judge(&guard, 2.9, 1.0);
    assert_int_equal(guard.high, 0);
    assert_int_equal(guard.losses.count, 21);
}

static void test_saved_and_loaded(void **state) {
    (void)state;
    struct guard guard = {0}, loaded;
    double numbers[GUARD_NUMBERS];
    for (int i = 0; i < 150; i++) judge(&guard, 2.0 + 0.001 * i, i % 7 ? 1.0 : 90.0);
    guard_save(&guard, numbers);
    assert_true(guard_load(&loaded, numbers, GUARD_NUMBERS));
    for (int i = 0; i < 90; i++) {
        double loss = i % 9 ? 2.1 : 4.0, norm = i % 5 ? 1.0 : 1.0 + i;
        assert_int_equal(judge(&guard, loss, norm), judge(&loaded, loss, norm));
        assert_memory_equal(&guard, &loaded, sizeof guard);
    }
    assert_false(guard_load(&loaded, numbers, GUARD_NUMBERS - 1));
    static const int bad[] = {0, 3, 4, 5 + GUARD_WINDOW};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (int kind = 0; kind < 3; kind++) {
            double kept = numbers[bad[i]];
            numbers[bad[i]] = kind == 0 ? -1.0 : kind == 1 ? 1e300 : NAN;
            assert_false(guard_load(&loaded, numbers, GUARD_NUMBERS));
            assert_int_equal(loaded.norms.count, 0);
            numbers[bad[i]] = kept;
        }
}

/* --- runs ------------------------------------------------------------------------------------- */

enum { VOCABULARY = 96, STEPS = 30, MAX_ARGUMENTS = 6 };

/* What goes wrong; an op table's functions can reach nothing but a global. */
static struct {
    const struct kernels *real;
    bool forward;              /* a NaN among the embeddings */
    bool backward;             /* gradients of the embedding 1e6 times as large */
    bool attention, d_queries; /* a NaN in what attention of layer 1 makes, in its gradient of q */
} fault;

static void faulty_forward(struct stream *s, void *y, const int32_t *tokens, const struct weight *w,
                           int64_t first, int64_t vocab, int64_t count) {
    fault.real->embedding_forward(s, y, tokens, w, first, vocab, count);
    if (fault.forward) *(float *)y = NAN;
}

static void faulty_backward(struct stream *s, const struct weight *dw, const int32_t *tokens,
                            const void *dy, int64_t first, int64_t count) {
    fault.real->embedding_backward(s, dw, tokens, dy, first, count);
    if (fault.backward) *(float *)dw->data += 1e6f;
}

static void faulty_attention(struct stream *s, const struct attention_forward_args *args) {
    fault.real->attention_forward(s, args);
    if (fault.attention && s->where.layer == 1) *(float *)args->o = NAN;
}

static void faulty_attention_backward(struct stream *s,
                                      const struct attention_backward_args *args) {
    fault.real->attention_backward(s, args);
    if (fault.d_queries && s->where.layer == 1) *(float *)args->dq = NAN;
}

struct run {
    struct temporary folder;
    struct run_options options;
    struct config_table tables[RUN_TABLES];
    struct kernels kernels;
    struct trainer trainer;
    char log[512];
};

static void write_tokens(const char *path) {
    const struct token_file_info info = {.vocabulary = VOCABULARY};
    struct token_writer *writer;
    uint32_t random = 12345;
    assert_ok(token_writer_create(&writer, path, &info));
    for (int d = 0; d < 40; d++) {
        int32_t ids[24];
        for (int i = 0; i < 24; i++) {
            random = random * 1664525u + 1013904223u;
            ids[i] = (int32_t)((random >> 16) % VOCABULARY);
        }
        assert_ok(token_writer_append(writer, ids, NULL, 24));
    }
    assert_ok(token_writer_finish(writer));
}

static void open_trainer(struct run *run) {
    assert_ok(trainer_open(&run->trainer, &run->options, &job));
    fault.real = run->trainer.ws.exec.k;
    run->kernels = *fault.real;
    run->kernels.embedding_forward = faulty_forward;
    run->kernels.embedding_backward = faulty_backward;
    run->kernels.attention_forward = faulty_attention;
    run->kernels.attention_backward = faulty_attention_backward;
    run->trainer.ws.exec.k = &run->kernels;
}

/* All ranks train in rank 0's folder. */
static void run_open(struct run *run, const char *arguments) {
    char text[2048];
    struct stream stream;
    stream_open_cpu(&stream, 1);
    memset(run, 0, sizeof *run);
    if (job.world.rank == 0) {
        temporary_open(&run->folder);
        write_tokens(temporary_file(&run->folder, "tokens.h5"));
    }
    comm_broadcast(&job.world, &stream, run->folder.path, sizeof run->folder.path, DTYPE_U8, 0);
    assert_ok(stream_check(&stream));
    snprintf(run->log, sizeof run->log, "%s/log-%d", run->folder.path, job.world.rank);
    snprintf(text, sizeof text,
             "model: {path: tests/fixtures/llama}\n"
             "data: {train: [%s/tokens.h5], sequence_length: 24, packing: off}\n"
             "train: {out: %s, steps: %d, lr: 1e-3, global_batch: 4, threads: 1, %s}\n",
             run->folder.path, run->folder.path, STEPS, arguments);
    run_options_tables(&run->options, run->tables);
    assert_ok(config_parse(run->tables, RUN_TABLES, text, strlen(text), "test.yaml", NULL, 0));
    open_trainer(run);
}

static void run_close(struct run *run) {
    char command[512];
    trainer_close(&run->trainer);
    config_free(run->tables, RUN_TABLES);
    comm_barrier(&job.world, &(struct stream){.threads = 1});
    snprintf(command, sizeof command, "rm -rf '%s'", run->folder.path);
    if (job.world.rank == 0) assert_int_equal(system(command), 0);
}

/* A step with standard error appended to the log. */
static enum status step(struct run *run, struct step_report *report) {
    fflush(stderr);
    int kept = dup(STDERR_FILENO);
    int log = open(run->log, O_CREAT | O_WRONLY | O_APPEND, 0666);
    dup2(log, STDERR_FILENO);
    close(log);
    enum status status = trainer_step(&run->trainer, report);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    return status;
}

/* How many lines of my log have all of it. */
static int count_lines(const struct run *run, const char *a, const char *b, const char *c) {
    char line[2048];
    int found = 0;
    FILE *file = fopen(run->log, "r");
    while (file && fgets(line, sizeof line, file))
        found += strstr(line, a) && strstr(line, b) && strstr(line, c);
    if (file) fclose(file);
    return found;
}

static double weight_sum(const struct trainer *t) {
    double sum = 0.0;
    for (int i = 0; i < t->optimizer.count; i++)
        t->kernels->sum_squares(&(struct stream){.threads = 1}, &sum, t->optimizer.slots[i].master,
                                t->optimizer.slots[i].piece.count);
    return sum;
}

/* A NaN of the last rank's forward: the step is left out on all ranks, and told by that rank. */
static void test_nonfinite_step(void **state) {
    (void)state;
    struct run run;
    struct step_report report;
    int last = job.world.size - 1;
    run_open(&run, "on_nonfinite: skip, max_skipped: 2");
    assert_ok(step(&run, &report));
    double before = weight_sum(&run.trainer);
    int64_t tokens = run.trainer.tokens;
    fault.forward = job.world.rank == last;
    assert_ok(step(&run, &report));
    fault.forward = false;
    assert_int_equal(report.verdict, GUARD_NONFINITE);
    assert_int_equal(run.trainer.step, 2);
    assert_int_equal(trainer_cursor(&run.trainer), 8);
    assert_true(weight_sum(&run.trainer) == before && run.trainer.tokens == tokens);
    assert_int_equal(count_lines(&run, "event=step_skipped step=2 reason=nonfinite",
                                 "tensor=\"embeddings of layer 0\"", ""),
                     job.world.rank == last);
    assert_ok(step(&run, &report));
    assert_int_equal(report.verdict, GUARD_TAKE);
    assert_true(weight_sum(&run.trainer) != before && isfinite(report.loss));
    fault.forward = job.world.rank == last;
    assert_ok(step(&run, &report));
    assert_ok(step(&run, &report));
    assert_int_equal(step(&run, &report), STATUS_NUMERIC); /* the third in a row */
    assert_non_null(strstr(status_message(), "step 6: loss"));
    assert_non_null(strstr(status_message(), "embeddings of layer 0"));
    fault.forward = false;
    run_close(&run);
}

static void test_nonfinite_stops_unless_asked(void **state) {
    (void)state;
    struct run run;
    struct step_report report;
    run_open(&run, "spike_factor: 5");
    fault.forward = job.world.rank == 0;
    assert_int_equal(step(&run, &report), STATUS_NUMERIC);
    fault.forward = false;
    assert_non_null(strstr(status_message(), "step 1: loss"));
    run_close(&run);
}

/* The first value of a weight of layer 1. */
static float *value_of(struct trainer *t, enum weight_id id) {
    for (int i = 0; i < t->param_count; i++)
        if (t->params[i]->id == id && t->params[i]->layer == 1) return t->params[i]->w.data;
    fail_msg("no weight %d in layer 1", id);
    return NULL;
}

/* A NaN spreads to all that is computed from it; the tensor that it began in is named. */
static void test_first_tensor_is_named(void **state) {
    (void)state;
    static const char *const want[] = {
        "weight model.layers.1.mlp.up_proj.weight",
        "attention output of layer 1",
        "gradient of model.layers.1.self_attn.q_proj.weight",
    };
    for (int plant = 0; plant < 3; plant++) {
        struct run run;
        struct step_report report;
        run_open(&run, "on_nonfinite: stop");
        assert_ok(step(&run, &report));
        bool mine = job.world.rank == job.world.size - 1;
        if (plant == 0 && mine) *value_of(&run.trainer, WEIGHT_UP) = NAN;
        fault.attention = plant == 1 && mine;
        fault.d_queries = plant == 2 && mine;
        assert_int_equal(step(&run, &report), STATUS_NUMERIC);
        fault.attention = fault.d_queries = false;
        if (!strstr(status_message(), want[plant]))
            fail_msg("%s, not %s", status_message(), want[plant]);
        run_close(&run);
    }
}

/* Gradients of step 26 are too large. `stop_at` > 0: the run is interrupted after that step. */
static void train_with_spike(int stop_at, double losses[STEPS], double *weights) {
    struct run run;
    struct step_report report;
    run_open(&run, "spike_factor: 10, checkpoint_every: 5");
    for (int i = 0; i < STEPS; i++) {
        fault.backward = i + 1 == 26;
        assert_ok(step(&run, &report));
        fault.backward = false;
        losses[i] = report.loss;
        assert_int_equal(report.verdict, i + 1 == 26 ? GUARD_SPIKE : GUARD_TAKE);
        if (i + 1 != stop_at) continue;
        assert_ok(trainer_checkpoint(&run.trainer, false));
        trainer_close(&run.trainer);
        open_trainer(&run);
        assert_int_equal(run.trainer.step, stop_at);
    }
    assert_int_equal(count_lines(&run, "event=step_skipped step=26 reason=spike",
                                 "tensor=\"gradient of ", "embed"),
                     job.world.rank == 0);
    *weights = weight_sum(&run.trainer);
    run_close(&run);
}

/* 20 norms were before the checkpoint, 5 after it: too few to judge by, were they not kept. */
static void test_spike_is_skipped_also_after_resuming(void **state) {
    (void)state;
    double whole[STEPS], resumed[STEPS], weights, again;
    train_with_spike(0, whole, &weights);
    train_with_spike(20, resumed, &again);
    assert_memory_equal(whole, resumed, sizeof whole);
    assert_true(weights == again);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spikes_are_skipped),
        cmocka_unit_test(test_window_and_off),
        cmocka_unit_test(test_high_losses),
        cmocka_unit_test(test_saved_and_loaded),
        cmocka_unit_test(test_nonfinite_step),
        cmocka_unit_test(test_nonfinite_stops_unless_asked),
        cmocka_unit_test(test_first_tensor_is_named),
        cmocka_unit_test(test_spike_is_skipped_also_after_resuming),
    };
    if (parallel_start(&job, &argc, &argv) != STATUS_OK) return 1;
    job.threads = 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) parallel_abort(&job, "skipping steps");
    parallel_finish(&job);
    return failed;
}
