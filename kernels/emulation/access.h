/* Every load and store of a kernel is looked at: the .cu files are compiled with the compiler's
 * instrumentation for ThreadSanitizer, whose calls (__tsan_read4, ...) the emulator defines itself.
 * So no other runtime of a sanitizer may be linked: in a build with one, there are no such calls,
 * and what is said here is not checked.
 *   - a device or pinned address must lie in an allocation, a shared one in the block's own objects
 *   - the host's own memory is only read where the program's constants are
 *   - two threads must not touch the same bytes, one of them writing, with nothing between that
 *     orders them (order.h); in shared memory, and in device memory within one grid */
#ifndef STRATA_KERNELS_EMULATION_ACCESS_H
#define STRATA_KERNELS_EMULATION_ACCESS_H

#include <stddef.h>
#include <stdint.h>

namespace emulation {

struct cta;
struct knowledge;

/* For what the emulator itself does in a thread's name: */
void access_read(const void *address, size_t bytes);
void access_write(const void *address, size_t bytes);
/* and in nobody's: a write to shared memory by hardware that has rules of its own (the TMA unit).
 */
void access_by_hardware(struct cta *cta, const void *shared, size_t bytes);

/* Before an atomic of the running thread: it learns what was published there (a look), and
 * publishes what it did: where it called __threadfence before (a change), or in any case (a
 * release). */
enum atomic_kind { ATOMIC_LOOK = 1, ATOMIC_CHANGE = 3, ATOMIC_RELEASE = 6 };
void access_atomic(const void *address, size_t bytes, enum atomic_kind kind);

/* What the barrier of the running block's cluster makes known. */
struct knowledge *access_cluster(void);

/* A grid starts: what came before is ordered. */
void access_start_grid(void);
/* Memory came or went. */
void access_forget_bounds(void);

} // namespace emulation

#endif
