/* wgmma. A product is issued when all 128 threads of the warpgroup have come, and executed, in the
 * order of issue, at a moment that the schedule chooses, perhaps when all wait for it: only then is
 * shared memory read. From its issue until its own wait a thread's accumulators are
 * poison. A from registers is taken at the issue: that the registers stay is ptxas's to see to. */
#include "kernels/emulation/asynchronous.h"

#include <string.h>

namespace emulation {

enum { M = 64, K = 16, MOST_N = 256, EIGHT = 8 };

static struct warpgroup *warpgroup_of(struct thread *thread) {
    return &asynchronous_use(thread->cta)->warpgroups[(size_t)thread->number / WARPGROUP];
}

/* ---- operands in shared memory ---- */

static void check_operand(const struct gpu_operand *operand, const char *name, int rows,
                          enum gpu_major major) {
    if (operand->swizzle == GPU_SWIZZLE_NONE)
        fail("the descriptor of %s has no swizzle; only tiles of 32, 64 or 128 bytes are modelled",
             name);
    if (operand->base != 0) fail("the descriptor of %s has a base offset: align the tile", name);
    const uint32_t period = gpu_swizzle_period(operand->swizzle);
    const uint32_t span = gpu_swizzle_span(operand->swizzle);
    if (operand->group_bytes % period != 0)
        fail("the descriptor of %s: groups of 8 rows %u bytes apart, not a multiple of %u", name,
             operand->group_bytes, period);
    /* A K-major operand may start at another 16 k of its row, never in another row. */
    const uint32_t inside = operand->address % period;
    if (major == GPU_K_MAJOR ? inside + K * 2 > span : inside != 0)
        fail("the descriptor of %s: address %u is not aligned to %u", name, operand->address,
             period);
    if (major == GPU_MN_MAJOR && rows * 2 > (int)span && operand->chunk_bytes % period != 0)
        fail("the descriptor of %s: chunks %u bytes apart, not a multiple of %u", name,
             operand->chunk_bytes, period);
}

/* The offset of the 8 elements at (mn, k): along k where K-major, along mn where not. */
static uint32_t chunk_offset(const struct cta *cta, struct gpu_operand operand,
                             enum gpu_major major, int mn, int k, const char *name) {
    uint32_t address = gpu_operand_address(operand, major, mn, k);
    if (address < SHARED_BASE || address + CHUNK > SHARED_BASE + cta->dynamic_bytes)
        fail("the descriptor of %s: element (%d, %d) lies out of dynamic shared memory", name, mn,
             k);
    return address - SHARED_BASE;
}

static void list_chunks(const struct cta *cta, uint64_t descriptor, enum gpu_major major, int rows,
                        const char *name, std::vector<uint32_t> *chunks) {
    const struct gpu_operand operand = gpu_descriptor_operand(descriptor);
    check_operand(&operand, name, rows, major);
    for (int mn = 0; mn < rows; mn += major == GPU_K_MAJOR ? 1 : EIGHT)
        for (int k = 0; k < K; k += major == GPU_K_MAJOR ? EIGHT : 1)
            chunks->push_back(chunk_offset(cta, operand, major, mn, k, name));
}

static float number(bool f16, uint16_t bits) {
    return f16 ? to_f32((struct f16){bits}) : to_f32((struct bf16){bits});
}

/* matrix[k][mn] */
static void read_operand(const struct cta *cta, uint64_t descriptor, enum gpu_major major, int rows,
                         bool f16, float matrix[K][MOST_N]) {
    const struct gpu_operand operand = gpu_descriptor_operand(descriptor);
    for (int mn = 0; mn < rows; mn += major == GPU_K_MAJOR ? 1 : EIGHT)
        for (int k = 0; k < K; k += major == GPU_K_MAJOR ? EIGHT : 1) {
            uint16_t held[EIGHT];
            memcpy(held, cta->dynamic + chunk_offset(cta, operand, major, mn, k, "an operand"),
                   sizeof held);
            for (int i = 0; i < EIGHT; i++)
                matrix[major == GPU_K_MAJOR ? k + i : k][major == GPU_K_MAJOR ? mn : mn + i] =
                    number(f16, held[i]);
        }
}

static void read_registers(const struct product *product, float matrix[K][MOST_N]) {
    for (int thread = 0; thread < WARPGROUP; thread++)
        for (int i = 0; i < EIGHT; i++) {
            struct gpu_place at = gpu_place_a(thread % WARP, i);
            uint16_t bits = (uint16_t)(product->registers[thread][i / 2] >> i % 2 * 16);
            matrix[at.column][thread / WARP * 16 + at.row] = number(product->what.f16, bits);
        }
}

/* ---- execution ---- */

static void multiply(const struct cta *cta, const struct product *product) {
    static float a[K][MOST_N], b[K][MOST_N];
    static double d[M][MOST_N];
    const struct emulation_wgmma *what = &product->what;
    const int n = what->count * 2;
    if (what->registers)
        read_registers(product, a);
    else
        read_operand(cta, what->a, what->a_major, M, what->f16, a);
    read_operand(cta, what->b, what->b_major, n, what->f16, b);
    for (int row = 0; row < M; row++) {
        for (int column = 0; column < n; column++) d[row][column] = 0;
        for (int k = 0; k < K; k++)
            for (int column = 0; column < n; column++)
                d[row][column] += (double)(a[k][row] * b[k][column]); /* the product is exact */
    }
    for (int thread = 0; thread < WARPGROUP; thread++)
        for (int i = 0; i < what->count; i++) {
            struct gpu_place at = gpu_place_wgmma(thread, i);
            float *sum = &product->sums[thread]->values[(size_t)i];
            *sum = (float)(d[at.row][at.column] + (what->accumulate ? (double)*sum : 0.0));
        }
}

static void count_chunks(struct cta *cta, const struct product *product, int by) {
    for (uint32_t offset : product->chunks) count_readers(cta, offset, CHUNK, by);
}

/* Executes the oldest product, which all threads have issued. */
static void execute_one(struct cta *cta, struct warpgroup *group) {
    struct product *product = &group->products.front();
    for (uint32_t offset : product->chunks) check_published(cta, offset, CHUNK, "wgmma");
    multiply(cta, product);
    count_chunks(cta, product, -1);
    group->products.pop_front();
    group->executed++;
    std::vector<struct thread *> waiting;
    waiting.swap(group->waiting);
    for (struct thread *thread : waiting) wake(thread);
}

/* ---- issue ---- */

static void check_same(const struct product *product, const struct emulation_wgmma *mine) {
    const struct emulation_wgmma *first = &product->what;
    if (first->count != mine->count || first->f16 != mine->f16 || first->a_major != mine->a_major ||
        first->b_major != mine->b_major || first->accumulate != mine->accumulate ||
        !first->registers != !mine->registers || first->b != mine->b ||
        (!first->registers && first->a != mine->a))
        fail("the warpgroup's threads issue different products (another came from %s:%d)",
             product->place.file, product->place.line);
}

/* The accumulators' true values; the array itself becomes poison. */
static struct sums *take_sums(struct thread_work *work, float *array, int count, size_t number) {
    std::unique_ptr<struct sums> &held = work->sums[array];
    if (!held) {
        held.reset(new struct sums());
        held->values.assign(array, array + count);
        memset((void *)array, 0xff, (size_t)count * sizeof(float));
    }
    if (held->values.size() != (size_t)count)
        fail("accumulators of %zu floats on their way are used as %d", held->values.size(), count);
    held->last = number;
    return held.get();
}

static struct product *open_product(struct cta *cta, struct warpgroup *group,
                                    const struct emulation_wgmma *what, struct place place) {
    group->products.emplace_back();
    struct product *product = &group->products.back();
    product->what = *what;
    product->place = place;
    product->arrived = 0;
    if (!what->registers) list_chunks(cta, what->a, what->a_major, M, "A", &product->chunks);
    list_chunks(cta, what->b, what->b_major, what->count * 2, "B", &product->chunks);
    count_chunks(cta, product, 1);
    return product;
}

/* All have come: what it reads must be there and be seen. */
static void check_ready(struct cta *cta, const struct product *product) {
    compare(cta, (uint16_t)(self->number + 1));
    for (uint32_t offset : product->chunks) {
        if (cta->asynchronous->chunks[offset / CHUNK].loading > 0)
            fail("wgmma reads byte %u of shared memory, which a load is still writing", offset);
        check_published(cta, offset, CHUNK, "wgmma");
    }
}

static void issue(const struct emulation_wgmma *what, struct place place) {
    struct thread *thread = self;
    struct cta *cta = thread->cta;
    struct warpgroup *group = warpgroup_of(thread);
    struct thread_work *work = work_of(thread);
    maybe_switch(place);
    thread->at = place;
    if (cta->threads < (thread->number / WARPGROUP + 1) * WARPGROUP)
        fail("wgmma is for warpgroups of 128 threads; this one has fewer");
    if (!work->fenced) fail("no gpu_wgmma_fence since the thread started or waited last");
    const size_t number = work->issued++, index = number - group->executed;
    if (index == group->products.size()) open_product(cta, group, what, place);
    struct product *product = &group->products[index];
    check_same(product, what);
    const int mine = thread->number % WARPGROUP;
    product->sums[mine] = take_sums(work, what->sums, what->count, number);
    if (what->registers)
        memcpy(product->registers[mine], what->registers, sizeof product->registers[mine]);
    if (++product->arrived < WARPGROUP) return;
    check_ready(cta, product);
    defer(cta, false, [cta, group, number, thread] {
        struct thread *running = self;
        self = thread;
        while (group->executed <= number) execute_one(cta, group);
        self = running;
    });
}

/* Gives the thread its accumulators back whose last product came before `number`. */
static void give_back(struct thread_work *work, size_t number) {
    for (auto it = work->sums.begin(); it != work->sums.end();) {
        const struct sums *held = it->second.get();
        if (held->last >= number) {
            ++it;
            continue;
        }
        const unsigned char *poison = (const unsigned char *)it->first;
        for (size_t i = 0; i < held->values.size() * sizeof(float); i++)
            if (poison[i] != 0xff)
                fail("an accumulator was written while a wgmma on it was on its way");
        memcpy(it->first, held->values.data(), held->values.size() * sizeof(float));
        it = work->sums.erase(it);
    }
}

void wgmma_thread_ended(struct thread *thread) {
    const struct thread_work *work = work_of(thread);
    if (!work->sums.empty()) fail("the thread ended without gpu_wgmma_wait for its last products");
}

} // namespace emulation

using namespace emulation;

void gpu_wgmma_fence() {
    work_of(self)->fenced = true;
}

void gpu_wgmma_commit() {
    struct thread_work *work = work_of(self);
    work->group_ends.push_back(work->issued);
}

void emulation_wgmma_issue(const struct emulation_wgmma *product, const char *file, int line) {
    issue(product, {"wgmma", file, line});
}

void emulation_wgmma_wait(int groups, const char *file, int line) {
    struct thread_work *work = work_of(self);
    struct warpgroup *group = warpgroup_of(self);
    struct place place = {"gpu_wgmma_wait", file, line};
    maybe_switch(place);
    self->at = place;
    if ((int)work->group_ends.size() <= groups) return;
    const size_t done = work->group_ends[work->group_ends.size() - (size_t)groups - 1];
    while (group->executed < done) {
        group->waiting.push_back(self);
        wait_at(place);
    }
    give_back(work, done);
    while ((int)work->group_ends.size() > groups) work->group_ends.pop_front();
    work->fenced = false;
}
