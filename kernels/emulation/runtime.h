/* Streams and events of the emulated runtime. */
#ifndef STRATA_KERNELS_EMULATION_RUNTIME_H
#define STRATA_KERNELS_EMULATION_RUNTIME_H

#include "kernels/emulation/machine.h"
#include <deque>

struct CUevent_st {
    uint64_t recorded, done; /* how often it was put on a stream; the last of these that came up */
    double seconds;          /* when that was */
};

namespace emulation {

/* One thing that a stream does: waits until `event` is done `version` times, then works. */
struct work {
    struct CUevent_st *event; /* NULL: nothing to wait for */
    uint64_t version;
    std::function<void(void)> run;
};

} // namespace emulation

struct CUstream_st {
    int number; /* of those that were created */
    std::deque<struct emulation::work> queue;
};

#endif
