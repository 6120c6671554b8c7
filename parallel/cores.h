/* Physical cores that a process may run on, and a fair share of them among the ranks of a host. */
#ifndef STRATA_PARALLEL_CORES_H
#define STRATA_PARALLEL_CORES_H

#include <stdint.h>

enum { CORES_MAX = 1024 };

/* core[i] = 1 when the process may run on a hardware thread of the core whose first thread is i. */
struct cores {
    int32_t core[CORES_MAX];
};

/* From the affinity mask, which launchers set when they bind ranks. */
void cores_allowed(struct cores *cores);

/* Threads for a rank: each of its cores counts 1 / (ranks that may use it). sharers[i] = ranks of
 * the host that may run on core i, this one included. At least 1. */
int cores_share(const struct cores *mine, const int32_t sharers[CORES_MAX]);

#endif
