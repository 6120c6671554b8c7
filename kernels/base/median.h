/* The median of measured numbers. */
#ifndef STRATA_KERNELS_BASE_MEDIAN_H
#define STRATA_KERNELS_BASE_MEDIAN_H

#include <stdint.h>

/* What the median of an even number of values is: the lower or the upper of the two in the middle,
 * or their mean. */
enum median_tie { MEDIAN_LOWER, MEDIAN_MEAN, MEDIAN_UPPER };

/* Of `count` > 0 values, none of them NaN; they come out sorted. */
double median(double *values, int64_t count, enum median_tie tie);

#endif
