/* What happens before what among the threads of a grid: vector clocks (Mattern 1989) made cheap.
 *
 * Each thread counts epochs: it begins a new one whenever others may come to know what it did. An
 * access of (block, thread, epoch) happens before what thread t does now if t has heard of that
 * epoch: through the last barrier of the whole block (`floor`, one for all), a barrier or
 * __syncwarp of some of its threads since (the thread's `view`), or, from another block, through an
 * atomic that saw a value which that block published behind a __threadfence (`acquired`). Shuffles
 * and votes order nothing, as in CUDA's memory model. */
#ifndef STRATA_KERNELS_EMULATION_ORDER_H
#define STRATA_KERNELS_EMULATION_ORDER_H

#include <map>
#include <memory>
#include <stdint.h>
#include <vector>

namespace emulation {

struct thread;
struct cta;

typedef std::vector<uint32_t> epochs; /* by thread of a block: the last that is known */

/* What was made known at one place (a barrier, a flag), by each block's serial number. */
struct knowledge {
    std::map<uint64_t, std::shared_ptr<const epochs>> blocks;
};

void order_start(struct cta *cta);
/* All threads of the block that live have met. */
void order_everyone(struct cta *cta);
/* These have met, and know what is in `known` too (NULL: nothing). */
void order_some(struct thread *const *threads, int count, const struct knowledge *known);
/* The running thread makes known what it did and knows; it learns what others made known. */
void order_release(struct knowledge *known);
void order_acquire(const struct knowledge *known);
/* Whether the access of that epoch happened before what the running thread does now. */
bool order_before(uint64_t block, uint32_t thread, uint32_t epoch);

} // namespace emulation

#endif
