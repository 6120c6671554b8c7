#include "kernels/gpu/launch.h"

#include "kernels/gpu/hopper.h"
#include "kernels/gpu/wgmma.h"

extern "C" {
#include "tests/gpu_planted_async.h"
}

enum { SIDE = 64, STEPS = 5, STAGES = 2, PIPELINE_THREADS = 384, WARPGROUP = 128 };

struct stage {
    struct bf16 a[SIDE * SIDE], b[SIDE * SIDE];
};

struct ring {
    struct stage stages[STAGES];
    struct bf16 y[SIDE * SIDE];
    struct gpu_mbarrier full[STAGES], empty[STAGES];
    struct bf16 beyond[SIDE * SIDE]; /* so that a shifted tile is still in bounds */
};

__device__ static void init(struct ring *shared, enum planted bug) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            gpu_mbarrier_init(&shared->full[i], 1);
            gpu_mbarrier_init(&shared->empty[i], bug == PIPELINE_ARRIVALS ? 129 : 128);
        }
        if (bug != PIPELINE_NO_INIT_FENCE) gpu_mbarrier_init_fence();
    }
    if (bug != PIPELINE_NO_INIT_BARRIER) __syncthreads();
}

__device__ static void produce(struct ring *shared, const struct gpu_tensor_map *a,
                               const struct gpu_tensor_map *b, enum planted bug) {
    uint32_t bytes = sizeof(struct stage);
    if (bug == PIPELINE_EXPECTS_TOO_FEW) bytes /= 2;
    if (bug == PIPELINE_EXPECTS_TOO_MANY) bytes += 16;
    const uint32_t first = bug == PIPELINE_FIRST_PARITY ? 0 : 1;
    for (int step = 0; step < STEPS + (bug == PIPELINE_LOAD_NOT_WAITED); step++) {
        const int stage = step % STAGES, turn = step / STAGES & 1;
        struct stage *to = &shared->stages[stage];
        if (bug == PIPELINE_TILE_MISALIGNED) to = (struct stage *)((char *)to + 512);
        if (bug == PIPELINE_BARRIER_IN_TILE && step == 1)
            to = (struct stage *)((char *)&shared->full - sizeof(struct bf16[SIDE * SIDE]));
        gpu_mbarrier_wait(&shared->empty[stage], (uint32_t)turn ^ first);
        gpu_mbarrier_expect(&shared->full[stage], bytes);
        gpu_tensor_load_2d(to->a, a, &shared->full[stage], step * SIDE, 0);
        gpu_tensor_load_2d(to->b, b, &shared->full[stage], step * SIDE, 0);
    }
}

__device__ static void multiply(float (&d)[32], const struct stage *stage, bool first,
                                enum planted bug) {
    uint64_t a = gpu_tile_descriptor(gpu_shared_address(stage->a), GPU_SWIZZLE_128, 0);
    const uint64_t b = gpu_tile_descriptor(gpu_shared_address(stage->b), GPU_SWIZZLE_128, 0);
    if (bug == PIPELINE_DESCRIPTOR_MISALIGNED) a = gpu_descriptor_next(a, 128);
    if (bug != PIPELINE_NO_WGMMA_FENCE) gpu_wgmma_fence();
    for (uint32_t k = 0; k < 4; k++)
        gpu_wgmma_bf16<GPU_K_MAJOR, GPU_K_MAJOR>(d, gpu_descriptor_next(a, 32 * k),
                                                 gpu_descriptor_next(b, 32 * k), !first || k > 0);
    gpu_wgmma_commit();
}

__device__ static void store(const float (&d)[32], struct bf16 *shared,
                             const struct gpu_tensor_map *y, enum planted bug) {
    const int thread = (int)threadIdx.x % WARPGROUP;
    for (int i = 0; i < 32; i += 2) {
        const struct gpu_place at = gpu_place_wgmma(thread, i);
        const uint32_t byte = (uint32_t)(at.row * SIDE + at.column) * 2;
        *(uint32_t *)((char *)shared + gpu_swizzle_offset(GPU_SWIZZLE_128, byte)) =
            gpu_pack_bf16(d[i], d[i + 1]);
    }
    if (bug != PIPELINE_NO_STORE_FENCE && bug != PIPELINE_ONE_STORE_FENCE) gpu_async_fence();
    gpu_barrier(1, WARPGROUP);
    if (thread != 0) return;
    if (bug == PIPELINE_ONE_STORE_FENCE) gpu_async_fence();
    gpu_tensor_store_2d(y, shared, 0, 0);
    gpu_bulk_commit();
    if (bug == PIPELINE_STORE_OVERWRITTEN) shared[0].bits ^= 1;
    if (bug != PIPELINE_STORE_NOT_WAITED) gpu_bulk_wait_read<0>();
}

