#include "kernels/emulation/machine.h"

#include <algorithm>

namespace emulation {

void order_start(struct cta *cta) {
    cta->floor.assign((size_t)cta->threads, 0);
    cta->acquired.blocks.clear();
    for (int i = 0; i < cta->threads; i++) {
        struct thread *thread = &cta->thread[(size_t)i];
        thread->epoch = 1;
        thread->view.reset();
        thread->fenced = false;
    }
}

void order_everyone(struct cta *cta) {
    for (int i = 0; i < cta->threads; i++) {
        struct thread *thread = &cta->thread[(size_t)i];
        cta->floor[(size_t)i] = thread->epoch++;
        thread->view.reset();
    }
}

static void merge(epochs *into, const epochs &from) {
    for (size_t i = 0; i < from.size(); i++) (*into)[i] = std::max((*into)[i], from[i]);
}

void order_some(struct thread *const *threads, int count, const struct knowledge *known) {
    struct cta *cta = threads[0]->cta;
    const epochs *first = threads[0]->view.get();
    auto joined = std::make_shared<epochs>(first ? *first : cta->floor);
    if (first) merge(joined.get(), cta->floor);
    const epochs *last = first;
    for (int i = 0; i < count; i++) {
        const epochs *view = threads[i]->view.get();
        if (view && view != last && view != first) merge(joined.get(), *view);
        last = view;
    }
    if (known)
        for (auto &[block, there] : known->blocks)
            if (block == cta->serial) merge(joined.get(), *there);
    for (int i = 0; i < count; i++) (*joined)[(size_t)threads[i]->number] = threads[i]->epoch++;
    for (int i = 0; i < count; i++) threads[i]->view = joined;
}

static void add(struct knowledge *known, uint64_t block,
                const std::shared_ptr<const epochs> &there) {
    std::shared_ptr<const epochs> &mine = known->blocks[block];
    if (mine == there) return;
    if (!mine) {
        mine = there;
        return;
    }
    auto joined = std::make_shared<epochs>(*mine);
    merge(joined.get(), *there);
    mine = joined;
}

void order_release(struct knowledge *known) {
    struct cta *cta = self->cta;
    auto mine = std::make_shared<epochs>(cta->floor);
    if (self->view) merge(mine.get(), *self->view);
    (*mine)[(size_t)self->number] = self->epoch++;
    add(known, cta->serial, mine);
    for (auto &[block, there] : cta->acquired.blocks) add(known, block, there);
}

void order_acquire(const struct knowledge *known) {
    struct cta *cta = self->cta;
    for (auto &[block, there] : known->blocks) {
        if (block != cta->serial) {
            add(&cta->acquired, block, there);
            continue;
        }
        auto joined = std::make_shared<epochs>(*there);
        merge(joined.get(), cta->floor);
        if (self->view) merge(joined.get(), *self->view);
        self->view = joined;
    }
}

bool order_before(uint64_t block, uint32_t thread, uint32_t epoch) {
    const struct cta *cta = self->cta;
    if (block == cta->serial) {
        if (thread == (uint32_t)self->number || epoch <= cta->floor[thread]) return true;
        return self->view && epoch <= (*self->view)[thread];
    }
    auto found = cta->acquired.blocks.find(block);
    return found != cta->acquired.blocks.end() && epoch <= (*found->second)[thread];
}

} // namespace emulation
