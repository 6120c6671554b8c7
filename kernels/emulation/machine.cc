#include "kernels/emulation/access.h"
#include "kernels/emulation/device.h"

#include <algorithm>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__thread struct uint3 blockDim, gridDim;

namespace emulation {

__thread struct thread *self;
__thread struct now place_now;

enum { RESIDENT_THREADS = 2048, RESIDENT_CTAS = 8, MOST_IDLE_ROUNDS = 1000 };

/* One processor: what it runs now. A process has one, as it has one CUDA context. */
struct machine {
    const struct launch *launch;
    struct schedule schedule;
    uint64_t random;
    uint64_t next_cta, ctas; /* of the grid */
    uint64_t next_serial = 1;
    std::vector<struct cta *> slots;
    std::vector<struct warp *> warps; /* of the running CTAs */
    size_t cursor;                    /* the warp whose turn it is, and its lanes yet to run */
    uint32_t batch;
    struct fiber host;
    size_t deferred; /* asynchronous works that wait */
    bool progress;   /* since spinning threads last looked */
    int idle_rounds; /* in which they all looked in vain */
};
/* Never destroyed: its blocks, for one, are not. */
static struct machine &machine = *new struct machine();

const struct launch *current_launch(void) {
    return machine.launch;
}

struct fiber *host_fiber(void) {
    return &machine.host;
}

static uint64_t draw(uint64_t limit) { /* xorshift64*, Vigna 2014 */
    machine.random ^= machine.random >> 12;
    machine.random ^= machine.random << 25;
    machine.random ^= machine.random >> 27;
    return (machine.random * 0x2545F4914F6CDD1Dull >> 32) % limit;
}

struct schedule schedule_from_environment(void) {
    const char *text = getenv("STRATA_EMULATION_SCHEDULE");
    if (!text || !*text || strcmp(text, "round_robin") == 0) return {ROUND_ROBIN, 1};
    if (strcmp(text, "greedy") == 0) return {GREEDY, 1};
    unsigned long long seed;
    char rest;
    if (sscanf(text, "shuffled:%llu%c", &seed, &rest) == 1) return {SHUFFLED, seed};
    fail("STRATA_EMULATION_SCHEDULE is '%s': round_robin, greedy and shuffled:SEED are known",
         text);
}

/* ---- what a thread does ---- */

static void leave(void) {
    fiber_switch(&self->fiber, &machine.host);
}

static void entry(void) {
    fiber_arrive(&self->fiber);
    machine.launch->invoke(machine.launch->arguments);
    self->state = THREAD_ENDED;
    leave();
    abort();
}

void wait_at(struct place place) {
    self->at = place;
    self->state = THREAD_WAITS;
    leave();
}

void wake(struct thread *thread) {
    thread->state = THREAD_READY;
    thread->warp->ready |= 1u << thread->lane;
    machine.progress = true;
}

void spin_at(struct place place) {
    self->at = place;
    self->state = THREAD_SPINS;
    self->warp->spins |= 1u << self->lane;
    leave();
}

void note_progress(void) {
    machine.progress = true;
}

void maybe_switch(struct place place) {
    self->at = place;
    if (machine.schedule.kind != SHUFFLED || draw(4) != 0) return;
    self->state = THREAD_READY;
    self->warp->ready |= 1u << self->lane;
    leave();
}

/* ---- asynchronous work ---- */

void defer(struct cta *cta, bool ordered, std::function<void(void)> work) {
    cta->deferred.push_back({std::move(work), ordered});
    machine.deferred++;
}

static void do_deferred(struct cta *cta, size_t which) {
    if (cta->deferred[which].ordered)
        for (which = 0; !cta->deferred[which].ordered;) which++;
    std::function<void(void)> work = std::move(cta->deferred[which].work);
    cta->deferred.erase(cta->deferred.begin() + (ptrdiff_t)which);
    machine.deferred--;
    machine.progress = true;
    work();
}

void finish_deferred(struct cta *cta) {
    while (!cta->deferred.empty()) do_deferred(cta, 0);
}

static void do_some_deferred(void) {
    size_t count = machine.slots.size();
    size_t first = machine.schedule.kind == SHUFFLED ? draw(count) : 0;
    for (size_t i = 0; i < count; i++) {
        struct cta *cta = machine.slots[(first + i) % count];
        if (cta->deferred.empty()) continue;
        bool random = machine.schedule.kind == SHUFFLED;
        do_deferred(cta, random ? draw(cta->deferred.size()) : 0);
        return;
    }
}

/* ---- CTAs come and go ---- */

static void list_warps(void) {
    machine.warps.clear();
    for (struct cta *cta : machine.slots)
        for (int i = 0; cta->running && i < cta->warps; i++) machine.warps.push_back(&cta->warp[i]);
    machine.batch = 0;
}

/* Fibers never move: a slot is made for the most threads that it can hold. */
static void grow_cta(struct cta *cta, int threads) {
    if ((int)cta->thread.size() >= threads) return;
    size_t had = cta->thread.size();
    cta->thread.resize((size_t)threads);
    cta->warp.resize(((size_t)threads + WARP - 1) / WARP);
    std::vector<struct fiber> fibers((size_t)threads - had);
    fibers_allocate(fibers.data(), (int)fibers.size());
    for (size_t i = had; i < (size_t)threads; i++) cta->thread[i].fiber = fibers[i - had];
}

static void start_cta(struct cta *cta) {
    const struct launch *launch = machine.launch;
    uint64_t number = machine.next_cta++;
    grow_cta(cta, launch->threads);
    cta->number = number;
    cta->serial = launch->first_serial + number;
    cta->index = {(unsigned)(number % launch->grid.x),
                  (unsigned)(number / launch->grid.x % launch->grid.y),
                  (unsigned)(number / launch->grid.x / launch->grid.y)};
    cta->threads = cta->live = launch->threads;
    cta->warps = (launch->threads + WARP - 1) / WARP;
    cta->running = true;
    for (struct barrier &barrier : cta->barriers) {
        barrier.arrived = 0;
        barrier.waiting.clear();
        barrier.known.blocks.clear();
    }
    shared_reset(cta, launch->dynamic_bytes);
    asynchronous_start(cta);
    for (int i = 0; i < cta->warps; i++) {
        struct warp *warp = &cta->warp[(size_t)i];
        int lanes = std::min(WARP + 0, launch->threads - i * WARP);
        warp->live = warp->ready = (uint32_t)((1ull << lanes) - 1);
        warp->spins = warp->met = 0;
        warp->threads = &cta->thread[(size_t)i * WARP];
    }
    for (int i = 0; i < cta->threads; i++) {
        struct thread *thread = &cta->thread[(size_t)i];
        thread->index = {(unsigned)i, 0, 0};
        thread->number = i;
        thread->lane = i % WARP;
        thread->warp = &cta->warp[(size_t)i / WARP];
        thread->cta = cta;
        thread->state = THREAD_READY;
        thread->at = {"the kernel's first lines", nullptr, 0};
        fiber_prepare(&thread->fiber, entry);
    }
    order_start(cta);
}

struct cta *cluster_of(const struct cta *cta, uint32_t rank) {
    const uint64_t size = (uint64_t)machine.launch->cluster;
    const uint64_t number = cta->number / size * size + rank;
    for (struct cta *other : machine.slots)
        if (other->running && other->number == number) return other;
    return nullptr;
}

static size_t resident(const struct launch *launch) {
    size_t count = std::max(1, std::min(RESIDENT_CTAS + 0, RESIDENT_THREADS / launch->threads));
    if (machine.schedule.kind == SHUFFLED) count = 1 + draw(count);
    size_t cluster = (size_t)launch->cluster;
    return std::max((count + 1) / cluster * cluster, std::max(cluster, (size_t)2));
}

/* A cluster starts as a whole, so where there are clusters it waits for as many free slots. */
static void start_ctas(size_t count) {
    size_t cluster = (size_t)machine.launch->cluster, running = 0;
    while (machine.slots.size() < count) {
        machine.slots.push_back(new struct cta());
        shared_open(machine.slots.back());
    }
    for (struct cta *cta : machine.slots) running += cta->running;
    bool started = false;
    for (; machine.next_cta < machine.ctas && running + cluster <= count; running += cluster) {
        size_t left = cluster;
        for (size_t i = 0; left > 0; i++)
            if (!machine.slots[i]->running) start_cta(machine.slots[i]), left--;
        started = true;
    }
    if (started || running == 0) list_warps();
}

static void end_thread(struct thread *thread) {
    struct warp *warp = thread->warp;
    struct cta *cta = thread->cta;
    warp->live &= ~(1u << thread->lane);
    for (int lane = 0; lane < WARP; lane++)
        if ((warp->met >> lane & 1) && (warp->lanes[lane].mask >> thread->lane & 1)) {
            self = &warp->threads[lane];
            fail("waits in %s for lane %d, which has ended", warp->lanes[lane].name, thread->lane);
        }
    asynchronous_thread_ended(thread);
    cta->live--;
    machine.progress = true;
    barriers_thread_ended(cta);
    if (cta->live > 0) return;
    asynchronous_end(cta);
    finish_deferred(cta);
    shared_check(cta);
    cta->running = false;
    list_warps();
}

/* ---- who runs next ---- */

static struct thread *take(struct warp *warp, uint32_t lanes) {
    int lane = __builtin_ctz(lanes);
    warp->ready &= ~(1u << lane);
    return &warp->threads[lane];
}

static struct thread *next_round_robin(void) {
    size_t count = machine.warps.size();
    machine.batch &= count ? machine.warps[machine.cursor % count]->ready : 0;
    for (size_t i = 0; i < count && !machine.batch; i++) {
        machine.cursor = (machine.cursor + 1) % count;
        machine.batch = machine.warps[machine.cursor]->ready;
    }
    if (!machine.batch) return nullptr;
    uint32_t lanes = machine.batch;
    machine.batch &= machine.batch - 1;
    return take(machine.warps[machine.cursor], lanes);
}

static struct thread *next_greedy(void) {
    for (size_t i = machine.warps.size(); i-- > 0;)
        if (machine.warps[i]->ready) return take(machine.warps[i], machine.warps[i]->ready);
    return nullptr;
}

static struct thread *next_shuffled(void) {
    size_t count = machine.warps.size(), first = count ? draw(count) : 0;
    for (size_t i = 0; i < count; i++) {
        struct warp *warp = machine.warps[(first + i) % count];
        if (!warp->ready) continue;
        uint32_t above = warp->ready & (0xffffffffu << draw(WARP));
        return take(warp, above ? above : warp->ready);
    }
    return nullptr;
}

static struct thread *next_thread(void) {
    if (machine.deferred && machine.schedule.kind != ROUND_ROBIN)
        if (machine.schedule.kind == GREEDY || draw(8) == 0) do_some_deferred();
    switch (machine.schedule.kind) {
    case ROUND_ROBIN:
        return next_round_robin();
    case GREEDY:
        return next_greedy();
    case SHUFFLED:
        return next_shuffled();
    }
    return nullptr;
}

/* Nobody is ready: those that spin look again, or asynchronous work is done, or all are stuck. */
static void stir(void) {
    bool spins = false;
    for (struct warp *warp : machine.warps) spins |= warp->spins != 0;
    if (machine.deferred && !(spins && machine.progress)) {
        do_some_deferred();
        return;
    }
    machine.idle_rounds = machine.progress ? 0 : machine.idle_rounds + 1;
    if (!spins || machine.idle_rounds > MOST_IDLE_ROUNDS) fail_deadlock(machine.slots);
    machine.progress = false;
    for (struct warp *warp : machine.warps) warp->ready |= warp->spins, warp->spins = 0;
}

void run_grid(struct launch *launch, struct schedule schedule) {
    machine.launch = launch;
    blockDim = {(unsigned)launch->threads, 1, 1};
    gridDim = {launch->grid.x, launch->grid.y, launch->grid.z};
    machine.schedule = schedule;
    machine.random = (schedule.seed + 1) * 0x9E3779B97F4A7C15ull;
    machine.next_cta = 0;
    machine.ctas = (uint64_t)launch->grid.x * launch->grid.y * launch->grid.z;
    launch->first_serial = machine.next_serial;
    machine.next_serial += machine.ctas;
    access_start_grid();
    machine.cursor = machine.batch = 0;
    machine.idle_rounds = 0;
    machine.progress = true;
    size_t count = resident(launch);
    for (;;) {
        start_ctas(count);
        if (machine.warps.empty()) break;
        size_t running = machine.warps.size();
        while (machine.warps.size() == running) {
            struct thread *thread = next_thread();
            if (!thread) {
                stir();
                continue;
            }
            self = thread;
            place_now = {thread->index, thread->cta->index, thread->lane};
            fiber_switch(&machine.host, &thread->fiber);
            self = nullptr;
            asynchronous_thread_stopped(thread);
            if (thread->state == THREAD_ENDED) end_thread(thread);
        }
    }
    machine.launch = nullptr;
}

} // namespace emulation
