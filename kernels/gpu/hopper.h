/* What compute capability 9.0 added: barriers that count bytes, copies by the TMA unit, clusters,
 * register hand-over (wgmma: kernels/gpu/wgmma.h). Only files of the sm_90a list include it.
 *
 * A pipeline's rules, which the emulator checks:
 *   - one thread initialises the barriers, then gpu_mbarrier_init_fence, then __syncthreads (or the
 *     cluster's barrier where other CTAs use them);
 *   - the producer's first wait on "empty" asks for parity 1, which a new barrier answers at once;
 *   - expect counts the full box, also where it reaches out of the tensor (zeros are written
 * there);
 *   - what threads wrote to shared memory is seen by TMA stores and wgmma only after a
 *     gpu_async_fence by each writer and then a barrier;
 *   - a CTA outlives what the TMA unit reads of its shared memory: gpu_bulk_wait_read before the
 * end, and other CTAs' accesses: a cluster's barrier before the end.
 *
 * Source: PTX ISA 9.0, mbarrier, cp.async.bulk, wgmma, setmaxnreg; CUDA driver API, tensor maps. */
#ifndef STRATA_KERNELS_GPU_HOPPER_H
#define STRATA_KERNELS_GPU_HOPPER_H

#include "kernels/gpu/tensor.h"
#include "kernels/gpu/tensor_map.h"

/* In shared memory. Its phase ends when `count` arrivals were made and the bytes expected came. */
struct alignas(8) gpu_mbarrier {
    uint64_t word;
};

#ifdef __CUDACC__

#define GPU_TENSOR_MAP const __grid_constant__ struct gpu_tensor_map

GPU_INLINE void gpu_mbarrier_init(struct gpu_mbarrier *barrier, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(gpu_shared_address(barrier)),
                 "r"(count)
                 : "memory");
}

/* Shows initialised barriers to the TMA unit and to the cluster; by the initialising thread. */
GPU_INLINE void gpu_mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

GPU_INLINE void gpu_mbarrier_arrive(struct gpu_mbarrier *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(gpu_shared_address(barrier))
                 : "memory");
}

/* Arrives and adds to the bytes that the phase waits for. */
GPU_INLINE void gpu_mbarrier_expect(struct gpu_mbarrier *barrier, uint32_t bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(gpu_shared_address(barrier)),
        "r"(bytes)
        : "memory");
}

/* Arrives at the barrier of the same place in CTA `rank` of the cluster. */
GPU_INLINE void gpu_mbarrier_arrive_remote(struct gpu_mbarrier *barrier, uint32_t rank) {
    asm volatile("{\n"
                 ".reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
                 "}" ::"r"(gpu_shared_address(barrier)),
                 "r"(rank)
                 : "memory");
}

/* Whether the phase of this parity has ended: the first phase's is 0. May wait a little. */
GPU_INLINE bool gpu_mbarrier_test(struct gpu_mbarrier *barrier, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, done;\n"
                 "}"
                 : "=r"(done)
                 : "r"(gpu_shared_address(barrier)), "r"(parity)
                 : "memory");
    return done != 0;
}
GPU_INLINE void gpu_mbarrier_wait(struct gpu_mbarrier *barrier, uint32_t parity) {
    while (!gpu_mbarrier_test(barrier, parity)) {}
}

/* The same where CTAs of the cluster arrive. */
GPU_INLINE void gpu_mbarrier_wait_cluster(struct gpu_mbarrier *barrier, uint32_t parity) {
    uint32_t done = 0;
    while (!done)
        asm volatile("{\n"
                     ".reg .pred done;\n"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, done;\n"
                     "}"
                     : "=r"(done)
                     : "r"(gpu_shared_address(barrier)), "r"(parity)
                     : "memory");
}

/* What this thread wrote to shared memory so far may be read by TMA stores and wgmma. */
GPU_INLINE void gpu_async_fence() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* The same for device memory too: between bulk copies and plain accesses of the same bytes. */
GPU_INLINE void gpu_async_fence_all() {
    asm volatile("fence.proxy.async;" ::: "memory");
}

/* Copies by the TMA unit, issued by one thread. Loads count their bytes at `barrier`. `bytes` is a
 * multiple of 16, both addresses aligned to 16. */
GPU_INLINE void gpu_bulk_load(void *shared, const void *global, uint32_t bytes,
                              struct gpu_mbarrier *barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(gpu_shared_address(shared)),
        "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(gpu_shared_address(barrier))
        : "memory");
}

/* A box of the tensor at these element coordinates (innermost first; they may be negative or beyond
 * the end: zeros). `shared` is aligned to the swizzle's period, and to 128 at least. */
