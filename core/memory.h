/* How much memory the machine has to give. */
#ifndef STRATA_CORE_MEMORY_H
#define STRATA_CORE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes that this process can take without swapping: the least of what the machine has available
 * (MemAvailable, proc(5)) and what its control groups, versions 1 and 2, leave of their limits,
 * file pages that can be dropped counted as free. False where nothing says. `root` stands before
 * the system's paths: "" but in tests. */
bool memory_available(const char *root, size_t *bytes);

#endif
