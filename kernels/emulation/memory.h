/* The emulated device's memory. It lies at addresses that the host can't touch but while a kernel
 * or a copy runs (memory_unlock .. memory_lock); each allocation is poisoned and ends, but for a
 * checked rest of at most 255 bytes, at a guard page. Addresses aren't used twice. */
#ifndef STRATA_KERNELS_EMULATION_MEMORY_H
#define STRATA_KERNELS_EMULATION_MEMORY_H

#include <stddef.h>

namespace emulation {

enum memory_kind { MEMORY_HOST, MEMORY_DEVICE, MEMORY_PINNED };

/* What the address is, and how many bytes of its allocation follow it (0 for the host's own and
 * for what was freed). */
struct memory_at {
    enum memory_kind kind;
    size_t bytes;
};
struct memory_at memory_look(const void *address);

/* NULL where the device's memory (8 GiB) or the host's is used up. */
void *memory_allocate(enum memory_kind kind, size_t bytes);
/* false: this is no allocation's start, or of another kind. */
bool memory_free(enum memory_kind kind, void *memory);

void memory_unlock(void);
void memory_lock(void);

/* After a kernel: fail() where something wrote behind an allocation. */
void memory_check(void);

/* Says what is wrong with a touch of this address of the device's, and aborts. */
[[noreturn]] void memory_explain(const char *address);

/* Where the address lies in the device's address space; -1: not in it. And 16 bytes a word of it
 * for access.cc, zeroed when memory is freed. */
ptrdiff_t memory_offset(const void *address);
void *memory_shadow(void);

size_t memory_used(void);
size_t memory_total(void);

} // namespace emulation

#endif
