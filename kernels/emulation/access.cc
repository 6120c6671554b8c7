#include "kernels/emulation/access.h"

#include "kernels/emulation/device.h"
#include "kernels/emulation/memory.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <unordered_map>

extern "C" char __executable_start, _end; /* of the program, from the linker */

namespace emulation {

enum { WORD = 4, MASK_BITS = 4, EPOCH_BITS = 20, THREAD_BITS = 10, LINES = 64 };

static struct access {
    uint64_t first_serial; /* of the grid's blocks */
    std::unordered_map<const void *, struct knowledge> published;
    std::unordered_map<uint64_t, struct knowledge> clusters;
    struct {
        const char *start, *end;
    } lines[LINES]; /* allocations that were looked up, by address */
} known;

/* ---- stamps: who touched a word last, when, and which of its bytes ---- */

static uint64_t stamp(const struct thread *thread, unsigned mask) {
    uint64_t epoch = thread->epoch < (1u << EPOCH_BITS) ? thread->epoch : (1u << EPOCH_BITS) - 1;
    return ((thread->cta->serial << THREAD_BITS | (uint64_t)thread->number) << EPOCH_BITS | epoch)
               << MASK_BITS |
           mask;
}

static uint64_t serial_of(uint64_t stamp) {
    return stamp >> (MASK_BITS + EPOCH_BITS + THREAD_BITS);
}

static uint32_t thread_of(uint64_t stamp) {
    return (uint32_t)(stamp >> (MASK_BITS + EPOCH_BITS)) & ((1u << THREAD_BITS) - 1);
}

static uint32_t epoch_of(uint64_t stamp) {
    return (uint32_t)(stamp >> MASK_BITS) & ((1u << EPOCH_BITS) - 1);
}

/* The common answers first: of an earlier grid, of this thread, before the block's last barrier. */
static inline bool before(uint64_t other, const struct thread *thread) {
    const uint64_t serial = serial_of(other);
    if (serial < known.first_serial) return true;
    const struct cta *cta = thread->cta;
    if (serial == cta->serial && (thread_of(other) == (uint32_t)thread->number ||
                                  epoch_of(other) <= cta->floor[thread_of(other)]))
        return true;
    return order_before(serial, thread_of(other), epoch_of(other));
}

/* ---- reports ---- */

/* The source line of an instruction, if the machine has addr2line. */
static void say_line(const void *code) {
    char command[256], program[128];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) return;
    program[length] = 0;
    snprintf(command, sizeof command, "addr2line -se '%s' 0x%zx 1>&2 2>/dev/null", program,
             (size_t)((const char *)code - 1 - &__executable_start));
    fprintf(stderr, "emulation: the access is at ");
    fflush(stderr);
    if (system(command) != 0) fprintf(stderr, "an unknown line\n");
}

[[noreturn]] static void fail_race(const void *address, bool write, uint64_t other, bool wrote,
                                   const void *code) {
    uint64_t block = serial_of(other) - known.first_serial;
    say_line(code);
    fail("a race: %s %p, which thread %u of block %llu %s, and nothing orders the two",
         write ? "writes" : "reads", address, thread_of(other), (unsigned long long)block,
         wrote ? "wrote" : "read");
}

/* ---- checks ---- */

struct cell {
    uint64_t writer, reader;
};

static inline __attribute__((always_inline)) void check_word(const struct thread *thread,
                                                             struct cell *cell, const char *address,
                                                             unsigned mask, bool write,
                                                             const void *code) {
    uint64_t mine = stamp(thread, mask), writer = cell->writer, reader = cell->reader;
    bool same = (writer ^ mine) >> MASK_BITS == 0;
    if (!same && (writer & mask) && !before(writer, thread))
        fail_race(address, write, writer, true, code);
    if (!write) {
        if ((reader ^ mine) >> MASK_BITS == 0)
            cell->reader = reader | mask;
        else if (!reader || thread_of(reader) == thread_of(mine) || before(reader, thread))
            cell->reader = mine;
        return;
    }
    if ((reader & mask) && (reader ^ mine) >> MASK_BITS != 0 && !before(reader, thread))
        fail_race(address, true, reader, false, code);
    cell->writer = same ? writer | mask : mine;
    cell->reader = 0;
}

static inline void check_words(const struct thread *thread, struct cell *cells, uintptr_t offset,
                               const char *address, size_t bytes, bool write, const void *code) {
    for (uintptr_t at = offset; at < offset + bytes;) {
        uintptr_t word = at / WORD, next = (word + 1) * WORD;
        uintptr_t end = next < offset + bytes ? next : offset + bytes;
        unsigned mask = (1u << (end - word * WORD)) - (1u << (at - word * WORD));
        check_word(thread, &cells[word], address + (at - offset), mask, write, code);
        at = end;
    }
}

static inline void check_shared_bounds(const struct cta *cta, const char *at, size_t bytes,
                                       const void *code) {
    if (at >= cta->dynamic && at + bytes <= cta->dynamic + cta->dynamic_bytes) return;
    for (int i = 0; i < cta->object_count; i++) {
        const char *start = (const char *)cta->objects[i].memory;
        if (at >= start && at + bytes <= start + cta->objects[i].bytes) return;
    }
    say_line(code);
    if (at >= cta->window - 1024)
        fail("out of bounds of shared memory: byte %td of %zu dynamic bytes", at - cta->dynamic,
             cta->dynamic_bytes);
    fail("out of bounds of shared memory: beyond a static object");
}

