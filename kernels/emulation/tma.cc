/* Copies by the TMA unit. A load poisons its destination when it is issued and lands at a moment
 * that the schedule chooses, then its barrier counts the bytes. A store reads its shared memory at
 * one such moment and writes at a later one; until then its destination is poison. */
#include "kernels/emulation/asynchronous.h"

#include <algorithm>
#include <string.h>

namespace emulation {

enum { MAP_MAGIC = 0x6d6170, POISON = 0xff };

/* Rows of a box, each `bytes` wide, of which `before` and `after` lie out of the tensor. */
struct row {
    char *global; /* of the first element inside; NULL where none is */
    uint32_t shared, skip, bytes;
};

static uint32_t row_bytes(const struct gpu_tensor_shape *shape) {
    return shape->box[0] * (uint32_t)shape->element_bytes;
}

/* Row `index` of the box: where it lies in device memory, and which of its bytes are inside. */
static struct row row_of(const struct tensor_record *tensor, const struct emulation_box *box,
                         uint32_t index) {
    const struct gpu_tensor_shape *shape = &tensor->shape;
    const int64_t size = (int64_t)shape->size[0], first = std::max(box->at[0], 0);
    const int64_t last = std::min<int64_t>((int64_t)box->at[0] + shape->box[0], size);
    struct row row = {nullptr, index * row_bytes(shape), 0, 0};
    char *global = tensor->base;
    for (int i = 1; i < shape->rank; i++) {
        int64_t at = (int64_t)box->at[i] + index % shape->box[i];
        index /= shape->box[i];
        if (at < 0 || at >= (int64_t)shape->size[i]) return row;
        global += (uint64_t)at * shape->stride_bytes[i];
    }
    if (first >= last) return row;
    row.global = global + first * shape->element_bytes;
    row.skip = (uint32_t)(first - box->at[0]) * (uint32_t)shape->element_bytes;
    row.bytes = (uint32_t)(last - first) * (uint32_t)shape->element_bytes;
    return row;
}

static uint32_t row_count(const struct gpu_tensor_shape *shape) {
    return gpu_tensor_box_bytes(shape) / row_bytes(shape);
}

/* The box's bytes in the order of its rows <-> the same as they lie in shared memory. */
static void swizzle_copy(enum gpu_swizzle swizzle, char *to, const char *from, uint32_t bytes,
                         bool into_shared) {
    for (uint32_t i = 0; i < bytes; i += CHUNK) {
        uint32_t there = gpu_swizzle_offset(swizzle, i);
        memcpy(to + (into_shared ? there : i), from + (into_shared ? i : there), CHUNK);
    }
}

/* ---- loads ---- */

struct bulk_load {
    struct tensor_record tensor;
    struct emulation_box box;
    struct thread *thread;
    struct cta *cta; /* whose shared memory is written */
    uint32_t offset, bytes;
    const struct gpu_mbarrier *barrier;
};

static void land(const struct bulk_load *load) {
    const struct gpu_tensor_shape *shape = &load->tensor.shape;
    std::vector<char> rows(load->bytes, 0);
    for (uint32_t i = 0; i < row_count(shape); i++) {
        struct row row = row_of(&load->tensor, &load->box, i);
        if (row.global) memcpy(rows.data() + row.shared + row.skip, row.global, row.bytes);
    }
    swizzle_copy(shape->swizzle, load->cta->dynamic + load->offset, rows.data(), load->bytes, true);
    async_wrote(load->cta, load->offset, load->bytes);
    count_loading(load->cta, load->offset, load->bytes, -1);
    mbarrier_copied(load->cta, load->barrier, load->bytes);
}

static void issue_load(struct bulk_load load) {
    struct cta *cta = load.cta;
    struct asynchronous *record = asynchronous_use(cta);
    for (uint32_t i = load.offset / CHUNK; i < (load.offset + load.bytes) / CHUNK; i++) {
        if (record->chunks[i].readers > 0)
            fail("loads over byte %u of shared memory, which a wgmma or a store on its way still "
                 "reads",
                 i * CHUNK);
        if (record->chunks[i].loading > 0)
            fail("loads over byte %u of shared memory, which another load is writing", i * CHUNK);
    }
    mbarrier_expect_copy(cta, load.barrier, load.bytes);
    compare(cta, cta == self->cta ? (uint16_t)(self->number + 1) : (uint16_t)WRITER_UNKNOWN);
    memset(cta->dynamic + load.offset, POISON, load.bytes);
    async_wrote(cta, load.offset, load.bytes);
    count_loading(cta, load.offset, load.bytes, 1);
    defer(cta, false, [load] {
        struct thread *running = self;
        self = load.thread;
        land(&load);
        self = running;
    });
}

/* ---- stores ---- */

static void read_store(struct bulk_store *store) {
    if (store->read) return;
    struct cta *cta = store->thread->cta;
    store->read = true;
    check_published(cta, store->offset, store->bytes, "a bulk store");
    store->held.resize(store->bytes);
    swizzle_copy(store->tensor.shape.swizzle, store->held.data(), cta->dynamic + store->offset,
                 store->bytes, false);
    count_readers(cta, store->offset, store->bytes, -1);
}

static void add_f32(char *to, const char *from, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; i += 4) {
        float sum, term;
        memcpy(&sum, to + i, 4);
        memcpy(&term, from + i, 4);
        sum += term;
        memcpy(to + i, &sum, 4);
    }
}

