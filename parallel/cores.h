/* Cores that a process may run on, and a fair share of them among the ranks of a host. Ranks
 * compute with a thread a physical core by default; more threads than hardware threads (CPUs) are
 * too many: those that wait for each other spin on what those that compute need. */
#ifndef STRATA_PARALLEL_CORES_H
#define STRATA_PARALLEL_CORES_H

#include <stdint.h>

enum { CORES_MAX = 1024 };

/* core[i] = 1 when the process may run on a hardware thread of the core whose first thread is i;
 * cpu[i] = 1 when it may run on hardware thread i itself. As many such structs may be added up,
 * field by field, as there are ranks. */
struct cores {
    int32_t core[CORES_MAX], cpu[CORES_MAX];
};

/* From the affinity mask, which launchers set when they bind ranks. */
void cores_allowed(struct cores *cores);

/* Threads for a rank: each of its cores counts 1 / (ranks that may use it). sharers[i] = ranks of
 * the host that may run on core i, this one included. At least 1. */
int cores_share(const struct cores *mine, const int32_t sharers[CORES_MAX]);

/* Hardware threads that are anybody's: entries of a sum of `cpu` that are not 0. */
int cores_cpus(const int32_t cpu[CORES_MAX]);

#endif
