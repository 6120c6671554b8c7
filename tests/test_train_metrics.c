/* The peak that mfu is measured by: the best of several probes. */
#define _GNU_SOURCE
#include "tests/temporary.h"

#include "kernels/base/clock.h"
#include "train/metrics.h"

/* An op table's functions can reach nothing but a global. */
static struct {
    const double *peaks; /* what probes see, the last one ever after */
    int count, calls;
    double seconds; /* that each takes */
} probe;

static double fake_peak(int threads) {
    (void)threads;
    double until = clock_seconds() + probe.seconds;
    while (clock_seconds() < until) continue;
    int call = probe.calls < probe.count ? probe.calls : probe.count - 1;
    probe.calls++;
    return probe.peaks[call];
}

struct run {
    struct temporary folder;
    struct run_options options;
    struct parallel parallel;
    struct kernels kernels;
    struct trainer trainer;
    struct metrics metrics;
};

static void run_open(struct run *run, const double *peaks, int count, double seconds) {
    memset(run, 0, sizeof *run);
    temporary_open(&run->folder);
    probe.peaks = peaks;
    probe.count = count;
    probe.calls = 0;
    probe.seconds = seconds;
    run->options.train.out = run->folder.path;
    run->options.train.log_every = 1;
    run->parallel.world.size = 1;
    run->kernels.peak_fma = fake_peak;
    run->trainer = (struct trainer){.options = &run->options,
                                    .parallel = &run->parallel,
                                    .kernels = &run->kernels,
                                    .threads = 1,
                                    .steps = 1000};
    assert_ok(metrics_open(&run->metrics, &run->trainer));
}

static void run_close(struct run *run) {
    metrics_close(&run->metrics);
    temporary_close(&run->folder);
}

static void step(struct run *run, int64_t number) {
    const struct step_report report = {.step = number, .tokens = 10, .seconds = 0.1};
    assert_ok(metrics_step(&run->metrics, &report));
}

/* A busy machine at start and now and then doesn't lower it. */
static void test_best_probe_counts(void **state) {
    (void)state;
    static const double peaks[] = {1e9, 3e9, 2e9, 1e9, 2e9, 9e9, 4e9, 1e9};
    struct run run;
    run_open(&run, peaks, 8, 0.0);
    assert_int_equal(probe.calls, METRICS_PROBES);
    assert_true(run.metrics.peak_flops == 3e9);
    step(&run, 1);
    assert_true(run.metrics.peak_flops == 3e9);
    step(&run, 2);
    assert_true(run.metrics.peak_flops == 9e9);
    for (int64_t i = 3; i < 6; i++) step(&run, i);
    assert_true(run.metrics.peak_flops == 9e9);
    run_close(&run);
}

/* All probes of a run take less than 0.3 s where one takes less than 0.1 s. */
static void test_probes_are_few(void **state) {
    (void)state;
    static const double peak = 1e9;
    struct run run;
    run_open(&run, &peak, 1, 0.03);
    for (int64_t i = 1; i < 50; i++) step(&run, i);
    assert_int_equal(run.metrics.probes, probe.calls);
    assert_in_range(probe.calls, METRICS_PROBES, 7);
    assert_true(run.metrics.probe_seconds >= probe.calls * 0.03);
    run_close(&run);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_probe_counts),
        cmocka_unit_test(test_probes_are_few),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