static void write_store(struct bulk_store *store) {
    read_store(store);
    if (store->written) return;
    store->written = true;
    for (uint32_t i = 0; i < row_count(&store->tensor.shape); i++) {
        struct row row = row_of(&store->tensor, &store->box, i);
        const char *from = store->held.data() + row.shared + row.skip;
        if (!row.global) continue;
        if (store->way == EMULATION_ADD)
            add_f32(row.global, from, row.bytes);
        else
            memcpy(row.global, from, row.bytes);
    }
    note_progress();
}

static void defer_store(struct bulk_store *store, std::shared_ptr<struct bulk_store> held) {
    defer(store->thread->cta, false, [held] {
        struct thread *running = self;
        self = held->thread;
        if (held->read)
            write_store(held.get());
        else
            read_store(held.get());
        self = running;
    });
}

static void issue_store(struct bulk_store store) {
    struct cta *cta = self->cta;
    struct asynchronous *record = asynchronous_use(cta);
    for (uint32_t i = store.offset / CHUNK; i < (store.offset + store.bytes) / CHUNK; i++)
        if (record->chunks[i].loading > 0)
            fail("stores byte %u of shared memory, which a load is writing", i * CHUNK);
    compare(cta, (uint16_t)(self->number + 1));
    check_published(cta, store.offset, store.bytes, "a bulk store");
    count_readers(cta, store.offset, store.bytes, 1);
    for (uint32_t i = 0; store.way == EMULATION_STORE && i < row_count(&store.tensor.shape); i++) {
        struct row row = row_of(&store.tensor, &store.box, i);
        if (row.global) memset(row.global, POISON, row.bytes);
    }
    auto held = std::make_shared<struct bulk_store>(store);
    work_of(self)->bulk_open.stores.push_back(held);
    defer_store(held.get(), held); /* one moment to read, one to write */
    defer_store(held.get(), held);
}

/* ---- both ---- */

/* A plain row of bytes, as the tensor of one dimension that it is. */
static struct tensor_record plain(char *global, uint32_t bytes, int element_bytes) {
    struct tensor_record tensor = {};
    tensor.base = global;
    tensor.shape.rank = 1;
    tensor.shape.element_bytes = element_bytes;
    tensor.shape.size[0] = bytes / (uint32_t)element_bytes;
    tensor.shape.box[0] = bytes / (uint32_t)element_bytes;
    return tensor;
}

static void check_plain(const void *shared, const void *global, uint32_t bytes) {
    if (bytes == 0 || bytes % 16 != 0 || (uintptr_t)shared % 16 != 0 || (uintptr_t)global % 16 != 0)
        fail("%u bytes from or to %p: a bulk copy's size and places are multiples of 16", bytes,
             global);
}

static struct tensor_record record_of(const struct gpu_tensor_map *map, int rank) {
    struct tensor_record tensor;
    memcpy(&tensor, map->bytes, sizeof tensor);
    if (tensor.magic != MAP_MAGIC) fail("this tensor map was not made by gpu_tensor_map_make");
    if (tensor.shape.rank != rank)
        fail("a copy of %d dimensions with the map of a tensor of %d", rank, tensor.shape.rank);
    return tensor;
}

static uint32_t tile_offset(const struct tensor_record *tensor, const void *shared) {
    const uint32_t period = std::max(gpu_swizzle_period(tensor->shape.swizzle), 128u);
    uint32_t offset =
        dynamic_offset(self->cta, shared, gpu_tensor_box_bytes(&tensor->shape), "a tensor's tile");
    if (offset % period != 0)
        fail("the tile at byte %u of shared memory is not aligned to %u", offset, period);
    return offset;
}

