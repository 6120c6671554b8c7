/* GPU_PURE: a function of a header that the host's C, C++ and device code share. */
#ifndef STRATA_KERNELS_BASE_PURE_H
#define STRATA_KERNELS_BASE_PURE_H

#ifdef __CUDACC__
#define GPU_PURE static inline __host__ __device__
#else
#define GPU_PURE static inline
#endif

#endif
