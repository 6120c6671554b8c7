/* Replicas that train alone for some steps and then meet (parallel.sync_every): with an outer step
 * of rate 1 and no momentum they meet at the mean of their weights; a run that was interrupted
 * between two meetings goes on to the last bit; losses fall; what does not fit is refused. */
#define _GNU_SOURCE
#include "tests/layouts.h"

static struct parallel job; /* cmocka's tests take no arguments */

static const struct layout_case row = {0, "llama", "global_batch=6 micro_batch=1", ""};
static const struct layout_case adapter_row = {0, "llama", LORA, ""};

static struct layout_run run;

static void step(int count, double *losses) {
    struct step_report report;
    for (int i = 0; i < count; i++) {
        assert_ok(trainer_step(&run.trainer, &report));
        losses[run.trainer.step - 1] = report.loss;
    }
}

static int64_t elements(void) {
    int64_t sum = 0;
    for (int i = 0; i < run.trainer.optimizer.count; i++)
        sum += run.trainer.optimizer.slots[i].piece.count;
    return sum;
}

/* This replica's weights; the caller frees them. */
static float *weights(void) {
    float *all = malloc((size_t)elements() * sizeof *all), *next = all;
    assert_non_null(all);
    for (int i = 0; i < run.trainer.optimizer.count; i++) {
        const struct optimizer_slot *slot = &run.trainer.optimizer.slots[i];
        memcpy(next, slot->master, (size_t)slot->piece.count * sizeof *next);
        next += slot->piece.count;
    }
    return all;
}

static float *momenta_of(const struct outer *outer) {
    float *all = malloc((size_t)elements() * sizeof *all), *next = all;
    assert_non_null(all);
    for (int i = 0; i < run.trainer.optimizer.count; i++) {
        int64_t n = run.trainer.optimizer.slots[i].piece.count;
        memcpy(next, outer->momenta[i], (size_t)n * sizeof *next);
        next += n;
    }
    return all;
}

static void finish(const struct layout_site *site, const char *name) {
    layout_close(&run);
    layout_remove(site, name);
}

/* Three steps alone, which differ; their mean is what rate 1 without momentum makes of them. */
static void test_plain_average(void **state) {
    (void)state;
    static const char never[] = "sync_every=100";
    static const char meet[] = "sync_every=3 outer_lr=1 outer_momentum=0";
    struct layout_site site;
    double losses[LAYOUT_STEPS];
    layout_site_open(&site, &job);
    layout_open(&run, &site, "alone", &row, never, &job);
    step(3, losses);
    float *own = weights(), *mean = weights();
    int64_t count = elements();
    comm_all_reduce(&job.world, &run.trainer.ws.stream, mean, count, DTYPE_F32, COMM_SUM);
    assert_ok(stream_check(&run.trainer.ws.stream));
    double apart = 0.0, norm = 0.0, difference = 0.0;
    for (int64_t i = 0; i < count; i++) {
        mean[i] /= (float)job.world.size;
        apart += fabs((double)(own[i] - mean[i]));
    }
    assert_true(job.world.size == 1 || apart > 0.0);
    finish(&site, "alone");
    layout_open(&run, &site, "meeting", &row, meet, &job);
    step(3, losses);
    float *met = weights();
    for (int64_t i = 0; i < count; i++) {
        norm += (double)mean[i] * (double)mean[i];
        difference += (double)(met[i] - mean[i]) * (double)(met[i] - mean[i]);
    }
    print_message("%d replicas: the mean of their weights to %.1e\n", job.world.size,
                  sqrt(difference / norm));
    assert_true(sqrt(difference / norm) <= 1e-6);
    free(own), free(mean), free(met);
    finish(&site, "meeting");
    layout_site_close(&site);
}

/* Two meetings by hand: b = mu b + d, w -= lr (d + mu b). */
static void test_nesterov(void **state) {
    (void)state;
    static const char layout[] = "sync_every=2 outer_lr=0.5 outer_momentum=0.8";
    struct layout_site site;
    double losses[LAYOUT_STEPS];
    layout_site_open(&site, &job);
    layout_open(&run, &site, "nesterov", &row, layout, &job);
    float *start = weights();
    int64_t count = elements();
    step(2, losses);
    float *first = weights();
    /* anchor - lr (1 + mu) d = first, so d and b are known after the first meeting */
    const struct outer *outer = &run.trainer.outer;
    int64_t at = 0;
    for (int i = 0; i < run.trainer.optimizer.count; i++) {
        int64_t n = run.trainer.optimizer.slots[i].piece.count;
        for (int64_t j = 0; j < n; j++, at++) {
            float d = (start[at] - first[at]) / (0.5f * 1.8f);
            assert_true(fabsf(outer->momenta[i][j] - d) <= 1e-6f + 1e-3f * fabsf(d));
            assert_true(outer->anchors[i][j] == first[at]);
        }
    }
    assert_int_equal(at, count);
    float *momenta = momenta_of(outer), *second;
    step(2, losses);
    second = weights();
    at = 0;
    for (int i = 0; i < run.trainer.optimizer.count; i++) {
        int64_t n = run.trainer.optimizer.slots[i].piece.count;
        for (int64_t j = 0; j < n; j++, at++) {
            float b = outer->momenta[i][j], d = b - 0.8f * momenta[at];
            float want = first[at] - 0.5f * (d + 0.8f * b);
            assert_true(fabsf(second[at] - want) <= 1e-6f + 1e-3f * fabsf(first[at] - want));
        }
    }
    free(start), free(first), free(second), free(momenta);
    finish(&site, "nesterov");
    layout_site_close(&site);
}

static void check_resume(const struct layout_site *site, const struct layout_case *training) {
    static const char layout[] = "sync_every=4";
    double want[LAYOUT_STEPS], got[LAYOUT_STEPS];
    layout_open(&run, site, "whole", training, layout, &job);
    step(LAYOUT_STEPS, want);
    finish(site, "whole");
    layout_open(&run, site, "parts", training, layout, &job);
    step(6, got); /* between two meetings */
    assert_ok(trainer_checkpoint(&run.trainer, false));
    layout_close(&run);
    layout_open(&run, site, "parts", training, layout, &job);
    assert_int_equal(run.trainer.step, 6);
    step(LAYOUT_STEPS - 6, got);
    finish(site, "parts");
    assert_memory_equal(want, got, sizeof want);
    print_message("%d replicas, %s: loss %.4f -> %.4f\n", job.world.size, training->training,
                  want[0], want[LAYOUT_STEPS - 1]);
    /* an adapter has not moved enough by then */
    if (training == &row) assert_true(want[LAYOUT_STEPS - 1] < want[0]);
}

static void test_resume(void **state) {
    (void)state;
    struct layout_site site;
    layout_site_open(&site, &job);
    check_resume(&site, &row);
    check_resume(&site, &adapter_row);
    layout_site_close(&site);
}

static void test_refused(void **state) {
    static const struct layout_refusal rows[] = {
        {{2, "llama", "", "sync_every=5 zero=1"}, "parallel.zero 0"},
    };
    (void)state;
    layout_check_refused(&job, rows, sizeof rows / sizeof *rows);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_plain_average),
        cmocka_unit_test(test_nesterov),
        cmocka_unit_test(test_resume),
    };
    layout_start(&job, &argc, &argv);
    return layout_finish(&job, cmocka_run_group_tests(tests, NULL, NULL));
}
