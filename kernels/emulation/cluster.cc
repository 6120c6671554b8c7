/* Clusters, the hand-over of registers, and the warp's chosen thread. */
#include "kernels/emulation/asynchronous.h"

namespace emulation {

enum { LEAST_REGISTERS = 24, MOST_REGISTERS = 256 };

struct cta *cluster_cta(uint32_t rank) {
    if (rank >= (uint32_t)current_launch()->cluster)
        fail("block %u of a cluster of %d", rank, current_launch()->cluster);
    struct cta *peer = cluster_of(self->cta, rank);
    if (!peer) fail("block %u of the cluster has ended, and its shared memory with it", rank);
    return peer;
}

void *same_place(const struct cta *from, const struct cta *to, const void *shared) {
    const char *at = (const char *)shared;
    if (!shared_holds(from, shared)) fail("%p is not in the block's shared memory", shared);
    if (at >= from->dynamic && at < from->dynamic + from->dynamic_bytes)
        return to->dynamic + (at - from->dynamic);
    return to->statics + (at - from->statics);
}

/* Threads that ended count as if they had come. */
static bool everyone_arrived(uint64_t times) {
    for (int rank = 0; rank < current_launch()->cluster; rank++) {
        struct cta *cta = cluster_of(self->cta, (uint32_t)rank);
        for (int i = 0; cta && i < cta->threads; i++) {
            struct thread *thread = &cta->thread[(size_t)i];
            if (thread->state != THREAD_ENDED && work_of(thread)->cluster_arrived < times)
                return false;
        }
    }
    return true;
}

/* A warp asks for `count` registers a thread; the last lane to come does it for all. */
static void change_registers(void *const *arguments, uint32_t) {
    struct asynchronous *record = asynchronous_use(self->cta);
    const int count = *(const int *)arguments[0];
    int *mine = &record->warp_registers[(size_t)self->number / WARP];
    while ((count - *mine) * WARP > record->register_pool) {
        record->register_waiting.push_back(self);
        wait_at(self->at);
    }
    record->register_pool -= (count - *mine) * WARP;
    *mine = count;
    std::vector<struct thread *> waiting;
    waiting.swap(record->register_waiting);
    for (struct thread *thread : waiting) wake(thread);
}

static void choose_first(void *const *arguments, uint32_t) {
    *(bool *)arguments[0] = true;
}

} // namespace emulation

using namespace emulation;

void emulation_registers(int count, bool take, const char *file, int line) {
    struct place place = {take ? "gpu_registers_take" : "gpu_registers_give", file, line};
    self->at = place;
    const int mine = asynchronous_use(self->cta)->warp_registers[(size_t)self->number / WARP];
    if (count % 8 != 0 || count < LEAST_REGISTERS || count > MOST_REGISTERS)
        fail("%d registers: a multiple of 8 from 24 to 256 can be asked for", count);
    if (take ? count < mine : count > mine)
        fail("%d registers, but the thread has %d of them", count, mine);
    warp_meet(place.call, GPU_ALL_LANES, &count, true, change_registers, place);
}

bool gpu_elect(const char *file, int line) {
    bool chosen = false;
    warp_meet("gpu_elect", GPU_ALL_LANES, &chosen, true, choose_first, {"gpu_elect", file, line});
    return chosen;
}

uint32_t gpu_cluster_rank() {
    return (uint32_t)(self->cta->number % (uint64_t)current_launch()->cluster);
}

uint32_t gpu_cluster_size() {
    return (uint32_t)current_launch()->cluster;
}

void gpu_cluster_arrive(const char *file, int line) {
    struct thread_work *work = work_of(self);
    self->at = {"gpu_cluster_arrive", file, line};
    if (work->cluster_arrived != work->cluster_waited)
        fail("the thread came to the cluster's barrier already, and has not waited");
    order_release(access_cluster());
    work->cluster_arrived++;
    note_progress();
}

void gpu_cluster_wait(const char *file, int line) {
    struct thread_work *work = work_of(self);
    struct place place = {"gpu_cluster_wait", file, line};
    self->at = place;
    if (work->cluster_arrived == work->cluster_waited)
        fail("the thread waits at the cluster's barrier, where it has not come");
    while (!everyone_arrived(work->cluster_arrived)) spin_at(place);
    order_acquire(access_cluster());
    work->cluster_waited++;
}

void *emulation_cluster_shared(void *shared, uint32_t rank, const char *file, int line) {
    self->at = {"gpu_cluster_shared", file, line};
    return same_place(self->cta, cluster_cta(rank), shared);
}