static void load_to(struct bulk_load load, uint16_t ranks) {
    if (ranks == 0) {
        issue_load(load);
        return;
    }
    const struct gpu_mbarrier *barrier = load.barrier;
    for (uint32_t rank = 0; rank < 16; rank++) {
        if (!(ranks >> rank & 1)) continue;
        load.cta = cluster_cta(rank);
        load.barrier = (const struct gpu_mbarrier *)same_place(self->cta, load.cta, barrier);
        issue_load(load);
    }
}

} // namespace emulation

using namespace emulation;

enum status gpu_tensor_map_make(struct gpu_tensor_map *map, const void *base,
                                const struct gpu_tensor_shape *shape) {
    const char *wrong = gpu_tensor_shape_wrong(shape, base);
    if (wrong) return status_fail(STATUS_SHAPE, "a tensor map: %s", wrong);
    static_assert(sizeof(struct tensor_record) <= sizeof map->bytes, "it fits");
    const struct tensor_record tensor = {MAP_MAGIC, (char *)base, *shape};
    memcpy(map->bytes, &tensor, sizeof tensor);
    return STATUS_OK;
}

void gpu_bulk_load(void *shared, const void *global, uint32_t bytes, struct gpu_mbarrier *barrier,
                   const char *file, int line) {
    maybe_switch({"gpu_bulk_load", file, line});
    self->at = {"gpu_bulk_load", file, line};
    check_plain(shared, global, bytes);
    issue_load({plain((char *)global, bytes, 2),
                {},
                self,
                self->cta,
                dynamic_offset(self->cta, shared, bytes, "a bulk copy"),
                bytes,
                barrier});
}

static void issue_plain_store(enum emulation_way way, void *global, const void *shared,
                              uint32_t bytes, struct place place) {
    maybe_switch(place);
    self->at = place;
    check_plain(shared, global, bytes);
    issue_store({way,
                 plain((char *)global, bytes, 4),
                 {},
                 self,
                 dynamic_offset(self->cta, shared, bytes, "a bulk copy"),
                 bytes,
                 {},
                 false,
                 false});
}

void gpu_bulk_store(void *global, const void *shared, uint32_t bytes, const char *file, int line) {
    issue_plain_store(EMULATION_STORE, global, shared, bytes, {"gpu_bulk_store", file, line});
}

void gpu_bulk_add_f32(float *global, const float *shared, uint32_t bytes, const char *file,
                      int line) {
    issue_plain_store(EMULATION_ADD, global, shared, bytes, {"gpu_bulk_add_f32", file, line});
}

void emulation_tensor(enum emulation_way way, const struct gpu_tensor_map *map, void *shared,
                      struct gpu_mbarrier *barrier, int rank, struct emulation_box box,
                      uint16_t ranks, const char *name, const char *file, int line) {
    maybe_switch({name, file, line});
    self->at = {name, file, line};
    const struct tensor_record tensor = record_of(map, rank);
    const uint32_t offset = tile_offset(&tensor, shared);
    const uint32_t bytes = gpu_tensor_box_bytes(&tensor.shape);
    if (way == EMULATION_LOAD)
        load_to({tensor, box, self, self->cta, offset, bytes, barrier}, ranks);
    else if (way == EMULATION_ADD && tensor.shape.element_bytes != 4)
        fail("sums are made of f32");
    else
        issue_store({way, tensor, box, self, offset, bytes, {}, false, false});
}

void gpu_bulk_commit() {
    struct thread_work *work = work_of(self);
    work->bulk.push_back(std::move(work->bulk_open));
    work->bulk.back().waited = false;
    work->bulk_open.stores.clear();
}

void emulation_bulk_wait(int groups, bool read) {
    struct thread_work *work = work_of(self);
    compare(self->cta, (uint16_t)(self->number + 1));
    const size_t keep = std::min(work->bulk.size(), (size_t)groups);
    for (size_t i = 0; i + keep < work->bulk.size(); i++) {
        work->bulk[i].waited = true;
        for (const std::shared_ptr<struct bulk_store> &store : work->bulk[i].stores) {
            if (read)
                read_store(store.get());
            else
                write_store(store.get());
        }
    }
    while (!read && work->bulk.size() > keep) work->bulk.pop_front();
}
