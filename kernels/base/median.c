#include "kernels/base/median.h"

#include <assert.h>
#include <stdlib.h>

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *values, int64_t count, enum median_tie tie) {
    assert(count > 0);
    qsort(values, (size_t)count, sizeof *values, ascending);
    double lower = values[(count - 1) / 2], upper = values[count / 2];
    return tie == MEDIAN_LOWER ? lower : tie == MEDIAN_UPPER ? upper : (lower + upper) / 2.0;
}
