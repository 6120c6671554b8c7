/* A warp-specialised GEMM: one warpgroup loads tiles by TMA into a ring of stages, two multiply
 * them, 64 rows each, and store theirs by TMA. A CTA walks over tiles of y, so that loads of the
 * next tile run under the stores of the last.
 *
 *   full[stage]   the stage's bytes have come          empty[stage]   all 8 warps are done with it
 */
#include "kernels/gpu/launch.h"

#include "kernels/gpu/hopper.h"
#include "kernels/gpu/wgmma.h"

extern "C" {
#include "kernels/gemm_hopper.h"
}

enum {
    ROWS = 128,     /* of a tile of y */
    DEPTH = 64,     /* k of a stage: rows of 128 bytes */
    PART = 64,      /* rows of a consumer, and columns of a store's box */
    GROUP_ROWS = 8, /* tiles that go down before the next column: they share w in the L2 cache */
    CONSUMERS = 2,
    WARPGROUP = 128,
    THREADS = WARPGROUP * (CONSUMERS + 1),
    PRODUCER_REGISTERS = 40,
    CONSUMER_REGISTERS = 232,
    BARRIER_FIRST = 1, /* named barrier of the first consumer */
};

template <int columns, int stages> struct gemm_shared {
    struct bf16 x[stages][ROWS * DEPTH], w[stages][columns * DEPTH];
    struct bf16 y[CONSUMERS][columns / PART][PART * PART];
    struct gpu_mbarrier full[stages], empty[stages];
};

struct gemm_sizes {
    int m, n, k;
    int row_tiles, column_tiles;
    struct bf16 *y; /* NULL: stored by TMA, through the map */
    int64_t y_stride;
};

struct gemm_tile {
    int row, column;
};

/* Tile number `index` of y, in groups of GROUP_ROWS rows. */
template <int columns>
__device__ static struct gemm_tile tile_of(const struct gemm_sizes &sizes, int index) {
    const int group = index / (GROUP_ROWS * sizes.column_tiles), first = group * GROUP_ROWS;
    const int height = min(GROUP_ROWS + 0, sizes.row_tiles - first);
    const int within = index - group * GROUP_ROWS * sizes.column_tiles;
    return {(first + within % height) * ROWS, within / height * columns};
}

template <int columns, int stages>
__device__ static void produce(struct gemm_shared<columns, stages> *shared,
                               const struct gpu_tensor_map *x, const struct gpu_tensor_map *w,
                               const struct gemm_sizes &sizes) {
    const int tiles = sizes.row_tiles * sizes.column_tiles;
    uint32_t step = 0;
    for (int index = (int)blockIdx.x; index < tiles; index += (int)gridDim.x) {
        const struct gemm_tile tile = tile_of<columns>(sizes, index);
        for (int k = 0; k < sizes.k; k += DEPTH, step++) {
            const uint32_t stage = step % stages, parity = step / stages & 1;
            struct gpu_mbarrier *full = &shared->full[stage];
            gpu_mbarrier_wait(&shared->empty[stage], parity ^ 1);
            gpu_mbarrier_expect(full, (ROWS + columns) * DEPTH * (uint32_t)sizeof(struct bf16));
            gpu_tensor_load_2d(shared->x[stage], x, full, k, tile.row);
            gpu_tensor_load_2d(shared->w[stage], w, full, k, tile.column);
        }
    }
}

/* The products of one stage, 16 k each, as one group. */
template <int columns>
__device__ static void multiply_stage(float (&d)[columns / 2], const struct bf16 *x,
                                      const struct bf16 *w, bool first) {
    const uint64_t a = gpu_tile_descriptor(gpu_shared_address(x), GPU_SWIZZLE_128, 0);
    const uint64_t b = gpu_tile_descriptor(gpu_shared_address(w), GPU_SWIZZLE_128, 0);
    gpu_wgmma_fence();
#pragma unroll
    for (uint32_t k = 0; k < DEPTH; k += 16)
        gpu_wgmma_bf16<GPU_K_MAJOR, GPU_K_MAJOR>(d, gpu_descriptor_next(a, 2 * k),
                                                 gpu_descriptor_next(b, 2 * k), !first || k > 0);
    gpu_wgmma_commit();
}

