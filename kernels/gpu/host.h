/* Strata's C headers, for the host's side of a .cu file: what they declare has C's linkage. */
#ifndef STRATA_KERNELS_GPU_HOST_H
#define STRATA_KERNELS_GPU_HOST_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow" /* of C++: a function with the name of a struct */
extern "C" {
#include "kernels/base/device.h"
#include "kernels/kernels.h"
}
#pragma GCC diagnostic pop

#endif
