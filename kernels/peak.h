/* What this machine can do at most: the ceilings that speeds are told against. */
#ifndef STRATA_KERNELS_PEAK_H
#define STRATA_KERNELS_PEAK_H

/* FLOP/s of fp32 multiply-adds from registers alone, over `threads` threads, with the instructions
 * of the table; the best of a few bursts, about 10 ms in all. A multiply-add counts 2. */
typedef double peak_fma_fn(int threads);

/* The rate of a dot-product instruction of bf16 pairs over that of fp32 multiply-adds, counted in
 * FLOPs: 2 where it takes no longer, below 1 where it gains nothing. One thread, about 1 ms. Only
 * tables that have the instruction. */
typedef double peak_dots_gain_fn(void);

#endif