/* y's tile through shared memory, in boxes of 64 columns. */
template <int columns>
__device__ static void store_tile(const float (&d)[columns / 2], struct bf16 (*shared)[PART * PART],
                                  const struct gpu_tensor_map *y, int consumer,
                                  struct gemm_tile tile, int n) {
    const int thread = (int)threadIdx.x % WARPGROUP;
    if (thread == 0) gpu_bulk_wait_read<0>();
    gpu_barrier(BARRIER_FIRST + consumer, WARPGROUP);
#pragma unroll
    for (int i = 0; i < columns / 2; i += 2) {
        const struct gpu_place at = gpu_place_wgmma(thread, i);
        const uint32_t byte = (uint32_t)(at.row * PART + at.column % PART) * 2;
        char *box = (char *)shared[at.column / PART];
        *(uint32_t *)(box + gpu_swizzle_offset(GPU_SWIZZLE_128, byte)) =
            gpu_pack_bf16(d[i], d[i + 1]);
    }
    gpu_async_fence();
    gpu_barrier(BARRIER_FIRST + consumer, WARPGROUP);
    if (thread != 0) return;
    for (int part = 0; part < columns / PART && tile.column + part * PART < n; part++)
        gpu_tensor_store_2d(y, shared[part], tile.column + part * PART, tile.row + consumer * PART);
    gpu_bulk_commit();
}

/* The same where rows of y aren't aligned to 16 bytes. */
template <int columns>
__device__ static void store_plainly(const float (&d)[columns / 2], const struct gemm_sizes &sizes,
                                     int consumer, struct gemm_tile tile) {
    const int thread = (int)threadIdx.x % WARPGROUP;
#pragma unroll
    for (int i = 0; i < columns / 2; i++) {
        const struct gpu_place at = gpu_place_wgmma(thread, i);
        const int row = tile.row + consumer * PART + at.row, column = tile.column + at.column;
        if (row < sizes.m && column < sizes.n)
            sizes.y[row * sizes.y_stride + column] = from_f32<struct bf16>(d[i]);
    }
}

template <int columns, int stages>
__device__ static void consume(struct gemm_shared<columns, stages> *shared,
                               const struct gpu_tensor_map *y, const struct gemm_sizes &sizes,
                               int consumer) {
    const int tiles = sizes.row_tiles * sizes.column_tiles, lane = (int)threadIdx.x % GPU_WARP;
    uint32_t step = 0;
    float d[columns / 2];
    for (int index = (int)blockIdx.x; index < tiles; index += (int)gridDim.x) {
        const struct gemm_tile tile = tile_of<columns>(sizes, index);
        for (int k = 0; k < sizes.k; k += DEPTH, step++) {
            const uint32_t stage = step % stages, parity = step / stages & 1;
            gpu_mbarrier_wait(&shared->full[stage], parity);
            multiply_stage<columns>(d, shared->x[stage] + consumer * PART * DEPTH, shared->w[stage],
                                    k == 0);
            gpu_wgmma_wait<1>(); /* the stage before is done with */
            if (k > 0 && lane == 0) gpu_mbarrier_arrive(&shared->empty[(step - 1) % stages]);
        }
        gpu_wgmma_wait<0>();
        gpu_wgmma_hold(d);
        if (lane == 0) gpu_mbarrier_arrive(&shared->empty[(step - 1) % stages]);
        if (sizes.y)
            store_plainly<columns>(d, sizes, consumer, tile);
        else
            store_tile<columns>(d, shared->y[consumer], y, consumer, tile, sizes.n);
    }
    gpu_bulk_wait_read<0>();
}