__device__ static void consume(struct ring *shared, const struct gpu_tensor_map *y,
                               enum planted bug) {
    float d[32];
    for (int step = 0; step < STEPS; step++) {
        const int stage = step % STAGES;
        if (bug != PIPELINE_NO_FULL_WAIT)
            gpu_mbarrier_wait(&shared->full[stage], (uint32_t)(step / STAGES & 1));
        multiply(d, &shared->stages[stage], step == 0, bug);
        if (bug == PIPELINE_EARLY_RELEASE) gpu_mbarrier_arrive(&shared->empty[stage]);
        if (bug == PIPELINE_SUMS_WRITTEN) d[3] = 0;
        float early = d[3];
        gpu_wgmma_wait<0>();
        if (bug == PIPELINE_SUMS_TOO_EARLY) d[3] = early;
        if (bug != PIPELINE_EARLY_RELEASE) gpu_mbarrier_arrive(&shared->empty[stage]);
    }
    store(d, shared->y, y, bug);
}

__global__ void __launch_bounds__(PIPELINE_THREADS, 1)
    pipeline(GPU_TENSOR_MAP y, GPU_TENSOR_MAP a, GPU_TENSOR_MAP b, enum planted bug) {
    GPU_DYNAMIC_SHARED(struct ring, shared);
    init(shared, bug);
    if (threadIdx.x / WARPGROUP == 1) {
        gpu_registers_take<240>();
        consume(shared, &y, bug);
        return;
    }
    if (bug == PIPELINE_REGISTERS) /* 168 less 160, twice, is less than 240 less 168 */
        gpu_registers_give<160>();
    else
        gpu_registers_give<24>();
    if (threadIdx.x == 0) produce(shared, &a, &b, bug);
}

/* Warp 0 copies 512 floats, warp 1 doubles them. */
__global__ void __launch_bounds__(64) copy(float *y, const float *x, enum planted bug) {
    GPU_DYNAMIC_SHARED(float, shared);
    if (threadIdx.x < GPU_WARP) {
        for (int i = (int)threadIdx.x * 4; i < 512; i += 4 * GPU_WARP)
            gpu_copy_async16(shared + i + (bug == COPY_MISALIGNED), x + i, i < 256);
        gpu_copy_commit();
        if (bug != COPY_NO_WAIT) gpu_copy_wait<0>();
    }
    if (bug != COPY_NO_BARRIER) __syncthreads();
    if (threadIdx.x >= GPU_WARP)
        for (int i = (int)threadIdx.x - GPU_WARP; i < 512; i += GPU_WARP) y[i] = 2 * shared[i];
}

/* y = a b^T, 64 x 64 x 64, of tiles that threads put into shared memory. */
__global__ void __launch_bounds__(WARPGROUP)
    product(float *y, const struct bf16 *a, const struct bf16 *b, enum planted bug) {
    GPU_DYNAMIC_SHARED(struct stage, shared);
    if (bug == PRODUCT_FENCE_BEFORE_WRITES) gpu_async_fence();
    for (int i = (int)threadIdx.x; i < SIDE * SIDE; i += WARPGROUP) {
        const uint32_t at = gpu_swizzle_offset(GPU_SWIZZLE_128, (uint32_t)i * 2) / 2;
        shared->a[at] = a[i];
        shared->b[at] = b[i];
    }
    if (bug == PRODUCT_RIGHT) gpu_async_fence();
    __syncthreads();
    float d[32];
    multiply(d, shared, true, bug);
    gpu_wgmma_wait<0>();
    for (int i = 0; i < 32; i++) {
        const struct gpu_place at = gpu_place_wgmma((int)threadIdx.x, i);
        y[at.row * SIDE + at.column] = d[i];
    }
}

/* Each CTA of a pair reads the other's numbers. */
__global__ void __launch_bounds__(WARPGROUP) pair(float *y, const float *x, enum planted bug) {
    struct memory {
        float x[WARPGROUP];
        struct gpu_mbarrier done;
    };
    GPU_DYNAMIC_SHARED(struct memory, shared);
    const uint32_t rank = gpu_cluster_rank();
    shared->x[threadIdx.x] = x[rank * WARPGROUP + threadIdx.x];
    if (threadIdx.x == 0) {
        gpu_mbarrier_init(&shared->done, WARPGROUP);
        gpu_mbarrier_init_fence();
    }
    if (bug != CLUSTER_NO_BARRIER) gpu_cluster_barrier();
    const struct memory *other = gpu_cluster_shared(shared, rank ^ 1);
    y[rank * WARPGROUP + threadIdx.x] = other->x[WARPGROUP - 1 - threadIdx.x];
    if (bug == CLUSTER_EARLY_END && rank == 0) return;
    gpu_mbarrier_arrive_remote(&shared->done, rank ^ 1);
    if (bug == CLUSTER_EARLY_END) return;
    if (bug == CLUSTER_LOCAL_WAIT)
        gpu_mbarrier_wait(&shared->done, 0);
    else
        gpu_mbarrier_wait_cluster(&shared->done, 0);
    gpu_cluster_barrier();
}

/* ---- the host's side: small whole numbers, so that every sum is exact ---- */

