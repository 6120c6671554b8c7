/* Counter-based random numbers: a value is a pure function of (key, counter), so it does not
 * depend on threads, ranks, shards or what was drawn before. Philox4x32-10 (Salmon et al.,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011). */
#ifndef STRATA_KERNELS_BASE_RNG_H
#define STRATA_KERNELS_BASE_RNG_H

#include "kernels/base/pure.h"
#include <stdint.h>

/* What the draws are for; the high word of the counter, so that purposes never collide. */
enum rng_purpose {
    RNG_INIT = 1,    /* initial weights: index = global element */
    RNG_SHUFFLE = 2, /* data order: domain = epoch */
    RNG_DROPOUT = 3,
    RNG_SAMPLE = 4, /* serving: index = position in the request */
    RNG_TEST = 5,
};

struct rng_block {
    uint32_t word[4];
};

GPU_PURE struct rng_block rng_philox(uint64_t key, uint64_t high, uint64_t low) {
    uint32_t c0 = (uint32_t)low, c1 = (uint32_t)(low >> 32);
    uint32_t c2 = (uint32_t)high, c3 = (uint32_t)(high >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    struct rng_block block = {{c0, c1, c2, c3}};
    return block;
}

/* The counter of draw `index` in `domain` (a tensor's or step's number) for `purpose`. */
GPU_PURE struct rng_block rng_draw(uint64_t seed, enum rng_purpose purpose, uint64_t domain,
                                   uint64_t index) {
    return rng_philox(seed, ((uint64_t)purpose << 56) ^ domain, index);
}

/* [0, 1) in steps of 2^-24. */
GPU_PURE float rng_unit(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

/* A standard normal number from two words of a block (Box-Muller). */
float rng_normal(uint32_t first, uint32_t second);

#endif
