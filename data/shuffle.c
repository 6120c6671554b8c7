#include "data/shuffle.h"

#include "kernels/base/rng.h"

#include <assert.h>

enum { SHUFFLE_ROUNDS = 6 };

int64_t shuffle_index(uint64_t seed, int64_t epoch, int64_t count, int64_t index) {
    assert(index >= 0 && index < count && epoch >= 0);
    int half = 1;
    while (half < 31 && (int64_t)1 << (2 * half) < count) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1, value = (uint64_t)index;
    do {
        uint64_t left = value >> half, right = value & mask;
        for (uint64_t round = 0; round < SHUFFLE_ROUNDS; round++) {
            struct rng_block block =
                rng_draw(seed, RNG_SHUFFLE, (uint64_t)epoch, round << 32 | right);
            uint64_t next = left ^ (block.word[0] & mask);
            left = right;
            right = next;
        }
        value = left << half | right;
    } while (value >= (uint64_t)count);
    return (int64_t)value;
}