static float number(int row, int column) {
    return (float)((row * 7 + column * 13) % 11 - 5) / 4;
}

static struct bf16 *matrix(struct stream *stream, const struct device *gpu, int rows, int columns) {
    static struct bf16 host[SIDE * SIDE * (STEPS + 1)];
    void *memory = NULL;
    if (device_allocate(gpu, &memory, sizeof host) != STATUS_OK) abort();
    for (int i = 0; i < rows * columns; i++)
        host[i] = from_f32<struct bf16>(number(i / columns, i % columns));
    stream_copy(stream, memory, host, (size_t)(rows * columns) * sizeof *host);
    return (struct bf16 *)memory;
}

static struct gpu_tensor_map map_of(const void *base, int columns) {
    struct gpu_tensor_map map;
    struct gpu_tensor_shape shape = {};
    shape.rank = 2;
    shape.element_bytes = 2;
    shape.size[0] = (uint64_t)columns;
    shape.size[1] = SIDE;
    shape.stride_bytes[1] = (uint64_t)columns * 2;
    shape.box[0] = shape.box[1] = SIDE;
    shape.swizzle = GPU_SWIZZLE_128;
    if (gpu_tensor_map_make(&map, base, &shape) != STATUS_OK) abort();
    return map;
}

static float want_product(int row, int column, int depth) {
    float sum = 0;
    for (int k = 0; k < depth; k++) sum += number(row, k) * number(column, k);
    return sum;
}

static bool run_pipeline(struct stream *stream, const struct device *gpu, enum planted bug) {
    static struct bf16 y[SIDE * SIDE];
    struct bf16 *a = matrix(stream, gpu, SIDE, SIDE * STEPS);
    struct bf16 *b = matrix(stream, gpu, SIDE, SIDE * STEPS);
    struct bf16 *out = matrix(stream, gpu, 0, 0);
    struct gpu_grid grid = {};
    grid.blocks = dim3(1);
    grid.threads = PIPELINE_THREADS;
    grid.shared = sizeof(struct ring);
    gpu_launch(stream, "pipeline", grid, pipeline, map_of(out, SIDE), map_of(a, SIDE * STEPS),
               map_of(b, SIDE * STEPS), bug);
    stream_copy(stream, y, out, sizeof y);
    if (stream_check(stream) != STATUS_OK) return false;
    for (int i = 0; i < SIDE * SIDE; i++)
        if (y[i].bits != from_f32<struct bf16>(want_product(i / SIDE, i % SIDE, SIDE * STEPS)).bits)
            return false;
    return true;
}

static bool run_product(struct stream *stream, const struct device *gpu, enum planted bug) {
    static float y[SIDE * SIDE];
    struct bf16 *a = matrix(stream, gpu, SIDE, SIDE), *b = matrix(stream, gpu, SIDE, SIDE);
    void *out = matrix(stream, gpu, 0, 0);
    struct gpu_grid grid = {};
    grid.blocks = dim3(1);
    grid.threads = WARPGROUP;
    grid.shared = sizeof(struct stage);
    gpu_launch(stream, "product", grid, product, (float *)out, a, b, bug);
    stream_copy(stream, y, out, sizeof y);
    if (stream_check(stream) != STATUS_OK) return false;
    for (int i = 0; i < SIDE * SIDE; i++)
        if (!(y[i] == want_product(i / SIDE, i % SIDE, SIDE))) return false;
    return true;
}

/* What doubles 512 floats, or swaps and reverses two times 128 of them. */
static bool run_floats(struct stream *stream, const struct device *gpu, enum planted bug) {
    static float x[512], y[512];
    for (int i = 0; i < 512; i++) x[i] = (float)i;
    void *from = matrix(stream, gpu, 0, 0), *to = matrix(stream, gpu, 0, 0);
    stream_copy(stream, from, x, sizeof x);
    const bool copies = bug < COPY_LAST;
    struct gpu_grid grid = {};
    grid.blocks = dim3(copies ? 1 : 2);
    grid.threads = copies ? 64 : WARPGROUP;
    grid.shared = sizeof x + 16;
    grid.cluster = copies ? 0 : 2;
    gpu_launch(stream, copies ? "copy" : "pair", grid, copies ? copy : pair, (float *)to,
               (const float *)from, bug);
    stream_copy(stream, y, to, sizeof y);
    if (stream_check(stream) != STATUS_OK) return false;
    for (int i = 0; i < (copies ? 512 : 256); i++)
        if (!(y[i] == (copies ? (i < 256 ? 2 * x[i] : 0) : x[255 - i]))) return false;
    return true;
}

extern "C" bool planted_run(struct stream *stream, const struct device *gpu, int number) {
    const enum planted kind = (enum planted)number;
    if (kind < PIPELINE_LAST) return run_pipeline(stream, gpu, kind);
    if (kind > COPY_LAST && kind < PRODUCT_LAST) return run_product(stream, gpu, kind);
    return run_floats(stream, gpu, kind);
}