GPU_INLINE void gpu_tensor_load_2d(void *shared, const struct gpu_tensor_map *map,
                                   struct gpu_mbarrier *barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(gpu_shared_address(shared)),
                 "l"(map), "r"(gpu_shared_address(barrier)), "r"(x), "r"(y)
                 : "memory");
}
GPU_INLINE void gpu_tensor_load_3d(void *shared, const struct gpu_tensor_map *map,
                                   struct gpu_mbarrier *barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(gpu_shared_address(shared)),
                 "l"(map), "r"(gpu_shared_address(barrier)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
GPU_INLINE void gpu_tensor_load_4d(void *shared, const struct gpu_tensor_map *map,
                                   struct gpu_mbarrier *barrier, int x, int y, int z, int w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(gpu_shared_address(shared)),
                 "l"(map), "r"(gpu_shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

/* The same box into the same place of each CTA of the cluster in `ranks` (bit = rank); each one's
 * barrier at the same place counts the bytes. */
GPU_INLINE void gpu_tensor_multicast_2d(void *shared, const struct gpu_tensor_map *map,
                                        struct gpu_mbarrier *barrier, int x, int y,
                                        uint16_t ranks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(gpu_shared_address(shared)),
        "l"(map), "r"(gpu_shared_address(barrier)), "r"(x), "r"(y), "h"(ranks)
        : "memory");
}

/* Stores and sums (f32) from shared to device memory; elements out of the tensor are left out. They
 * belong to the thread's open group, as copies by gpu_copy_async16 do to theirs. */
GPU_INLINE void gpu_bulk_store(void *global, const void *shared, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                     __cvta_generic_to_global(global)),
                 "r"(gpu_shared_address(shared)), "r"(bytes)
                 : "memory");
}
GPU_INLINE void gpu_bulk_add_f32(float *global, const float *shared, uint32_t bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                     __cvta_generic_to_global(global)),
                 "r"(gpu_shared_address(shared)), "r"(bytes)
                 : "memory");
}
GPU_INLINE void gpu_tensor_store_2d(const struct gpu_tensor_map *map, const void *shared, int x,
                                    int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(
            map),
        "r"(gpu_shared_address(shared)), "r"(x), "r"(y)
        : "memory");
}
GPU_INLINE void gpu_tensor_store_3d(const struct gpu_tensor_map *map, const void *shared, int x,
                                    int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::
            "l"(map),
        "r"(gpu_shared_address(shared)), "r"(x), "r"(y), "r"(z)
        : "memory");
}
GPU_INLINE void gpu_tensor_add_3d(const struct gpu_tensor_map *map, const void *shared, int x,
                                  int y, int z) {
    asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group "
                 "[%0, {%2, %3, %4}], [%1];" ::"l"(map),
                 "r"(gpu_shared_address(shared)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
GPU_INLINE void gpu_bulk_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Until at most `groups` of the thread's groups, the newest, are on their way: written, or (_read)
 * read from shared memory, which may then be used again. */
template <int groups> GPU_INLINE void gpu_bulk_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(groups) : "memory");
}
template <int groups> GPU_INLINE void gpu_bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(groups) : "memory");
}

