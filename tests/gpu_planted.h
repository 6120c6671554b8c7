/* Kernels with a planted bug, run on the emulator in processes of their own: each must end with the
 * emulator's message or with a wrong result, its right twin with neither. */
#ifndef STRATA_TESTS_GPU_PLANTED_H
#define STRATA_TESTS_GPU_PLANTED_H

#include "kernels/base/device.h"

/* Whether the emulator looks at every access (kernels/emulation/access.h): not beside
 * AddressSanitizer. */
#ifdef __SANITIZE_ADDRESS__
enum { ACCESSES_ARE_SEEN = 0 };
#else
enum { ACCESSES_ARE_SEEN = 1 };
#endif

enum { UNDER_ROUND_ROBIN = 1, UNDER_GREEDY = 2, UNDER_SHUFFLED = 4, UNDER_ALL = 7 };

/* Launches the kind on the emulated GPU; whether the result is right. A caught bug doesn't come
 * back. */
typedef bool planted_fn(struct stream *stream, const struct device *gpu, int kind);

/* It comes back with the right result under each schedule. */
void planted_passes(planted_fn *run, int kind);

/* Under the named schedules it is stopped with a message that has the pattern (an extended regular
 * expression), or, where pattern is NULL, at least gives a wrong result. AddressSanitizer's report,
 * in a build with it, may come first and stands for the message. */
void planted_caught(planted_fn *run, int kind, int under, const char *pattern);

#endif
