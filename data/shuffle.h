/* A permutation of 0 .. count-1 that needs no memory: a Feistel network over the next power of four
 * with Philox as its round function, walked until the value is below count (Black and Rogaway,
 * "Ciphers with arbitrary finite domains", CT-RSA 2002). A pure function of (seed, epoch, index).
 */
#ifndef STRATA_DATA_SHUFFLE_H
#define STRATA_DATA_SHUFFLE_H

#include <stdint.h>

/* 0 <= index < count, 0 <= epoch < 2^56. */
int64_t shuffle_index(uint64_t seed, int64_t epoch, int64_t count, int64_t index);

#endif
