/* Coroutines on stacks of their own: one a CUDA thread. The stacks have a guard page below, and
 * their tops lie at different offsets of a page, so that a switch among many doesn't fight over
 * one set of the first cache. */
#ifndef STRATA_KERNELS_EMULATION_FIBER_H
#define STRATA_KERNELS_EMULATION_FIBER_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATION_ASAN 1
#else
#define EMULATION_ASAN 0
#endif

namespace emulation {

struct fiber {
    void *context; /* the saved stack pointer, or a ucontext */
    char *stack;   /* above its guard page; NULL: the host's own stack */
    size_t bytes;
    void *fake; /* AddressSanitizer's record of the stack while it is left */
};

/* `count` fibers with stacks; they live until the process ends. */
void fibers_allocate(struct fiber *fibers, int count);

/* The next switch to `fiber` calls entry(), which must never return. */
void fiber_prepare(struct fiber *fiber, void (*entry)(void));

/* Leaves `from` and continues `to` where it left, or at its entry. The first line that runs in an
 * entry must be fiber_arrive(its fiber). */
void fiber_switch(struct fiber *from, struct fiber *to);
void fiber_arrive(struct fiber *fiber);

/* Whether the address lies in the guard page of the fiber's stack. */
bool fiber_overflowed(const struct fiber *fiber, const void *address);

} // namespace emulation

#endif
