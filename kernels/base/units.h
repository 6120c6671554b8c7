/* Small arithmetic that every folder needs. */
#ifndef STRATA_KERNELS_BASE_UNITS_H
#define STRATA_KERNELS_BASE_UNITS_H

#include <stddef.h>
#include <stdint.h>

static inline int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t max_i64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Bytes for people, in MiB. */
static inline double to_mib(size_t bytes) {
    return (double)bytes / (1 << 20);
}

#endif
