#include "kernels/emulation/fiber.h"

#include "kernels/emulation/machine.h"
#include <stdint.h>
#include <sys/mman.h>
#if EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
/* Saves what a call must keep (System V ABI), swaps stacks, takes it back. The jump instead of a
 * return keeps the processor's return predictor out of it. */
extern "C" void emulation_switch(void **save, void *load);
asm(R"(
    .text
    .globl emulation_switch
    .hidden emulation_switch
    .type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
    .size emulation_switch, .-emulation_switch
)");
#else
#include <new>
#include <ucontext.h>
#endif

namespace emulation {

static const size_t page = 4096;
static const size_t stack_bytes = EMULATION_ASAN ? 512 << 10 : 128 << 10;

void fibers_allocate(struct fiber *fibers, int count) {
    size_t stride = stack_bytes + page, total = stride * (size_t)count;
    char *memory = (char *)mmap(nullptr, total, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for %d stacks", count);
    for (int i = 0; i < count; i++) {
        char *base = memory + stride * (size_t)i;
        mprotect(base, page, PROT_NONE);
        size_t color = (size_t)(i * 5 % 32) * 64; /* of the top, within half a page */
        fibers[i] = fiber{nullptr, base + page, stack_bytes - color, nullptr};
    }
}

bool fiber_overflowed(const struct fiber *fiber, const void *address) {
    return (const char *)address < fiber->stack && (const char *)address >= fiber->stack - page;
}

#if defined(__x86_64__)
void fiber_prepare(struct fiber *fiber, void (*entry)(void)) {
#if EMULATION_ASAN
    ASAN_UNPOISON_MEMORY_REGION(fiber->stack, fiber->bytes);
#endif
    void **top = (void **)((uintptr_t)(fiber->stack + fiber->bytes) & ~(uintptr_t)15);
    *--top = nullptr; /* where a call would have left its return address: alignment */
    *--top = (void *)entry;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber->context = top;
}

static void swap(struct fiber *from, struct fiber *to) {
    emulation_switch(&from->context, to->context);
}
#else
void fiber_prepare(struct fiber *fiber, void (*entry)(void)) {
#if EMULATION_ASAN
    ASAN_UNPOISON_MEMORY_REGION(fiber->stack, fiber->bytes);
#endif
    if (!fiber->context) fiber->context = new ucontext_t;
    ucontext_t *context = (ucontext_t *)fiber->context;
    getcontext(context);
    context->uc_stack.ss_sp = fiber->stack;
    context->uc_stack.ss_size = fiber->bytes;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
}

static void swap(struct fiber *from, struct fiber *to) {
    if (!from->context) from->context = new ucontext_t;
    swapcontext((ucontext_t *)from->context, (ucontext_t *)to->context);
}
#endif

#if EMULATION_ASAN
void fiber_switch(struct fiber *from, struct fiber *to) {
    __sanitizer_start_switch_fiber(&from->fake, to->stack, to->bytes);
    swap(from, to);
    fiber_arrive(from);
}

void fiber_arrive(struct fiber *fiber) {
    const void *left;
    size_t bytes;
    __sanitizer_finish_switch_fiber(fiber->fake, &left, &bytes);
    struct fiber *host = host_fiber();
    if (host && fiber != host &&
        !host->stack) { /* what the host's stack is, a fiber learns first */
        host->stack = (char *)left;
        host->bytes = bytes;
    }
}
#else
void fiber_switch(struct fiber *from, struct fiber *to) {
    swap(from, to);
}

void fiber_arrive(struct fiber *) {}
#endif

} // namespace emulation