GPU_INLINE void gpu_tensor_map_prefetch(const struct gpu_tensor_map *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* Registers a thread, for a whole warpgroup: a multiple of 8, 24 to 256. Needs
 * __launch_bounds__(threads, 1). An increase waits until enough were given back. */
template <int count> GPU_INLINE void gpu_registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count> GPU_INLINE void gpu_registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

/* One thread of the warp, the same each time: true for it alone. */
GPU_INLINE bool gpu_elect() {
    uint32_t chosen;
    asm volatile("{\n"
                 ".reg .pred chosen;\n"
                 "elect.sync _|chosen, 0xffffffff;\n"
                 "selp.u32 %0, 1, 0, chosen;\n"
                 "}"
                 : "=r"(chosen));
    return chosen != 0;
}

/* Clusters: gpu_grid.cluster CTAs along x, numbered from 0. */
GPU_INLINE uint32_t gpu_cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
GPU_INLINE uint32_t gpu_cluster_size() {
    uint32_t size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}
/* A barrier of all the cluster's threads, in two halves; what was written before an arrive is seen
 * after the wait. */
GPU_INLINE void gpu_cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
GPU_INLINE void gpu_cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/* The same place in the shared memory of CTA `rank`, for plain loads and stores. */
template <class T> GPU_INLINE T *gpu_cluster_shared(T *shared, uint32_t rank) {
    uint64_t address;
    asm volatile("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(shared), "r"(rank));
    return (T *)address;
}

#else

#define GPU_TENSOR_MAP const struct gpu_tensor_map

void gpu_mbarrier_init(struct gpu_mbarrier *barrier, uint32_t count, EMULATION_CALLER);
void gpu_mbarrier_init_fence();
void gpu_mbarrier_arrive(struct gpu_mbarrier *barrier, EMULATION_CALLER);
void gpu_mbarrier_expect(struct gpu_mbarrier *barrier, uint32_t bytes, EMULATION_CALLER);
void gpu_mbarrier_arrive_remote(struct gpu_mbarrier *barrier, uint32_t rank, EMULATION_CALLER);
bool gpu_mbarrier_test(struct gpu_mbarrier *barrier, uint32_t parity, EMULATION_CALLER);
void gpu_mbarrier_wait(struct gpu_mbarrier *barrier, uint32_t parity, EMULATION_CALLER);
void gpu_mbarrier_wait_cluster(struct gpu_mbarrier *barrier, uint32_t parity, EMULATION_CALLER);
void gpu_async_fence();
void gpu_async_fence_all();

void gpu_bulk_load(void *shared, const void *global, uint32_t bytes, struct gpu_mbarrier *barrier,
                   EMULATION_CALLER);
void gpu_bulk_store(void *global, const void *shared, uint32_t bytes, EMULATION_CALLER);
void gpu_bulk_add_f32(float *global, const float *shared, uint32_t bytes, EMULATION_CALLER);
struct emulation_box {
    int at[4];
};
enum emulation_way { EMULATION_LOAD, EMULATION_STORE, EMULATION_ADD };
/* One box either way; `shared` and `barrier` as the copies above take them, `ranks` 0 but where a
 * load is multicast. */
void emulation_tensor(enum emulation_way way, const struct gpu_tensor_map *map, void *shared,
                      struct gpu_mbarrier *barrier, int rank, struct emulation_box box,
                      uint16_t ranks, const char *name, const char *file, int line);
inline void gpu_tensor_load_2d(void *shared, const struct gpu_tensor_map *map,
                               struct gpu_mbarrier *barrier, int x, int y, EMULATION_CALLER) {
    emulation_tensor(EMULATION_LOAD, map, shared, barrier, 2, {{x, y}}, 0, "gpu_tensor_load_2d",
                     file, line);
}
inline void gpu_tensor_load_3d(void *shared, const struct gpu_tensor_map *map,
                               struct gpu_mbarrier *barrier, int x, int y, int z,
                               EMULATION_CALLER) {
    emulation_tensor(EMULATION_LOAD, map, shared, barrier, 3, {{x, y, z}}, 0, "gpu_tensor_load_3d",
                     file, line);
}
inline void gpu_tensor_load_4d(void *shared, const struct gpu_tensor_map *map,
                               struct gpu_mbarrier *barrier, int x, int y, int z, int w,
                               EMULATION_CALLER) {
    emulation_tensor(EMULATION_LOAD, map, shared, barrier, 4, {{x, y, z, w}}, 0,
                     "gpu_tensor_load_4d", file, line);
}
inline void gpu_tensor_multicast_2d(void *shared, const struct gpu_tensor_map *map,
                                    struct gpu_mbarrier *barrier, int x, int y, uint16_t ranks,
                                    EMULATION_CALLER) {
    emulation_tensor(EMULATION_LOAD, map, shared, barrier, 2, {{x, y}}, ranks,
                     "gpu_tensor_multicast_2d", file, line);
}
inline void gpu_tensor_store_2d(const struct gpu_tensor_map *map, const void *shared, int x, int y,
                                EMULATION_CALLER) {
    emulation_tensor(EMULATION_STORE, map, (void *)shared, nullptr, 2, {{x, y}}, 0,
                     "gpu_tensor_store_2d", file, line);
}
inline void gpu_tensor_store_3d(const struct gpu_tensor_map *map, const void *shared, int x, int y,
                                int z, EMULATION_CALLER) {
    emulation_tensor(EMULATION_STORE, map, (void *)shared, nullptr, 3, {{x, y, z}}, 0,
                     "gpu_tensor_store_3d", file, line);
}
inline void gpu_tensor_add_3d(const struct gpu_tensor_map *map, const void *shared, int x, int y,
                              int z, EMULATION_CALLER) {
    emulation_tensor(EMULATION_ADD, map, (void *)shared, nullptr, 3, {{x, y, z}}, 0,
                     "gpu_tensor_add_3d", file, line);
}
void gpu_bulk_commit();
void emulation_bulk_wait(int groups, bool read);
template <int groups> inline void gpu_bulk_wait() {
    emulation_bulk_wait(groups, false);
}
template <int groups> inline void gpu_bulk_wait_read() {
    emulation_bulk_wait(groups, true);
}
inline void gpu_tensor_map_prefetch(const struct gpu_tensor_map *) {}

void emulation_registers(int count, bool take, const char *file, int line);
template <int count> inline void gpu_registers_take(EMULATION_CALLER) {
    emulation_registers(count, true, file, line);
}
template <int count> inline void gpu_registers_give(EMULATION_CALLER) {
    emulation_registers(count, false, file, line);
}
bool gpu_elect(EMULATION_CALLER);
uint32_t gpu_cluster_rank();
uint32_t gpu_cluster_size();
void gpu_cluster_arrive(EMULATION_CALLER);
void gpu_cluster_wait(EMULATION_CALLER);
void *emulation_cluster_shared(void *shared, uint32_t rank, const char *file, int line);
template <class T> inline T *gpu_cluster_shared(T *shared, uint32_t rank, EMULATION_CALLER) {
    return (T *)emulation_cluster_shared((void *)shared, rank, file, line);
}

#endif

GPU_INLINE void gpu_cluster_barrier() {
    gpu_cluster_arrive();
    gpu_cluster_wait();
}

#endif
