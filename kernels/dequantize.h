/* Stored elements to fp32, exactly as their format defines them.
 * Source of the block formats: ggml's ggml-common.h (block_q4_K and friends). */
#ifndef STRATA_KERNELS_DEQUANTIZE_H
#define STRATA_KERNELS_DEQUANTIZE_H

#include "kernels/base/dtype.h"
#include <stdbool.h>

/* out (count) f32 from `count` elements of `type` at `data` (any alignment); count is a multiple of
 * the block. Returns false, and writes nothing, for types that are not numbers of a model (I8 ...
 * BOOL; F64 is read) and for those that nothing here reads (dtype.h). One thread: callers split. */
bool dequantize(float *out, enum dtype type, const void *data, size_t count);

/* The other way for F32, F16, BF16 and Q8_0 (what exports write): rounds to nearest even, Q8_0 with
 * scale max|x|/127 stored as f16 (NaN where an element of the block is NaN or infinite). `out` may
 * have any alignment. Returns false for other types. */
bool quantize(void *out, enum dtype type, const float *data, size_t count);

#endif
