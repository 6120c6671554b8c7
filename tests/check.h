/* What every test shares: cmocka's headers in their order, the data folder, close comparison. */
#ifndef STRATA_TESTS_CHECK_H
#define STRATA_TESTS_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/base/status.h"

/* JSON of 150 lists inside each other: more than core/json_util.h takes. */
#define LISTS_30 "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
#define NESTED_JSON LISTS_30 LISTS_30 LISTS_30 LISTS_30 LISTS_30

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        if ((call) != STATUS_OK) fail_msg("%s: %s", #call, status_message());                      \
    } while (0)

/* Leaves the running test out and says why; tests/skips_allowed.txt lists the reasons that hold
 * even where nothing is missing. */
#define skip_because(reason)                                                                       \
    do {                                                                                           \
        print_message("skipped: %s\n", reason);                                                    \
        skip();                                                                                    \
    } while (0)

/* The folder of real files that others wrote, or skips the test where it is not set; the summary
 * of `make test` counts what was skipped. */
static inline const char *test_data_or_skip(void) {
    const char *folder = getenv("STRATA_TEST_DATA");
    if (!folder || !*folder) skip_because("STRATA_TEST_DATA is not set");
    return folder;
}

/* |got - want| <= absolute + relative * |want| for every element; NaN never passes. */
static inline void assert_all_close(const float *got, const float *want, size_t count,
                                    double absolute, double relative, const char *what) {
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)got[i] - (double)want[i]);
        if (!(difference <= absolute + relative * fabs((double)want[i])))
            fail_msg("%s[%zu]: got %.9g, want %.9g", what, i, (double)got[i], (double)want[i]);
    }
}

#endif
