/* What this machine can do at most: the ceilings that speeds are told against. */
#ifndef STRATA_KERNELS_PEAK_H
#define STRATA_KERNELS_PEAK_H

/* fp32 multiply-adds from registers alone, as FLOP/s over `threads` threads, measured for about 20
 * ms with the instructions of the table called `table` ("reference" measures scalar code). */
double peak_fma_flops(const char *table, int threads);

#endif
