#include "kernels/emulation/memory.h"

#include "kernels/emulation/access.h"
#include "kernels/emulation/machine.h"
#include <map>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace emulation {

static const size_t page = 4096, grain = 256;
static const size_t space_bytes = (size_t)1 << 37, shadow_scale = 4, device_bytes = (size_t)8 << 30;
static const int poison = 0xff;

struct allocation {
    size_t bytes;
    enum memory_kind kind;
};

static struct memory {
    char *base, *next; /* of the reserved addresses: all there are, those not used yet */
    std::map<char *, struct allocation> allocations, freed;
    void *shadow;
    size_t used;
    bool unlocked;
    struct sigaction before;
} memory;

static size_t up(size_t bytes, size_t to) {
    return (bytes + to - 1) / to * to;
}

static char *first_page(char *start) {
    return start - (uintptr_t)start % page;
}

static size_t pages_bytes(char *start, size_t bytes) {
    return (size_t)(start - first_page(start)) + up(bytes, grain);
}

/* The allocation at or before the address, if it is in one or in the guard behind it. */
struct found {
    char *start; /* NULL: none */
    struct allocation allocation;
};

static struct found nearest(const std::map<char *, struct allocation> &in, const char *address) {
    auto at = in.upper_bound((char *)address);
    if (at == in.begin()) return {nullptr, {}};
    --at;
    const char *end = at->first + up(at->second.bytes, grain) + page;
    return address < end ? found{at->first, at->second} : found{nullptr, {}};
}

/* ---- a touch of what must not be touched ---- */

void memory_explain(const char *address) {
    struct found found = nearest(memory.allocations, address);
    struct found freed = nearest(memory.freed, address);
    size_t bytes = found.allocation.bytes, offset = (size_t)(address - found.start);
    if (freed.start > found.start)
        fail("touches freed memory: byte %zu of what was an allocation of %zu",
             (size_t)(address - freed.start), freed.allocation.bytes);
    if (!found.start) fail("touches 0x%zx, which is no allocation of the device", (size_t)address);
    if (offset >= bytes || found.allocation.kind != MEMORY_DEVICE || memory.unlocked)
        fail("out of bounds: byte %zu of an allocation of %zu bytes", offset, bytes);
    fail("the host touches device memory outside of kernels and copies: byte %zu of an allocation "
         "of %zu",
         offset, bytes);
}

static void on_fault(int number, siginfo_t *info, void *context) {
    const char *address = (const char *)info->si_addr;
    signal(SIGABRT, SIG_DFL);
    if (address >= memory.base && address < memory.base + space_bytes) memory_explain(address);
    if (self && fiber_overflowed(&self->fiber, address)) fail("its stack is used up");
    if (self && shared_holds(self->cta, address))
        fail("out of bounds of shared memory: byte %td of %zu dynamic bytes",
             address - self->cta->dynamic, self->cta->dynamic_bytes);
    if (self)
        fprintf(stderr, "emulation: op %s: block (%u,%u,%u) thread %d touches %p\n",
                current_launch()->op, self->cta->index.x, self->cta->index.y, self->cta->index.z,
                self->number, (const void *)address);
    sigaction(number, &memory.before, nullptr);
    if (memory.before.sa_flags & SA_SIGINFO) memory.before.sa_sigaction(number, info, context);
}

static void open_memory(void) {
    if (memory.base) return;
    memory.base = (char *)mmap(nullptr, space_bytes, PROT_NONE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory.base == MAP_FAILED) fail("no address space for the device's memory");
    madvise(memory.base, space_bytes, MADV_DONTDUMP);
    memory.shadow = mmap(nullptr, space_bytes * shadow_scale, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory.shadow == MAP_FAILED) fail("no address space for the device's memory");
    madvise(memory.shadow, space_bytes * shadow_scale, MADV_DONTDUMP);
    memory.next = memory.base + page;
    static char stack[65536]; /* a thread whose own stack is used up can still say so */
    stack_t alternate = {};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    stack_t installed;
    if (sigaltstack(nullptr, &installed) == 0 && (installed.ss_flags & SS_DISABLE))
        sigaltstack(&alternate, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &memory.before);
    sigaction(SIGBUS, &action, nullptr);
}

/* ---- allocations ---- */

struct memory_at memory_look(const void *address) {
    const char *at = (const char *)address;
    if (!memory.base || at < memory.base || at >= memory.base + space_bytes)
        return {MEMORY_HOST, 0};
    struct found found = nearest(memory.allocations, at);
    if (!found.start) return {MEMORY_DEVICE, 0};
    size_t offset = (size_t)(at - found.start), bytes = found.allocation.bytes;
    return {found.allocation.kind, offset < bytes ? bytes - offset : 0};
}

void *memory_allocate(enum memory_kind kind, size_t bytes) {
    open_memory();
    size_t reserved = up(up(bytes, grain), page);
    if (memory.next + reserved + page > memory.base + space_bytes) return nullptr;
    if (kind == MEMORY_DEVICE && memory.used + bytes > device_bytes) return nullptr;
    if (mprotect(memory.next, reserved, PROT_READ | PROT_WRITE) != 0) return nullptr;
    char *start = memory.next + reserved - up(bytes, grain);
    memory.next += reserved + page;
    memset(start, poison, up(bytes, grain));
    memory.allocations[start] = {bytes, kind};
    if (kind != MEMORY_DEVICE) return start;
    memory.used += bytes;
    if (!memory.unlocked) mprotect(first_page(start), pages_bytes(start, bytes), PROT_NONE);
    return start;
}

bool memory_free(enum memory_kind kind, void *start) {
    auto found = memory.allocations.find((char *)start);
    if (found == memory.allocations.end()) return false;
    if (found->second.kind != kind) return false;
    size_t bytes = pages_bytes(found->first, found->second.bytes);
    if (kind == MEMORY_DEVICE) memory.used -= found->second.bytes;
    mmap(first_page(found->first), bytes, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    size_t offset = (size_t)(first_page(found->first) - memory.base);
    madvise((char *)memory.shadow + offset * shadow_scale, bytes * shadow_scale, MADV_DONTNEED);
    access_forget_bounds();
    memory.freed.insert(*found);
    memory.allocations.erase(found);
    return true;
}

static void protect(int how) {
    for (auto &[start, allocation] : memory.allocations)
        if (allocation.kind == MEMORY_DEVICE)
            mprotect(first_page(start), pages_bytes(start, allocation.bytes), how);
}

void memory_unlock(void) {
    if (!memory.unlocked) protect(PROT_READ | PROT_WRITE);
    memory.unlocked = true;
}

void memory_lock(void) {
    if (memory.unlocked) protect(PROT_NONE);
    memory.unlocked = false;
}

void memory_check(void) {
    for (auto &[start, allocation] : memory.allocations) {
        for (size_t i = allocation.bytes; i < up(allocation.bytes, grain); i++)
            if ((unsigned char)start[i] != poison)
                fail("wrote out of bounds: byte %zu of an allocation of %zu bytes", i,
                     allocation.bytes);
    }
}

ptrdiff_t memory_offset(const void *address) {
    ptrdiff_t offset = (const char *)address - memory.base;
    return offset >= 0 && (size_t)offset < space_bytes ? offset : -1;
}

void *memory_shadow(void) {
    return memory.shadow;
}

size_t memory_used(void) {
    return memory.used;
}

size_t memory_total(void) {
    return device_bytes;
}

} // namespace emulation
