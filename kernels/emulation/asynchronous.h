/* What a CTA has on its way: copies by cp.async, bulk and tensor copies, wgmma; and what these need
 * to be judged by: barriers that count bytes, which bytes of shared memory are being loaded or
 * still to be read, and which the asynchronous units can't see yet.
 *
 * "The async proxy" (TMA unit, wgmma) reads shared memory by another way than threads do: what a
 * thread wrote it sees only after the thread's fence.proxy.async. Writes are plain C++ here, so
 * they are found by comparing: after each stretch that a thread ran, what changed is what it wrote.
 * That begins in a CTA with the first call of this kind. */
#ifndef STRATA_KERNELS_EMULATION_ASYNCHRONOUS_H
#define STRATA_KERNELS_EMULATION_ASYNCHRONOUS_H

#include "kernels/emulation/access.h"
#include "kernels/emulation/machine.h"
#include "kernels/gpu/hopper.h"
#include "kernels/gpu/wgmma.h"
#include <deque>
#include <map>
#include <memory>

namespace emulation {

enum { WARPGROUP = 128, CHUNK = 16 };
enum { SHARED_BASE = 1024 }; /* the address of the first dynamic byte, as on a GPU */
enum { WRITER_NONE = 0, WRITER_UNKNOWN = 0xffff };

/* ---- cp.async ---- */

struct small_copy {
    void *to;
    const void *from; /* NULL: zeros */
};

struct small_copies {
    std::vector<struct small_copy> open;
    std::deque<std::vector<struct small_copy>> groups;
};

/* ---- mbarriers ---- */

struct mbarrier_state {
    uint32_t count, pending; /* arrivals a phase; still to come in this one */
    int64_t bytes;           /* to come; below zero where they came before they were expected */
    int64_t on_their_way;    /* bytes of issued copies that will count here */
    uint32_t phase;
    int initialiser;
    bool fenced; /* seen by the TMA unit and the cluster */
    bool remote; /* other CTAs have arrived */
    bool unseen; /* bytes came in the last phase, and nobody waited for it */
    std::vector<struct thread *> waiting;
    struct knowledge known; /* of those that arrived */
};

/* ---- bulk and tensor copies ---- */

struct tensor_record { /* what a gpu_tensor_map holds */
    uint64_t magic;
    char *base;
    struct gpu_tensor_shape shape;
};

/* A copy out of shared memory: its bytes are read at one moment, written at a later one. */
struct bulk_store {
    enum emulation_way way;
    struct tensor_record tensor; /* one row where the copy is a plain one */
    struct emulation_box box;
    struct thread *thread;
    uint32_t offset, bytes; /* in shared memory */
    std::vector<char> held;
    bool read, written;
};

struct bulk_group {
    std::vector<std::shared_ptr<struct bulk_store>> stores;
    bool waited; /* at least until it was read */
};

/* ---- wgmma ---- */

/* The true values of accumulators that a product on its way owns; the thread's own array holds
 * poison until it waited for `last`. */
struct sums {
    std::vector<float> values;
    size_t last;
};

struct product {
    struct emulation_wgmma what;
    struct place place;
    int arrived;
    struct sums *sums[WARPGROUP];
    uint32_t registers[WARPGROUP][4];
    std::vector<uint32_t> chunks; /* of shared memory that it reads, as offsets */
};

struct warpgroup {
    std::deque<struct product>
        products; /* issued and not executed; the first has number `executed` */
    size_t executed;
    std::vector<struct thread *> waiting;
};

/* ---- all of it ---- */

struct thread_work {
    struct bulk_group bulk_open;
    std::deque<struct bulk_group> bulk;
    bool fenced;                   /* by wgmma.fence since the last wait */
    size_t issued;                 /* products */
    std::deque<size_t> group_ends; /* numbers behind the last product of each group */
    std::map<float *, std::unique_ptr<struct sums>> sums;
    std::vector<uint32_t> unpublished;        /* units of 2 bytes of shared memory that it wrote */
    uint64_t cluster_arrived, cluster_waited; /* how often */
};

struct chunk {
    uint16_t readers, loading;
};

struct asynchronous {
    struct small_copies small[MAX_THREADS];
    bool used;              /* since this CTA started; below is stale where not */
    std::vector<char> seen; /* dynamic shared memory when it was last compared */
    std::vector<uint16_t>
        writer; /* of each 2 bytes: WRITER_NONE, a thread's number + 1, or unknown */
    std::vector<struct chunk> chunks;
    std::map<const void *, struct mbarrier_state> barriers;
    std::vector<struct thread_work> threads;
    std::vector<struct warpgroup> warpgroups;
    int register_pool; /* given back and not taken */
    std::vector<int> warp_registers;
    std::vector<struct thread *> register_waiting;
};

/* The CTA's record, from now on compared; and the running thread's. */
struct asynchronous *asynchronous_use(struct cta *cta);
struct thread_work *work_of(struct thread *thread);

/* The offset in the CTA's dynamic shared memory of `bytes` that must all lie there. */
uint32_t dynamic_offset(const struct cta *cta, const void *shared, size_t bytes, const char *what);

/* What changed since the last comparison was written by `writer`. */
void compare(struct cta *cta, uint16_t writer);
/* The asynchronous units wrote there. */
void async_wrote(struct cta *cta, uint32_t offset, uint32_t bytes);
/* fail() where a thread's write there isn't published; the caller has compared. */
void check_published(struct cta *cta, uint32_t offset, uint32_t bytes, const char *what);
/* Counts readers or loads of whole chunks of 16 bytes up or down. */
void count_readers(struct cta *cta, uint32_t offset, uint32_t bytes, int by);
void count_loading(struct cta *cta, uint32_t offset, uint32_t bytes, int by);

/* fail() where the barrier is none, or was overwritten. */
struct mbarrier_state *mbarrier_find(struct cta *cta, const struct gpu_mbarrier *barrier);
void mbarrier_expect_copy(struct cta *cta, const struct gpu_mbarrier *barrier, uint32_t bytes);
void mbarrier_copied(struct cta *cta, const struct gpu_mbarrier *barrier, uint32_t bytes);

void wgmma_thread_ended(struct thread *thread);

/* The CTA of the running thread's cluster with this rank (fail() where there is none or it has
 * ended), and the same place in its shared memory. */
struct cta *cluster_cta(uint32_t rank);
void *same_place(const struct cta *from, const struct cta *to, const void *shared);

} // namespace emulation

#endif
