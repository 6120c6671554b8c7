/* A GPU's table is whole, of either type, and its peak is one. */
#define _GNU_SOURCE
#include "tests/gpu_case.h"

static void test_whole(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        const struct kernels *kernels;
        assert_ok(kernels_cuda(&kernels, i ? DTYPE_BF16 : DTYPE_F32));
        const char *missing = kernels_missing(kernels);
        if (missing) fail_msg("%s is missing", missing);
    }
}

static void test_peak(void **state) {
    (void)state;
    const struct kernels *kernels;
    assert_ok(kernels_cuda(&kernels, DTYPE_F32));
    double peak = kernels->peak_fma(1);
    assert_true(peak > 1e3 && isfinite(peak));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_peak)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
