/* Barriers in shared memory that count arrivals and bytes. */
#include "kernels/emulation/asynchronous.h"

namespace emulation {

enum { MOST_ARRIVALS = (1 << 20) - 1, MOST_BYTES = (1 << 20) - 1 };

/* What stands in the barrier's 8 bytes, so that a write over it shows. */
static uint64_t tag(const struct gpu_mbarrier *barrier) {
    return 0x7261623600000000u ^ (uint64_t)(uintptr_t)barrier;
}

struct mbarrier_state *mbarrier_find(struct cta *cta, const struct gpu_mbarrier *barrier) {
    struct asynchronous *record = asynchronous_use(cta);
    auto found = record->barriers.find(barrier);
    if (found == record->barriers.end())
        fail("the mbarrier at byte %td of shared memory is not initialised",
             (const char *)barrier - cta->dynamic);
    if (barrier->word != tag(barrier))
        fail("the mbarrier at byte %td of shared memory was overwritten",
             (const char *)barrier - cta->dynamic);
    return &found->second;
}

static bool ended(struct mbarrier_state *state, uint32_t parity) {
    if ((state->phase & 1) == (parity & 1)) return false;
    state->unseen = false;
    return true;
}

static void end_phase_if_complete(struct mbarrier_state *state) {
    if (state->pending > 0 || state->bytes != 0) return;
    if (state->on_their_way != 0)
        fail(
            "a phase of an mbarrier ended while %lld bytes of copies that count there were on their "
            "way: fewer were expected than copied",
            (long long)state->on_their_way);
    state->phase++;
    state->pending = state->count;
    std::vector<struct thread *> waiting;
    waiting.swap(state->waiting);
    for (struct thread *thread : waiting) wake(thread);
    note_progress();
}

static void arrive(struct mbarrier_state *state, uint32_t bytes) {
    order_release(&state->known);
    state->bytes += bytes;
    state->pending--;
    end_phase_if_complete(state);
}

void mbarrier_expect_copy(struct cta *cta, const struct gpu_mbarrier *barrier, uint32_t bytes) {
    struct mbarrier_state *state = mbarrier_find(cta, barrier);
    if (!state->fenced)
        fail("the TMA unit may not see this mbarrier yet: no gpu_mbarrier_init_fence by thread %d, "
             "which initialised it",
             state->initialiser);
    state->on_their_way += bytes;
}

void mbarrier_copied(struct cta *cta, const struct gpu_mbarrier *barrier, uint32_t bytes) {
    struct mbarrier_state *state = mbarrier_find(cta, barrier);
    state->on_their_way -= bytes;
    state->bytes -= bytes;
    state->unseen = true;
    end_phase_if_complete(state);
}

static void wait(struct gpu_mbarrier *barrier, uint32_t parity, bool cluster, struct place place) {
    struct cta *cta = self->cta;
    maybe_switch(place);
    self->at = place;
    struct mbarrier_state *state = mbarrier_find(cta, barrier);
    while (!ended(state, parity)) {
        state->waiting.push_back(self);
        wait_at(place);
        state = mbarrier_find(cta, barrier);
    }
    order_acquire(&state->known);
    if (state->remote && !cluster)
        fail("other blocks arrive at this mbarrier: gpu_mbarrier_wait_cluster sees what they did");
}

} // namespace emulation

using namespace emulation;

void gpu_mbarrier_init(struct gpu_mbarrier *barrier, uint32_t count, const char *file, int line) {
    struct cta *cta = self->cta;
    struct asynchronous *record = asynchronous_use(cta);
    maybe_switch({"gpu_mbarrier_init", file, line});
    self->at = {"gpu_mbarrier_init", file, line};
    if ((uintptr_t)barrier % 8 != 0 || !shared_holds(cta, barrier))
        fail("an mbarrier is 8 aligned bytes of the block's own shared memory");
    if (count < 1 || count > MOST_ARRIVALS)
        fail("%u arrivals: an mbarrier counts 1 to 2^20 - 1", count);
    if (record->barriers.count(barrier)) fail("this mbarrier is initialised already");
    barrier->word = tag(barrier);
    record->barriers[barrier] = {count, count, 0, 0, 0, self->number, false, false, false, {}, {}};
}

void gpu_mbarrier_init_fence() {
    for (auto &entry : asynchronous_use(self->cta)->barriers)
        if (entry.second.initialiser == self->number) entry.second.fenced = true;
}

void gpu_mbarrier_arrive(struct gpu_mbarrier *barrier, const char *file, int line) {
    maybe_switch({"gpu_mbarrier_arrive", file, line});
    self->at = {"gpu_mbarrier_arrive", file, line};
    arrive(mbarrier_find(self->cta, barrier), 0);
}

void gpu_mbarrier_expect(struct gpu_mbarrier *barrier, uint32_t bytes, const char *file, int line) {
    maybe_switch({"gpu_mbarrier_expect", file, line});
    self->at = {"gpu_mbarrier_expect", file, line};
    if (bytes > MOST_BYTES) fail("%u bytes: a phase counts at most 2^20 - 1", bytes);
    arrive(mbarrier_find(self->cta, barrier), bytes);
}

void gpu_mbarrier_arrive_remote(struct gpu_mbarrier *barrier, uint32_t rank, const char *file,
                                int line) {
    maybe_switch({"gpu_mbarrier_arrive_remote", file, line});
    self->at = {"gpu_mbarrier_arrive_remote", file, line};
    struct cta *peer = cluster_cta(rank);
    struct gpu_mbarrier *there = (struct gpu_mbarrier *)same_place(self->cta, peer, barrier);
    struct mbarrier_state *state = mbarrier_find(peer, there);
    if (!state->fenced && peer != self->cta)
        fail("block %u of the cluster has not shown its mbarrier: no gpu_mbarrier_init_fence",
             rank);
    state->remote |= peer != self->cta;
    arrive(state, 0);
}

bool gpu_mbarrier_test(struct gpu_mbarrier *barrier, uint32_t parity, const char *file, int line) {
    struct place place = {"gpu_mbarrier_test", file, line};
    maybe_switch(place);
    self->at = place;
    if (!ended(mbarrier_find(self->cta, barrier), parity)) spin_at(place);
    struct mbarrier_state *state = mbarrier_find(self->cta, barrier);
    if (!ended(state, parity)) return false;
    order_acquire(&state->known);
    return true;
}

void gpu_mbarrier_wait(struct gpu_mbarrier *barrier, uint32_t parity, const char *file, int line) {
    wait(barrier, parity, false, {"gpu_mbarrier_wait", file, line});
}

void gpu_mbarrier_wait_cluster(struct gpu_mbarrier *barrier, uint32_t parity, const char *file,
                               int line) {
    wait(barrier, parity, true, {"gpu_mbarrier_wait_cluster", file, line});
}
