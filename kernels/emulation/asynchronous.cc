#include "kernels/emulation/asynchronous.h"

#include <algorithm>
#include <stdio.h>
#include <string.h>

namespace emulation {

enum { REGISTERS = 65536, MOST_REGISTERS = 256, UNIT = 2, BLOCK = 1024 };

void asynchronous_start(struct cta *cta) {
    if (!cta->asynchronous) cta->asynchronous = new struct asynchronous();
    cta->asynchronous->used = false;
    for (struct small_copies &copies : cta->asynchronous->small)
        copies.open.clear(), copies.groups.clear();
}

struct asynchronous *asynchronous_use(struct cta *cta) {
    struct asynchronous *record = cta->asynchronous;
    if (record->used) return record;
    size_t bytes = (cta->dynamic_bytes + BLOCK - 1) / BLOCK * BLOCK;
    record->used = true;
    record->barriers.clear();
    record->threads = std::vector<struct thread_work>((size_t)cta->threads);
    record->warpgroups =
        std::vector<struct warpgroup>(((size_t)cta->threads + WARPGROUP - 1) / WARPGROUP);
    record->chunks.assign(bytes / CHUNK, {0, 0});
    int each = std::min(REGISTERS / cta->threads / 8 * 8, MOST_REGISTERS + 0);
    record->register_pool = 0;
    record->warp_registers.assign((size_t)cta->warps, each);
    record->register_waiting.clear();
    /* What isn't poison any more somebody wrote before. */
    record->writer.assign(bytes / UNIT, WRITER_NONE);
    record->seen.assign(bytes, (char)0xff);
    record->seen.resize(bytes);
    compare(cta, WRITER_UNKNOWN);
    return record;
}

struct thread_work *work_of(struct thread *thread) {
    return &asynchronous_use(thread->cta)->threads[(size_t)thread->number];
}

/* ---- what threads wrote ---- */

static void note_writer(struct asynchronous *record, size_t unit, uint16_t writer) {
    if (record->writer[unit] == writer) return;
    record->writer[unit] = writer;
    if (writer != WRITER_UNKNOWN)
        record->threads[writer - 1u].unpublished.push_back((uint32_t)unit);
}

void compare(struct cta *cta, uint16_t writer) {
    struct asynchronous *record = cta->asynchronous;
    for (size_t start = 0; start < cta->dynamic_bytes; start += BLOCK) {
        size_t bytes = std::min(cta->dynamic_bytes - start, (size_t)BLOCK);
        const char *now = cta->dynamic + start;
        char *seen = record->seen.data() + start;
        if (memcmp(now, seen, bytes) == 0) continue;
        for (size_t i = 0; i < bytes; i += UNIT)
            if (memcmp(now + i, seen + i, UNIT) != 0)
                note_writer(record, (start + i) / UNIT, writer);
        memcpy(seen, now, bytes);
    }
}

void asynchronous_thread_stopped(struct thread *thread) {
    struct cta *cta = thread->cta;
    if (cta->asynchronous->used) compare(cta, (uint16_t)(thread->number + 1));
    int cluster = current_launch()->cluster;
    for (int rank = 0; cluster > 1 && rank < cluster; rank++) {
        struct cta *peer = cluster_of(cta, (uint32_t)rank);
        if (peer && peer != cta && peer->asynchronous->used) compare(peer, WRITER_UNKNOWN);
    }
}

static void publish(struct cta *cta, struct thread *thread) {
    struct asynchronous *record = asynchronous_use(cta);
    struct thread_work *work = work_of(thread);
    uint16_t writer = (uint16_t)(thread->number + 1);
    compare(cta, writer);
    for (uint32_t unit : work->unpublished)
        if (record->writer[unit] == writer) record->writer[unit] = WRITER_NONE;
    work->unpublished.clear();
    for (uint16_t &other : record->writer)
        if (other == WRITER_UNKNOWN) other = WRITER_NONE;
}

void async_wrote(struct cta *cta, uint32_t offset, uint32_t bytes) {
    struct asynchronous *record = cta->asynchronous;
    access_by_hardware(cta, cta->dynamic + offset, bytes);
    memcpy(record->seen.data() + offset, cta->dynamic + offset, bytes);
    std::fill_n(record->writer.begin() + offset / UNIT, bytes / UNIT, (uint16_t)WRITER_NONE);
}

void check_published(struct cta *cta, uint32_t offset, uint32_t bytes, const char *what) {
    const struct asynchronous *record = cta->asynchronous;
    for (uint32_t unit = offset / UNIT; unit < (offset + bytes) / UNIT; unit++) {
        if (record->writer[unit] == WRITER_NONE) continue;
        if (record->writer[unit] == WRITER_UNKNOWN)
            fail("%s reads byte %u of shared memory, which was written without gpu_async_fence",
                 what, unit * UNIT);
        fail("%s reads byte %u of shared memory, which thread %d wrote without gpu_async_fence",
             what, unit * UNIT, record->writer[unit] - 1);
    }
}

void count_readers(struct cta *cta, uint32_t offset, uint32_t bytes, int by) {
    for (uint32_t i = offset / CHUNK; i < (offset + bytes + CHUNK - 1) / CHUNK; i++)
        cta->asynchronous->chunks[i].readers =
            (uint16_t)(cta->asynchronous->chunks[i].readers + by);
}

void count_loading(struct cta *cta, uint32_t offset, uint32_t bytes, int by) {
    for (uint32_t i = offset / CHUNK; i < (offset + bytes + CHUNK - 1) / CHUNK; i++)
        cta->asynchronous->chunks[i].loading =
            (uint16_t)(cta->asynchronous->chunks[i].loading + by);
}

uint32_t dynamic_offset(const struct cta *cta, const void *shared, size_t bytes, const char *what) {
    const char *at = (const char *)shared;
    if (at < cta->dynamic || at + bytes > cta->dynamic + cta->dynamic_bytes)
        fail("%s: %zu bytes at %p don't lie in the %zu bytes of the block's dynamic shared memory",
             what, bytes, shared, cta->dynamic_bytes);
    return (uint32_t)(at - cta->dynamic);
}

/* ---- ends ---- */

void asynchronous_thread_ended(struct thread *thread) {
    if (!thread->cta->asynchronous->used) return;
    struct thread_work *work = work_of(thread);
    self = thread;
    wgmma_thread_ended(thread);
    if (!work->bulk_open.stores.empty())
        fail("the thread ended without gpu_bulk_commit after its last store");
    for (const struct bulk_group &group : work->bulk)
        if (!group.waited)
            fail("the thread ended without gpu_bulk_wait_read: its stores may read shared memory "
                 "that is no longer the block's");
    self = nullptr;
}

void asynchronous_end(struct cta *cta) {
    if (!cta->asynchronous->used) return;
    for (const auto &entry : cta->asynchronous->barriers)
        if (entry.second.on_their_way > 0)
            fail("block (%u,%u,%u) ended while %lld bytes were on their way to its shared memory",
                 cta->index.x, cta->index.y, cta->index.z, (long long)entry.second.on_their_way);
    for (const auto &entry : cta->asynchronous->barriers)
        if (entry.second.unseen)
            fail(
                "block (%u,%u,%u) ended, and nobody waited for the last bytes that came to its shared "
                "memory",
                cta->index.x, cta->index.y, cta->index.z);
}

void asynchronous_report(const struct cta *cta) {
    if (!cta->asynchronous || !cta->asynchronous->used) return;
    for (const auto &entry : cta->asynchronous->barriers) {
        const struct mbarrier_state *barrier = &entry.second;
        if (barrier->waiting.empty()) continue;
        fprintf(
            stderr,
            "  block (%u,%u,%u) mbarrier at byte %td: phase %u, %u of %u arrivals and %lld bytes "
            "to come, %lld bytes on their way, %zu threads wait\n",
            cta->index.x, cta->index.y, cta->index.z, (const char *)entry.first - cta->dynamic,
            barrier->phase, barrier->pending, barrier->count, (long long)barrier->bytes,
            (long long)barrier->on_their_way, barrier->waiting.size());
    }
    if (!cta->asynchronous->register_waiting.empty())
        fprintf(stderr, "  block (%u,%u,%u): %d registers are given back, which is too few\n",
                cta->index.x, cta->index.y, cta->index.z, cta->asynchronous->register_pool);
}

} // namespace emulation

void gpu_async_fence() {
    emulation::publish(emulation::self->cta, emulation::self);
}

void gpu_async_fence_all() {
    emulation::publish(emulation::self->cta, emulation::self);
}

uint32_t gpu_shared_address(const void *shared) {
    const struct emulation::cta *cta = emulation::self->cta;
    const char *at = (const char *)shared;
    if (at >= cta->dynamic && at < cta->dynamic + cta->dynamic_bytes)
        return emulation::SHARED_BASE + (uint32_t)(at - cta->dynamic);
    if (!emulation::shared_holds(cta, shared))
        emulation::fail("gpu_shared_address of %p, which is not in the block's shared memory",
                        shared);
    /* Static objects lie behind. */
    return emulation::SHARED_BASE + (uint32_t)((cta->dynamic_bytes + 1023) / 1024 * 1024) +
           (uint32_t)(at - cta->statics);
}
