/* How many of a stream's threads an op should use; for `omp parallel num_threads(...)`. */
#ifndef STRATA_KERNELS_THREADS_H
#define STRATA_KERNELS_THREADS_H

#include "kernels/base/stream.h"
#include <stdint.h>

/* Starting a team costs some microseconds: one thread for each `grain` of `work`. No result may
 * depend on the answer. */
static inline int threads_for(const struct stream *s, int64_t work, int64_t grain) {
    int64_t wanted = work / grain;
    if (wanted < 1) return 1;
    return wanted < s->threads ? (int)wanted : s->threads;
}

#endif
