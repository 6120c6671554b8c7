#include "kernels/emulation/device.h"

namespace emulation {

void fence(void) {
    self->fenced = true;
}

static void exchange(void *const *arguments, uint32_t mask) {
    uint64_t values[WARP];
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        int lane = __builtin_ctz(rest);
        values[lane] = ((const struct shuffle *)arguments[lane])->value;
    }
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        struct shuffle *mine = (struct shuffle *)arguments[__builtin_ctz(rest)];
        mine->value = mask >> mine->source & 1 ? values[mine->source] : UINT64_MAX;
    }
}

void shuffle_values(const char *name, uint32_t mask, struct shuffle *mine, const char *file,
                    int line) {
    warp_meet(name, mask, mine, false, exchange, {name, file, line});
}

static void count_votes(void *const *arguments, uint32_t mask) {
    uint32_t votes = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        if (*(const uint32_t *)arguments[__builtin_ctz(rest)]) votes |= rest & -rest;
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        *(uint32_t *)arguments[__builtin_ctz(rest)] = votes;
}

uint32_t ballot(const char *name, uint32_t mask, bool vote, const char *file, int line) {
    uint32_t mine = vote;
    warp_meet(name, mask, &mine, false, count_votes, {name, file, line});
    return mine;
}

} // namespace emulation
