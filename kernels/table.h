/* The tables that kernels_cpu chooses from; private to kernels/. */
#ifndef STRATA_KERNELS_TABLE_H
#define STRATA_KERNELS_TABLE_H

#include "kernels/kernels.h"

extern const struct kernels kernels_reference_f32, kernels_reference_bf16;
#if STRATA_X86
extern const struct kernels kernels_avx2_f32, kernels_avx2_bf16;
extern const struct kernels kernels_avx512_f32, kernels_avx512_bf16;
extern const struct kernels kernels_avx512_bf16_bf16; /* "avx512_bf16" for bf16 activations */
peak_dots_gain_fn peak_dots_gain_avx512_bf16_bf16;
#endif

#endif
