/* For the files of kernels/ that are compiled several times: once per instruction set and
 * activation dtype, with -DSTRATA_VARIANT=avx512_f32 and so on. A function named
 * VARIANT(rmsnorm_forward) becomes rmsnorm_forward_avx512_f32; kernels/table.c, compiled the same
 * way, collects them. */
#ifndef STRATA_KERNELS_VARIANT_H
#define STRATA_KERNELS_VARIANT_H

#include "kernels/base/dtype.h"

#define VARIANT_JOIN(name, variant) name##_##variant
#define VARIANT_EXPAND(name, variant) VARIANT_JOIN(name, variant)
#define VARIANT(name) VARIANT_EXPAND(name, STRATA_VARIANT)

/* act: the element type of activations in memory. */
#if STRATA_ACT_BF16
typedef uint16_t act_t;
static inline float act_load(act_t value) {
    return bf16_to_f32(value);
}
static inline act_t act_store(float value) {
    return f32_to_bf16(value);
}
#else
typedef float act_t;
static inline float act_load(act_t value) {
    return value;
}
static inline act_t act_store(float value) {
    return value;
}
#endif

#endif
