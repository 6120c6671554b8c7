/* Every layout that kernels rely on, on the device that this program is built for. */
#define _GNU_SOURCE
#include "tests/check.h"
#include "tests/gpu_conformance.h"

static void every_layout_is_as_written(void **state) {
    (void)state;
    static const char *const schedules[] = {"round_robin", "greedy", "shuffled:3"};
    struct device gpu;
    assert_ok(device_open_cuda(&gpu, 0));
    int failures = 0, cases = 0;
    const int step = gpu.is_emulated ? 3 : 1; /* there, every third case under each schedule */
    for (int i = 0; i < step; i++) {
        setenv("STRATA_EMULATION_SCHEDULE", schedules[i], 1);
        struct stream stream;
        assert_ok(device_open_stream(&gpu, &stream));
        char name[CONFORMANCE_NAME], wrong[CONFORMANCE_NAME];
        for (int number = i; conformance_run(&stream, &gpu, number, name, wrong); number += step) {
            cases++;
            if (!wrong[0]) continue;
            failures++;
            print_message("%s: %s\n", name, wrong);
        }
        stream_close(&stream);
    }
    print_message("%d cases, %d failed\n", cases, failures);
    assert_int_equal(failures, 0);
    assert_true(cases >= 300);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_layout_is_as_written)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
