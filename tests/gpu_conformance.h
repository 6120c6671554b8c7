/* Whether the hardware lays data as kernels/gpu/layout.h says: a kernel a layout (ldmatrix,
 * mma.sync, TMA boxes in every swizzle, wgmma for every N, major and swizzle), compared with plain
 * arithmetic. On the emulator the same cases check that it keeps to the same model. Numbers are
 * small and whole, so that every sum is exact and the comparison is bit for bit. */
#ifndef STRATA_TESTS_GPU_CONFORMANCE_H
#define STRATA_TESTS_GPU_CONFORMANCE_H

#include "kernels/base/device.h"

enum { CONFORMANCE_NAME = 96 };

/* Runs case `number` from 0; false behind the last. `name` says what it is, `wrong` is "" or the
 * first difference. For GPUs of compute capability 9.0. */
bool conformance_run(struct stream *stream, const struct device *gpu, int number,
                     char name[CONFORMANCE_NAME], char wrong[CONFORMANCE_NAME]);

#endif
