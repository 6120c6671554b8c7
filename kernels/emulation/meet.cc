/* Where threads meet: barriers of a CTA and collectives of a warp. */
#include "kernels/emulation/machine.h"

#include <string.h>

namespace emulation {

static int target(const struct cta *cta, const struct barrier *barrier) {
    return barrier->expected == ALL_THREADS ? cta->live : barrier->expected;
}

/* Lanes of one warp must come to a barrier from one line: it is one instruction of the warp. */
static void check_lines(const struct barrier *barrier) {
    const struct thread *first[MAX_THREADS / WARP] = {};
    for (struct thread *thread : barrier->waiting) {
        const struct thread **known = &first[thread->number / WARP];
        if (!*known) *known = thread;
        if ((*known)->at.line == thread->at.line) continue;
        self = thread;
        fail("its warp is divided: thread %d came to the same barrier at %s:%d", (*known)->number,
             (*known)->at.file, (*known)->at.line);
    }
}

static void open_if_complete(struct cta *cta, struct barrier *barrier) {
    if (barrier->arrived == 0 || barrier->arrived < target(cta, barrier)) return;
    check_lines(barrier);
    int waiting = (int)barrier->waiting.size();
    if (waiting == cta->live)
        order_everyone(cta);
    else if (waiting > 0)
        order_some(barrier->waiting.data(), waiting, &barrier->known);
    barrier->known.blocks.clear();
    barrier->arrived = 0;
    for (struct thread *thread : barrier->waiting)
        if (thread != self) wake(thread);
    barrier->waiting.clear();
    note_progress();
}

static struct barrier *arrive(int id, int threads, struct place place) {
    struct cta *cta = self->cta;
    self->at = place;
    if (id < 0 || id >= NAMED_BARRIERS) fail("barrier %d: there are 0 to 15", id);
    if (threads != ALL_THREADS && (threads <= 0 || threads % WARP || threads > cta->threads))
        fail("barrier %d for %d threads: it counts whole warps of a block of %d", id, threads,
             cta->threads);
    struct barrier *barrier = &cta->barriers[id];
    if (barrier->arrived > 0 && barrier->expected != threads)
        fail("barrier %d for %d threads, but those that are there already wait for %d", id,
             threads == ALL_THREADS ? cta->threads : threads,
             barrier->expected == ALL_THREADS ? cta->threads : barrier->expected);
    barrier->expected = threads;
    barrier->arrived++;
    return barrier;
}

void barrier_sync(int id, int threads, struct place place) {
    struct cta *cta = self->cta;
    struct barrier *barrier = arrive(id, threads, place);
    barrier->waiting.push_back(self);
    if (barrier->arrived < target(cta, barrier))
        wait_at(place);
    else
        open_if_complete(cta, barrier);
}

void barrier_arrive(int id, int threads, struct place place) {
    struct barrier *barrier = arrive(id, threads, place);
    order_release(&barrier->known);
    open_if_complete(self->cta, barrier);
}

void barriers_thread_ended(struct cta *cta) {
    for (struct barrier &barrier : cta->barriers)
        if (barrier.arrived > 0 && barrier.expected == ALL_THREADS) open_if_complete(cta, &barrier);
}

static void check_same(const struct warp *warp, int other, const char *name, uint32_t mask,
                       bool aligned, struct place place) {
    const struct collective *there = &warp->lanes[other];
    const struct place *at = &warp->threads[other].at;
    if (strcmp(there->name, name) != 0 || (aligned && at->line != place.line))
        fail("its warp is divided: lane %d of its mask 0x%08x is in %s at %s:%d", other, mask,
             there->name, at->file, at->line);
    if (there->mask != mask)
        fail("mask 0x%08x, but lane %d came with mask 0x%08x at %s:%d", mask, other, there->mask,
             at->file, at->line);
}

static void order_lanes(struct warp *warp, uint32_t mask) {
    struct thread *threads[WARP];
    int count = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        threads[count++] = &warp->threads[__builtin_ctz(rest)];
    order_some(threads, count, nullptr);
}

void warp_meet(const char *name, uint32_t mask, void *argument, bool aligned,
               void (*run)(void *const *arguments, uint32_t mask), struct place place) {
    struct warp *warp = self->warp;
    int lane = self->lane;
    self->at = place;
    if (!(mask >> lane & 1)) fail("mask 0x%08x doesn't name its own lane %d", mask, lane);
    if (mask & ~warp->live)
        fail("mask 0x%08x names lane %d, which has ended or never was", mask,
             __builtin_ctz(mask & ~warp->live));
    if (warp->met & mask)
        check_same(warp, __builtin_ctz(warp->met & mask), name, mask, aligned, place);
    warp->met |= 1u << lane;
    warp->lanes[lane] = {name, mask};
    warp->arguments[lane] = argument;
    if ((warp->met & mask) != mask) {
        wait_at(place);
        return;
    }
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        check_same(warp, __builtin_ctz(rest), name, mask, aligned, place);
    warp->met &= ~mask;
    if (run)
        run(warp->arguments, mask);
    else
        order_lanes(warp, mask);
    for (uint32_t rest = mask & ~(1u << lane); rest; rest &= rest - 1)
        wake(&warp->threads[__builtin_ctz(rest)]);
}

} // namespace emulation
