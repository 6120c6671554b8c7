/* What the record of a rank's calls costs a call: ns for ring_enter and ring_leave, the clock read
 * twice included. */
#include "kernels/base/clock.h"
#include "parallel/ring.h"

#include <stdio.h>

int main(void) {
    enum { CALLS = 5000000, ROUNDS = 5 };
    const int32_t members[2] = {0, 1};
    const struct where where = {WHERE_BACKWARD, 12, 3};
    struct rings *rings = rings_create(0);
    struct ring *ring = rings ? ring_open(rings, "tp", 0, members, 2) : NULL;
    if (!ring) return 1;
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        double start = clock_seconds();
        for (int i = 0; i < CALLS; i++) {
            struct ring_call call;
            const struct ring_entry what = {
                .op = RING_ALL_REDUCE, .count = i, .peer = RING_NO_PEER};
            ring_enter(&call, ring, &where, &what, true);
            ring_leave(&call);
        }
        double seconds = clock_seconds() - start;
        if (seconds < best) best = seconds;
    }
    printf("ring_enter + ring_leave: %.1f ns a call\n", best / CALLS * 1e9);
    rings_free(rings);
    return 0;
}