template <int columns, int stages>
__global__ void __launch_bounds__(THREADS, 1)
    gemm_hopper_kernel(GPU_TENSOR_MAP y, GPU_TENSOR_MAP x, GPU_TENSOR_MAP w,
                       struct gemm_sizes sizes) {
    typedef struct gemm_shared<columns, stages> memory;
    GPU_DYNAMIC_SHARED(memory, shared);
    const int warpgroup = (int)threadIdx.x / WARPGROUP;
    if (threadIdx.x == 0) {
        for (int i = 0; i < stages; i++) {
            gpu_mbarrier_init(&shared->full[i], 1);
            gpu_mbarrier_init(&shared->empty[i], CONSUMERS * WARPGROUP / GPU_WARP);
        }
        gpu_mbarrier_init_fence();
    }
    __syncthreads();
    if (warpgroup == 0) {
        gpu_registers_give<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) produce<columns, stages>(shared, &x, &w, sizes);
    } else {
        gpu_registers_take<CONSUMER_REGISTERS>();
        consume<columns, stages>(shared, &y, sizes, warpgroup - 1);
    }
}

static enum status map_rows(struct gpu_tensor_map *map, const void *base, int columns, int rows,
                            int64_t stride, uint32_t box_rows) {
    struct gpu_tensor_shape shape = {};
    shape.rank = 2;
    shape.element_bytes = (int)sizeof(struct bf16);
    shape.size[0] = (uint64_t)columns;
    shape.size[1] = (uint64_t)rows;
    shape.stride_bytes[1] = (uint64_t)stride * sizeof(struct bf16);
    shape.box[0] = DEPTH;
    shape.box[1] = box_rows;
    shape.swizzle = GPU_SWIZZLE_128;
    return gpu_tensor_map_make(map, base, &shape);
}

template <int columns, int stages>
static void launch(struct stream *s, const struct gemm_hopper *gemm) {
    struct gpu_tensor_map x, w, y = {};
    struct gemm_sizes sizes = {};
    sizes.m = gemm->m;
    sizes.n = gemm->n;
    sizes.k = gemm->k;
    sizes.row_tiles = (gemm->m + ROWS - 1) / ROWS;
    sizes.column_tiles = (gemm->n + columns - 1) / columns;
    enum status status = map_rows(&x, gemm->x, gemm->k, gemm->m, gemm->x_stride, ROWS);
    if (status == STATUS_OK)
        status = map_rows(&w, gemm->w, gemm->k, gemm->n, gemm->w_stride, columns);
    if (gemm->y_stride % 8 == 0 && (uintptr_t)gemm->y % 16 == 0) {
        if (status == STATUS_OK)
            status = map_rows(&y, gemm->y, gemm->n, gemm->m, gemm->y_stride, PART);
    } else {
        sizes.y = (struct bf16 *)gemm->y;
        sizes.y_stride = gemm->y_stride;
    }
    if (status != STATUS_OK) {
        stream_fail(s, status, "gemm_hopper", "%s", status_message());
        return;
    }
    const int tiles = sizes.row_tiles * sizes.column_tiles;
    struct gpu_grid grid = {};
    grid.blocks = dim3((unsigned)(tiles < gemm->processors ? tiles : gemm->processors));
    grid.threads = THREADS;
    grid.shared = sizeof(struct gemm_shared<columns, stages>);
    gpu_launch(s, "gemm_hopper", grid, gemm_hopper_kernel<columns, stages>, y, x, w, sizes);
}

extern "C" void gemm_hopper_bf16(struct stream *s, const struct gemm_hopper *gemm) {
    if (gemm->m == 0 || gemm->n == 0) return;
    assert(gemm->k > 0 && gemm->processors > 0);
    if (gemm->n <= 128)
        launch<128, 4>(s, gemm);
    else
        launch<256, 3>(s, gemm);
}
