/* Shared memory of a CTA: poisoned (every float of it a NaN) when a CTA starts, with guards. */
#include "kernels/emulation/machine.h"

#include <string.h>
#include <sys/mman.h>
#if EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace emulation {

static const int poison = 0xff;
static const size_t page = PAGE, redzone = 64;
static const size_t statics_bytes = STATIC_BYTES, window_bytes = WINDOW_BYTES;

/* guard | static objects | guard | window | guard */
void shared_open(struct cta *cta) {
    size_t total = statics_bytes + window_bytes + 3 * page;
    char *memory = (char *)mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for shared memory");
    cta->statics = memory + page;
    cta->window = cta->statics + statics_bytes + page;
    mprotect(cta->statics, statics_bytes, PROT_READ | PROT_WRITE);
    mprotect(cta->window, window_bytes, PROT_READ | PROT_WRITE);
    size_t shadow_bytes = 4 * (statics_bytes + page + window_bytes); /* 16 bytes a word */
    cta->shadow = mmap(nullptr, shadow_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cta->shadow == MAP_FAILED) fail("no memory for shared memory");
    memset(cta->statics, poison, statics_bytes);
    memset(cta->window, poison, window_bytes);
    ASAN_POISON_MEMORY_REGION(cta->statics, statics_bytes);
    ASAN_POISON_MEMORY_REGION(cta->window, window_bytes);
}

static size_t up(size_t bytes, size_t alignment) {
    return (bytes + alignment - 1) / alignment * alignment;
}

static void wipe(char *memory, size_t bytes) {
    ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
    memset(memory, poison, bytes);
    ASAN_POISON_MEMORY_REGION(memory, bytes);
}

void shared_reset(struct cta *cta, size_t dynamic_bytes) {
    wipe(cta->statics, cta->static_bytes + redzone);
    wipe(cta->window + window_bytes - up(cta->dynamic_bytes, 1024), up(cta->dynamic_bytes, 1024));
    cta->static_bytes = 0;
    cta->object_count = 0;
    cta->dynamic_bytes = dynamic_bytes;
    cta->dynamic = cta->window + window_bytes - up(dynamic_bytes, 1024);
    wipe(cta->dynamic, up(dynamic_bytes, 1024));
    ASAN_UNPOISON_MEMORY_REGION(cta->dynamic, dynamic_bytes);
}

char *shared_dynamic(void) {
    return self->cta->dynamic;
}

void *shared_object(const void *site, size_t bytes, size_t alignment) {
    struct cta *cta = self->cta;
    for (int i = 0; i < cta->object_count; i++)
        if (cta->objects[i].site == site) return cta->objects[i].memory;
    size_t start = up(cta->static_bytes, alignment < 16 ? 16 : alignment);
    if (cta->object_count == STATIC_OBJECTS || start + bytes > DEFAULT_SHARED)
        fail("more than 48 KiB or %d objects of static shared memory", STATIC_OBJECTS);
    cta->static_bytes = start + bytes + redzone;
    cta->objects[cta->object_count++] = {site, cta->statics + start, bytes};
    ASAN_UNPOISON_MEMORY_REGION(cta->statics + start, bytes);
    return cta->statics + start;
}

static void check_untouched(const struct cta *cta, char *memory, size_t bytes, const char *what) {
    ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)memory[i] != poison)
            fail("block (%u,%u,%u) wrote out of bounds of shared memory: %zu bytes behind %s",
                 cta->index.x, cta->index.y, cta->index.z, i, what);
    ASAN_POISON_MEMORY_REGION(memory, bytes);
}

void shared_check(const struct cta *cta) {
    size_t slack = up(cta->dynamic_bytes, 1024) - cta->dynamic_bytes;
    check_untouched(cta, cta->dynamic + cta->dynamic_bytes, slack, "the launch's bytes");
    for (int i = 0; i < cta->object_count; i++)
        check_untouched(cta, (char *)cta->objects[i].memory + cta->objects[i].bytes, redzone,
                        "a static object");
}

} // namespace emulation