static void shared_access(struct cta *cta, const char *at, size_t bytes, bool write,
                          const void *code) {
    check_shared_bounds(cta, at, bytes, code);
    struct cell *cells = (struct cell *)cta->shadow;
    uintptr_t offset = (uintptr_t)(at - cta->statics);
    for (uintptr_t word = offset / WORD; word <= (offset + bytes - 1) / WORD; word++) {
        const struct cell *cell = &cells[word];
        if (serial_of(cell->writer) == cta->serial || serial_of(cell->reader) == cta->serial)
            continue;
        cells[word] = {0, 0}; /* of a block that was here before */
    }
    check_words(self, cells, offset, at, bytes, write, code);
}

static void device_access(const char *at, size_t bytes, bool write, const void *code) {
    auto *line = &known.lines[((uintptr_t)at >> 12) % LINES];
    if (at < line->start || at + bytes > line->end) {
        struct memory_at found = memory_look(at);
        if (found.bytes < bytes) {
            say_line(code);
            memory_explain(at);
        }
        line->start = at;
        line->end = at + found.bytes;
    }
    check_words(self, (struct cell *)memory_shadow(), (uintptr_t)memory_offset(at), at, bytes,
                write, code);
}

/* Constants of the program may be read; so may the launch's arguments, and what tells a thread its
 * place. A peer's shared memory is judged by the cluster's rules. */
static void other_access(const char *at, bool write, const void *code) {
    const struct launch *launch = current_launch();
    const char *arguments = (const char *)launch->arguments;
    if (at >= arguments && at < arguments + launch->argument_bytes) return;
    if (at >= (const char *)&place_now && at < (const char *)(&place_now + 1)) return;
    if (at >= (const char *)&blockDim && at < (const char *)(&blockDim + 1)) return;
    if (at >= (const char *)&gridDim && at < (const char *)(&gridDim + 1)) return;
    if (!write && at >= &__executable_start && at < &_end) return;
    for (int rank = 0; rank < launch->cluster; rank++) {
        const struct cta *peer = cluster_of(self->cta, (uint32_t)rank);
        if (peer && shared_holds(peer, at)) return;
    }
    say_line(code);
    fail("%s %p, which is the host's own memory", write ? "writes" : "reads", (const void *)at);
}

static inline void touch(const void *address, size_t bytes, bool write, const void *code) {
    const struct thread *thread = self;
    if (!thread) return;
    const char *at = (const char *)address;
    if (at >= thread->fiber.stack && at < thread->fiber.stack + thread->fiber.bytes) return;
    struct cta *cta = thread->cta;
    if (shared_holds(cta, at))
        shared_access(cta, at, bytes, write, code);
    else if (memory_offset(at) >= 0)
        device_access(at, bytes, write, code);
    else
        other_access(at, write, code);
}

void access_read(const void *address, size_t bytes) {
    if (ACCESS_IS_CHECKED) touch(address, bytes, false, __builtin_return_address(0));
}

void access_write(const void *address, size_t bytes) {
    if (ACCESS_IS_CHECKED) touch(address, bytes, true, __builtin_return_address(0));
}

void access_by_hardware(struct cta *cta, const void *shared, size_t bytes) {
    if (!ACCESS_IS_CHECKED) return;
    struct cell *cells = (struct cell *)cta->shadow;
    uintptr_t offset = (uintptr_t)((const char *)shared - cta->statics);
    uint64_t ordered = cta->serial << (THREAD_BITS + EPOCH_BITS + MASK_BITS); /* epoch 0 */
    for (uintptr_t word = offset / WORD; word <= (offset + bytes - 1) / WORD; word++)
        cells[word] = {ordered, 0};
}

void access_atomic(const void *address, size_t bytes, enum atomic_kind kind) {
    if (!ACCESS_IS_CHECKED) return;
    bool shared = shared_holds(self->cta, address);
    if (shared) check_shared_bounds(self->cta, (const char *)address, bytes, address);
    struct knowledge *there = &known.published[address];
    if (kind & 1) order_acquire(there);
    if (kind & 4 || (kind & 2 && (self->fenced || shared))) order_release(there);
}

struct knowledge *access_cluster(void) {
    return &known.clusters[self->cta->number / (uint64_t)current_launch()->cluster];
}

void access_start_grid(void) {
    known.published.clear();
    known.clusters.clear();
    known.first_serial = current_launch()->first_serial;
}

void access_forget_bounds(void) {
    for (auto &line : known.lines) line = {nullptr, nullptr};
}

} // namespace emulation

/* ---- what the compiler calls ---- */

#define CODE __builtin_return_address(0)
#define HOOKS(bytes)                                                                               \
    void __tsan_read##bytes(void *address) {                                                       \
        emulation::touch(address, bytes, false, CODE);                                             \
    }                                                                                              \
    void __tsan_write##bytes(void *address) {                                                      \
        emulation::touch(address, bytes, true, CODE);                                              \
    }                                                                                              \
    void __tsan_unaligned_read##bytes(void *address) {                                             \
        emulation::touch(address, bytes, false, CODE);                                             \
    }                                                                                              \
    void __tsan_unaligned_write##bytes(void *address) {                                            \
        emulation::touch(address, bytes, true, CODE);                                              \
    }

#if ACCESS_IS_CHECKED
extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void *address, size_t bytes) {
    emulation::touch(address, bytes, false, CODE);
}
void __tsan_write_range(void *address, size_t bytes) {
    emulation::touch(address, bytes, true, CODE);
}
void __tsan_init(void) {}
void __tsan_vptr_update(void *, void *) {}
void __tsan_vptr_read(void *) {}
/* Of host functions: guards of static objects, counts of shared pointers. */
int __tsan_atomic32_fetch_add(volatile int *address, int value, int) {
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
char __tsan_atomic8_load(const volatile char *address, int) {
    return __atomic_load_n(address, __ATOMIC_SEQ_CST);
}
}
#endif
