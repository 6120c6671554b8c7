/* Learning rates against closed forms, worked out by hand; tests/peers/check_schedule.py compares
 * them with transformers' schedulers. */
#include "tests/check.h"

#include "train/schedule.h"

static struct train_options options_of(int schedule, double lr, double min_lr, int64_t warmup) {
    return (struct train_options){
        .schedule = schedule, .lr = lr, .min_lr = min_lr, .warmup = warmup, .decay_fraction = 0.25};
}

static void check(const struct train_options *options, int64_t steps, int64_t step, double want) {
    double rate = schedule_rate(options, step, steps);
    if (fabs(rate - want) > 1e-12 * options->lr)
        fail_msg("step %lld of %lld: %.17g, not %.17g", (long long)step, (long long)steps, rate,
                 want);
}

/* All schedules rise alike: by a fifth of lr a step, from nothing to lr at the sixth. */
static void test_warm_up(void **state) {
    (void)state;
    for (int schedule = SCHEDULE_COSINE; schedule <= SCHEDULE_CONSTANT; schedule++) {
        struct train_options options = options_of(schedule, 1e-3, 1e-4, 5);
        for (int64_t step = 1; step <= 6; step++)
            check(&options, 20, step, 2e-4 * (double)(step - 1));
        options.warmup = 20; /* the whole run */
        check(&options, 20, 20, 1e-3 * 19.0 / 20.0);
        options.warmup = 0;
        check(&options, 20, 1, 1e-3);
    }
}

/* cos at 0, pi/6, pi/4, pi/3, pi/2 and pi - pi/6: twelve steps after four of warm-up. */
static void test_cosine(void **state) {
    (void)state;
    struct train_options options = options_of(SCHEDULE_COSINE, 2.0, 0.0, 4);
    check(&options, 16, 5, 2.0);
    check(&options, 16, 7, 1.0 + sqrt(3.0) / 2.0);
    check(&options, 16, 8, 1.0 + sqrt(2.0) / 2.0);
    check(&options, 16, 9, 1.5);
    check(&options, 16, 11, 1.0);
    check(&options, 16, 15, 1.0 - sqrt(3.0) / 2.0);
    check(&options, 16, 16, 1.0 - (sqrt(6.0) + sqrt(2.0)) / 4.0); /* the last: above 0 */
    options.min_lr = 1.0;
    check(&options, 16, 9, 1.75);
    check(&options, 16, 11, 1.5);
}

static void test_linear(void **state) {
    (void)state;
    struct train_options options = options_of(SCHEDULE_LINEAR, 1.0, 0.0, 2);
    for (int64_t step = 3; step <= 12; step++)
        check(&options, 12, step, (double)(13 - step) / 10.0);
    options.min_lr = 0.5;
    check(&options, 12, 8, 0.75);
    check(&options, 12, 12, 0.55);
}

/* The last quarter of 20 steps falls: its first one is still at lr, its last a fifth above min. */
static void test_wsd(void **state) {
    (void)state;
    struct train_options options = options_of(SCHEDULE_WSD, 1.0, 0.0, 3);
    for (int64_t step = 4; step <= 16; step++) check(&options, 20, step, 1.0);
    for (int64_t step = 17; step <= 20; step++)
        check(&options, 20, step, (double)(21 - step) / 5.0);
    options.min_lr = 0.5;
    check(&options, 20, 18, 0.8);
    check(&options, 20, 20, 0.6);
}

static void test_constant(void **state) {
    (void)state;
    struct train_options options = options_of(SCHEDULE_CONSTANT, 3e-4, 1e-5, 0);
    for (int64_t step = 1; step <= 7; step++) check(&options, 7, step, 3e-4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_warm_up),  cmocka_unit_test(test_cosine),
        cmocka_unit_test(test_linear),   cmocka_unit_test(test_wsd),
        cmocka_unit_test(test_constant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
