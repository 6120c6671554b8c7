#include "kernels/gpu/launch.h"

#include "kernels/gpu/hopper.h"
#include "kernels/gpu/wgmma.h"

#include <stdlib.h>

extern "C" {
#include "tests/gpu_conformance.h"
}

enum { MEMORY = 1 << 18, SIDE = 64, WARPGROUP = 128, GARBAGE = 0x5a };

/* What a case has: memory of the device for two inputs and an output, and the host's copies. */
struct bench {
    struct stream *stream;
    void *in[2], *out;
    unsigned char host_in[2][MEMORY], host_out[MEMORY];
    char *wrong;
};

static void send(struct bench *b) {
    for (int i = 0; i < 2; i++) stream_copy(b->stream, b->in[i], b->host_in[i], MEMORY);
    memset(b->host_out, GARBAGE, MEMORY);
    stream_copy(b->stream, b->out, b->host_out, MEMORY);
}

static void fetch(struct bench *b) {
    stream_copy(b->stream, b->host_out, b->out, MEMORY);
    if (stream_check(b->stream) != STATUS_OK)
        snprintf(b->wrong, CONFORMANCE_NAME, "%s", status_message());
}

static void expect(struct bench *b, int at, double got, double want) {
    if (got == want || b->wrong[0]) return;
    snprintf(b->wrong, CONFORMANCE_NAME, "element %d is %g, not %g", at, got, want);
}

static struct gpu_grid grid_of(int blocks, int threads, size_t shared) {
    struct gpu_grid grid = {};
    grid.blocks = dim3((unsigned)blocks);
    grid.threads = threads;
    grid.shared = shared;
    return grid;
}

/* ---- ldmatrix: four 8 x 8 matrices, element i of all holds i ---- */

template <int matrices, bool transposed> __global__ void ldmatrix_kernel(uint32_t *out) {
    GPU_DYNAMIC_SHARED(uint16_t, shared);
    const int lane = (int)threadIdx.x;
    for (int i = lane; i < 256; i += GPU_WARP) shared[i] = (uint16_t)i;
    __syncwarp();
    uint32_t r[4] = {};
    const uint16_t *row = shared + lane * 8;
    if (matrices == 4)
        transposed ? gpu_ldmatrix_x4_trans(r, row) : gpu_ldmatrix_x4(r, row);
    else
        transposed ? gpu_ldmatrix_x2_trans(r, row) : gpu_ldmatrix_x2(r, row);
    for (int m = 0; m < matrices; m++) out[lane * 4 + m] = r[m];
}

template <int matrices, bool transposed> static void ldmatrix_case(struct bench *b) {
    send(b);
    gpu_launch(b->stream, "ldmatrix", grid_of(1, GPU_WARP, 512),
               ldmatrix_kernel<matrices, transposed>, (uint32_t *)b->out);
    fetch(b);
    for (int i = 0; i < GPU_WARP * matrices * 2; i++) {
        const int lane = i / 2 / matrices, m = i / 2 % matrices, half = i % 2;
        const int row = lane / 4, column = lane % 4 * 2 + half;
        const uint32_t got = ((const uint32_t *)b->host_out)[lane * 4 + m] >> 16 * half & 0xffff;
        expect(b, i, got, m * 64 + (transposed ? column * 8 + row : row * 8 + column));
    }
}

/* ---- mma.sync: out = c + a b^T of 16 x k and 8 x k matrices of f32, rounded by nobody ---- */

enum format { BF16, F16, TF32 };

template <enum format format> __device__ static uint32_t pack(float low, float high) {
    return format == BF16 ? gpu_pack_bf16(low, high) : gpu_pack_f16(low, high);
}

template <enum format format>
__global__ void mma_kernel(float *out, const float *a, const float *b) {
    const int lane = (int)threadIdx.x, depth = format == TF32 ? 8 : 16;
    uint32_t fa[4], fb[2];
    for (int i = 0; i < 4; i++) {
        const struct gpu_place p =
            format == TF32 ? gpu_place_a_tf32(lane, i) : gpu_place_a(lane, 2 * i);
        const float *from = a + p.row * depth + p.column;
        fa[i] = format == TF32 ? gpu_tf32(from[0]) : pack<format>(from[0], from[1]);
    }
    for (int i = 0; i < 2; i++) {
        const struct gpu_place p =
            format == TF32 ? gpu_place_b_tf32(lane, i) : gpu_place_b(lane, 2 * i);
        const float *from = b + p.column * depth + p.row;
        fb[i] = format == TF32 ? gpu_tf32(from[0]) : pack<format>(from[0], from[1]);
    }
    float d[4];
    for (int i = 0; i < 4; i++)
        d[i] = (float)(gpu_place_d(lane, i).row - gpu_place_d(lane, i).column);
    if (format == BF16) gpu_mma_bf16(d, fa, fb);
    if (format == F16) gpu_mma_f16(d, fa, fb);
    if (format == TF32) gpu_mma_tf32(d, fa, fb);
    for (int i = 0; i < 4; i++)
        out[gpu_place_d(lane, i).row * 8 + gpu_place_d(lane, i).column] = d[i];
}

static float small(int which, int i) {
    return (float)((i * 37 + which * 11 + i / 16 * 5) % 23 - 11);
}

template <enum format format> static void mma_case(struct bench *b) {
    const int depth = format == TF32 ? 8 : 16;
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < 16 * 16; i++) ((float *)b->host_in[which])[i] = small(which, i);
    send(b);
    gpu_launch(b->stream, "mma", grid_of(1, GPU_WARP, 0), mma_kernel<format>, (float *)b->out,
               (const float *)b->in[0], (const float *)b->in[1]);
    fetch(b);
    for (int i = 0; i < 16 * 8; i++) {
        float want = (float)(i / 8 - i % 8);
        for (int k = 0; k < depth; k++)
            want += small(0, i / 8 * depth + k) * small(1, i % 8 * depth + k);
        expect(b, i, ((const float *)b->host_out)[i], want);
    }
}

/* ---- TMA boxes: the raw bytes of shared memory against the layout ---- */

enum { PLANES = 3, ROWS = 20, BOX_ROWS = 8, BOX_PLANES = 2 };

/* A tensor (PLANES, ROWS, columns) of 16 bits, element number i holds i. */
static struct gpu_tensor_shape tensor_shape(enum gpu_swizzle swizzle, int rank) {
    struct gpu_tensor_shape shape = {};
    const uint32_t span = swizzle == GPU_SWIZZLE_NONE ? 48 : gpu_swizzle_span(swizzle);
    shape.rank = rank;
    shape.element_bytes = 2;
    shape.size[0] = span / 2 + 8; /* wider than the box, by what a row may be moved */
    shape.size[1] = ROWS;
    shape.size[2] = PLANES;
    shape.size[3] = 1;
    shape.stride_bytes[1] = (shape.size[0] * 2 + 15) / 16 * 16;
    shape.stride_bytes[2] = shape.stride_bytes[1] * ROWS;
    shape.stride_bytes[3] = shape.stride_bytes[2] * PLANES;
    shape.box[0] = span / 2;
    shape.box[1] = BOX_ROWS;
    shape.box[2] = rank > 2 ? BOX_PLANES : 1;
    shape.box[3] = 1;
    shape.swizzle = swizzle;
    return shape;
}

/* The element's place in the tensor's memory, or -1 where it lies outside. */
static int64_t element_of(const struct gpu_tensor_shape *shape, const int at[3], uint32_t i) {
    const int64_t x = at[0] + (int64_t)(i % shape->box[0]);
    const int64_t y = at[1] + (int64_t)(i / shape->box[0] % shape->box[1]);
    const int64_t z = shape->rank > 2 ? at[2] + (int64_t)(i / shape->box[0] / shape->box[1]) : 0;
    if (x < 0 || y < 0 || z < 0) return -1;
    if (x >= (int64_t)shape->size[0] || y >= (int64_t)shape->size[1]) return -1;
    if (z >= (int64_t)shape->size[2]) return -1;
    return z * ROWS * (int64_t)(shape->stride_bytes[1] / 2) +
           y * (int64_t)(shape->stride_bytes[1] / 2) + x;
}

__global__ void box_load_kernel(uint16_t *out, GPU_TENSOR_MAP map, uint32_t bytes, int rank, int x,
                                int y, int z) {
    GPU_DYNAMIC_SHARED(char, shared);
    struct gpu_mbarrier *barrier = (struct gpu_mbarrier *)(shared + MEMORY / 16);
    if (threadIdx.x == 0) {
        gpu_mbarrier_init(barrier, 1);
        gpu_mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        gpu_mbarrier_expect(barrier, bytes);
        if (rank == 2) gpu_tensor_load_2d(shared, &map, barrier, x, y);
        if (rank == 3) gpu_tensor_load_3d(shared, &map, barrier, x, y, z);
        if (rank == 4) gpu_tensor_load_4d(shared, &map, barrier, x, y, z, 0);
    }
    gpu_mbarrier_wait(barrier, 0);
    for (uint32_t i = threadIdx.x; i < bytes / 2; i += blockDim.x)
        out[i] = ((const uint16_t *)shared)[i];
}

__global__ void box_store_kernel(GPU_TENSOR_MAP map, uint32_t bytes, int rank, int x, int y,
                                 int z) {
    GPU_DYNAMIC_SHARED(char, shared);
    for (uint32_t i = threadIdx.x; i < bytes / 2; i += blockDim.x)
        ((uint16_t *)shared)[i] = (uint16_t)(i + 1);
    gpu_async_fence();
    __syncthreads();
    if (threadIdx.x != 0) return;
    if (rank == 2) gpu_tensor_store_2d(&map, shared, x, y);
    if (rank == 3) gpu_tensor_store_3d(&map, shared, x, y, z);
    gpu_bulk_commit();
    gpu_bulk_wait<0>();
}

static void box_case(struct bench *b, enum gpu_swizzle swizzle, int rank, bool stores,
                     const int at[3]) {
    const struct gpu_tensor_shape shape = tensor_shape(swizzle, rank);
    const uint32_t bytes = gpu_tensor_box_bytes(&shape);
    for (int i = 0; i < MEMORY / 2; i++) ((uint16_t *)b->host_in[0])[i] = (uint16_t)i;
    send(b);
    struct gpu_tensor_map map;
    if (gpu_tensor_map_make(&map, stores ? b->out : b->in[0], &shape) != STATUS_OK) {
        snprintf(b->wrong, CONFORMANCE_NAME, "%s", status_message());
        return;
    }
    const struct gpu_grid grid = grid_of(1, WARPGROUP, MEMORY / 16 + 16);
    if (stores)
        gpu_launch(b->stream, "box", grid, box_store_kernel, map, bytes, rank, at[0], at[1], at[2]);
    else
        gpu_launch(b->stream, "box", grid, box_load_kernel, (uint16_t *)b->out, map, bytes, rank,
                   at[0], at[1], at[2]);
    fetch(b);
    const uint16_t *out = (const uint16_t *)b->host_out;
    for (uint32_t i = 0; i < bytes / 2; i++) {
        const int64_t element = element_of(&shape, at, i);
        const uint32_t place = gpu_swizzle_offset(swizzle, i * 2) / 2;
        if (!stores)
            expect(b, (int)i, out[place], element < 0 ? 0 : (double)(element & 0xffff));
        else if (element >= 0)
            expect(b, (int)i, out[element], place + 1);
    }
    uint64_t garbage = 0; /* what the box didn't cover */
    for (uint64_t i = 0; i < shape.stride_bytes[2] * PLANES / 2; i++)
        garbage += out[i] == GARBAGE * 0x101;
    uint64_t covered = 0;
    for (uint32_t i = 0; i < bytes / 2; i++) covered += element_of(&shape, at, i) >= 0;
    if (stores)
        expect(b, -1, (double)(garbage + covered), (double)(shape.stride_bytes[2] * PLANES / 2));
}

/* ---- plain bulk copies, sums, and a box of f32 sums ---- */

__global__ void bulk_kernel(float *out, const float *in, GPU_TENSOR_MAP sums) {
    struct memory {
        float x[512], ones[64];
        struct gpu_mbarrier barrier;
    };
    GPU_DYNAMIC_SHARED(struct memory, shared);
    if (threadIdx.x == 0) {
        gpu_mbarrier_init(&shared->barrier, 1);
        gpu_mbarrier_init_fence();
    }
    if (threadIdx.x < 64) shared->ones[threadIdx.x] = 1;
    gpu_async_fence();
    __syncthreads();
    if (threadIdx.x != 0) return;
    gpu_mbarrier_expect(&shared->barrier, sizeof shared->x);
    gpu_bulk_load(shared->x, in, sizeof shared->x, &shared->barrier);
    gpu_mbarrier_wait(&shared->barrier, 0);
    gpu_bulk_store(out, shared->x, sizeof shared->x);
    gpu_bulk_commit();
    gpu_bulk_wait<0>();
    gpu_async_fence_all();
    gpu_bulk_add_f32(out + 64, shared->ones, sizeof shared->ones);
    gpu_tensor_add_3d(&sums, shared->ones, 4, 1, 0);
    gpu_bulk_commit();
    gpu_bulk_wait<0>();
}

/* 8 x 8 ones are added at (column 4, row 1) of the 8 x 16 numbers from 256 on. */
static void bulk_case(struct bench *b) {
    for (int i = 0; i < 512; i++) ((float *)b->host_in[0])[i] = (float)i;
    send(b);
    struct gpu_tensor_shape shape = {};
    shape.rank = 3;
    shape.element_bytes = 4;
    shape.size[0] = 8;
    shape.size[1] = 16;
    shape.size[2] = 1;
    shape.stride_bytes[1] = 32;
    shape.stride_bytes[2] = 512;
    shape.box[0] = shape.box[1] = 8;
    shape.box[2] = 1;
    struct gpu_tensor_map map;
    if (gpu_tensor_map_make(&map, (float *)b->out + 256, &shape) != STATUS_OK) abort();
    gpu_launch(b->stream, "bulk", grid_of(1, WARPGROUP, 4096), bulk_kernel, (float *)b->out,
               (const float *)b->in[0], map);
    fetch(b);
    for (int i = 0; i < 512; i++) {
        const int row = (i - 256) / 8, column = (i - 256) % 8;
        const bool in_box = i >= 256 && row >= 1 && row < 9 && column >= 4;
        expect(b, i, ((const float *)b->host_out)[i], i + (i >= 64 && i < 128) + in_box);
    }
}

/* ---- wgmma ---- */

/* A tile of `rows` (m or n) by k elements as TMA would lay it: the byte of element (row, k). A
 * K-major tile has one span of k; an MN-major one 64 k and a chunk a span of rows. */
GPU_PURE uint32_t tile_byte(enum gpu_swizzle swizzle, enum gpu_major major, int row, int k) {
    const uint32_t span = gpu_swizzle_span(swizzle), per_row = span / 2;
    if (major == GPU_K_MAJOR)
        return gpu_swizzle_offset(swizzle, (uint32_t)row * span + (uint32_t)k * 2);
    const uint32_t chunk = (uint32_t)row / per_row * SIDE * span;
    return chunk + gpu_swizzle_offset(swizzle, (uint32_t)k * span + (uint32_t)row % per_row * 2);
}

GPU_PURE int depth_of(enum gpu_swizzle swizzle, enum gpu_major a, enum gpu_major b) {
    return a == GPU_K_MAJOR || b == GPU_K_MAJOR ? (int)gpu_swizzle_span(swizzle) / 2 : SIDE + 0;
}

/* in: 64 x depth and n x depth numbers of f32. */
struct wgmma_case_of {
    enum gpu_swizzle swizzle;
    bool registers, f16;
};

template <enum gpu_major a_major, enum gpu_major b_major, int count>
__global__ void __launch_bounds__(WARPGROUP, 1)
    wgmma_kernel(float *out, const float *a, const float *b, struct wgmma_case_of of) {
    GPU_DYNAMIC_SHARED(char, shared);
    const int n = 2 * count, thread = (int)threadIdx.x;
    const int depth = depth_of(of.swizzle, of.registers ? b_major : a_major, b_major);
    char *tile_a = shared, *tile_b = shared + SIDE * 256;
    for (int i = thread; !of.registers && i < SIDE * depth; i += WARPGROUP)
        *(uint16_t *)(tile_a + tile_byte(of.swizzle, a_major, i / depth, i % depth)) =
            of.f16 ? from_f32<struct f16>(a[i]).bits : from_f32<struct bf16>(a[i]).bits;
    for (int i = thread; i < n * depth; i += WARPGROUP)
        *(uint16_t *)(tile_b + tile_byte(of.swizzle, b_major, i / depth, i % depth)) =
            of.f16 ? from_f32<struct f16>(b[i]).bits : from_f32<struct bf16>(b[i]).bits;
    gpu_async_fence();
    __syncthreads();
    const uint32_t span = gpu_swizzle_span(of.swizzle);
    uint64_t da = gpu_tile_descriptor(gpu_shared_address(tile_a), of.swizzle, SIDE * span);
    uint64_t db = gpu_tile_descriptor(gpu_shared_address(tile_b), of.swizzle, SIDE * span);
    float d[count];
    for (int i = 0; i < count; i++) d[i] = 1e30f; /* which the first product must not add */
    for (int k = 0; k < depth; k += 16) {
        uint32_t fragment[4];
        for (int i = 0; i < 4; i++) {
            const struct gpu_place p = gpu_place_a(thread % GPU_WARP, 2 * i);
            const float *from = a + (thread / GPU_WARP * 16 + p.row) * depth + k + p.column;
            fragment[i] = of.f16 ? gpu_pack_f16(from[0], from[1]) : gpu_pack_bf16(from[0], from[1]);
        }
        gpu_wgmma_hold(d);
        gpu_wgmma_fence();
        if (of.registers && of.f16)
            gpu_wgmma_f16_registers<b_major>(d, fragment, db, k > 0);
        else if (of.registers)
            gpu_wgmma_bf16_registers<b_major>(d, fragment, db, k > 0);
        else if (of.f16)
            gpu_wgmma_f16<a_major, b_major>(d, da, db, k > 0);
        else
            gpu_wgmma_bf16<a_major, b_major>(d, da, db, k > 0);
        gpu_wgmma_commit();
        gpu_wgmma_wait<0>();
        gpu_wgmma_hold(d);
        da = gpu_descriptor_next(da, a_major == GPU_K_MAJOR ? 32 : 16 * span);
        db = gpu_descriptor_next(db, b_major == GPU_K_MAJOR ? 32 : 16 * span);
    }
#pragma unroll
    for (int i = 0; i < count; i++)
        out[gpu_place_wgmma(thread, i).row * n + gpu_place_wgmma(thread, i).column] = d[i];
}

template <enum gpu_major a_major, enum gpu_major b_major, int count>
static void wgmma_case(struct bench *b, struct wgmma_case_of of) {
    const int n = 2 * count;
    const int depth = depth_of(of.swizzle, of.registers ? b_major : a_major, b_major);
    for (int which = 0; which < 2; which++)
        for (int i = 0; i < 256 * SIDE; i++) ((float *)b->host_in[which])[i] = small(which, i);
    send(b);
    gpu_launch(b->stream, "wgmma", grid_of(1, WARPGROUP, SIDE * 256 + 256 * 256),
               wgmma_kernel<a_major, b_major, count>, (float *)b->out, (const float *)b->in[0],
               (const float *)b->in[1], of);
    fetch(b);
    for (int i = 0; i < SIDE * n; i++) {
        float want = 0;
        for (int k = 0; k < depth; k++)
            want += small(0, i / n * depth + k) * small(1, i % n * depth + k);
        expect(b, i, ((const float *)b->host_out)[i], want);
    }
}

typedef void wgmma_case_fn(struct bench *b, struct wgmma_case_of of);

/* For each N: A's and B's majors K K, K MN, MN K, MN MN. */
#define CONFORMANCE_WGMMA(count)                                                                   \
    {                                                                                              \
        wgmma_case<GPU_K_MAJOR, GPU_K_MAJOR, count>, wgmma_case<GPU_K_MAJOR, GPU_MN_MAJOR, count>, \
            wgmma_case<GPU_MN_MAJOR, GPU_K_MAJOR, count>,                                          \
            wgmma_case<GPU_MN_MAJOR, GPU_MN_MAJOR, count>                                          \
    }
static const struct {
    int n;
    wgmma_case_fn *run[4];
} wgmma_cases[] = {
    {64, CONFORMANCE_WGMMA(32)},   {80, CONFORMANCE_WGMMA(40)},  {96, CONFORMANCE_WGMMA(48)},
    {128, CONFORMANCE_WGMMA(64)},  {176, CONFORMANCE_WGMMA(88)}, {192, CONFORMANCE_WGMMA(96)},
    {256, CONFORMANCE_WGMMA(128)},
};

/* ---- clusters: a box for both CTAs of a pair, loaded by one; a look at the other's memory ---- */

__global__ void __launch_bounds__(WARPGROUP) cluster_kernel(uint16_t *out, GPU_TENSOR_MAP map) {
    struct memory {
        uint16_t box[SIDE * 8];
        uint16_t own[WARPGROUP];
        struct gpu_mbarrier full, used;
    };
    GPU_DYNAMIC_SHARED(struct memory, shared);
    const uint32_t rank = gpu_cluster_rank();
    shared->own[threadIdx.x] = (uint16_t)(1000 * rank + threadIdx.x);
    if (threadIdx.x == 0) {
        gpu_mbarrier_init(&shared->full, 1);
        gpu_mbarrier_init(&shared->used, gpu_cluster_size() * WARPGROUP);
        gpu_mbarrier_init_fence();
    }
    gpu_cluster_barrier();
    if (threadIdx.x == 0) gpu_mbarrier_expect(&shared->full, sizeof shared->box);
    gpu_cluster_barrier(); /* both expect before either's bytes come */
    if (threadIdx.x == 0 && rank == 1)
        gpu_tensor_multicast_2d(shared->box, &map, &shared->full, 0, 0, 3);
    gpu_mbarrier_wait(&shared->full, 0);
    for (uint32_t i = threadIdx.x; i < SIDE * 8; i += WARPGROUP)
        out[rank * 1024 + i] = shared->box[i];
    out[rank * 1024 + 512 + threadIdx.x] = gpu_cluster_shared(shared, rank ^ 1)->own[threadIdx.x];
    gpu_mbarrier_arrive_remote(&shared->used, 0);
    gpu_mbarrier_arrive_remote(&shared->used, 1);
    gpu_mbarrier_wait_cluster(&shared->used, 0);
    gpu_cluster_barrier();
}

static void cluster_case(struct bench *b) {
    for (int i = 0; i < MEMORY / 2; i++) ((uint16_t *)b->host_in[0])[i] = (uint16_t)(i + 7);
    send(b);
    struct gpu_tensor_shape shape = {};
    shape.rank = 2;
    shape.element_bytes = 2;
    shape.size[0] = shape.box[0] = SIDE;
    shape.size[1] = shape.box[1] = 8;
    shape.stride_bytes[1] = SIDE * 2;
    struct gpu_tensor_map map;
    if (gpu_tensor_map_make(&map, b->in[0], &shape) != STATUS_OK) abort();
    struct gpu_grid grid = grid_of(2, WARPGROUP, 4096);
    grid.cluster = 2;
    gpu_launch(b->stream, "cluster", grid, cluster_kernel, (uint16_t *)b->out, map);
    fetch(b);
    const uint16_t *out = (const uint16_t *)b->host_out;
    for (int i = 0; i < 2 * 640; i++) {
        const int rank = i / 640, at = i % 640;
        expect(b, i, out[rank * 1024 + at], at < 512 ? at + 7 : 1000 * (rank ^ 1) + at - 512);
    }
}

/* ---- the list ---- */

static const char *const swizzle_names[] = {"no", "32-byte", "64-byte", "128-byte"};

/* Every swizzle, 2 to 4 dimensions, loads and stores, inside and over each edge. */
static bool run_box(struct bench *b, int number, char *name) {
    static const int places[][3] = {{0, 0, 0}, {8, 15, 2}, {-3, -2, -1}};
    const int ways = 5; /* load 2 3 4, store 2 3 */
    if (number >= 4 * ways * 3) return false;
    const int swizzle = number / (ways * 3), way = number / 3 % ways;
    const int *at = places[number % 3];
    const int rank = way < 3 ? way + 2 : way - 1;
    snprintf(name, CONFORMANCE_NAME, "TMA %s of %d dimensions, %s swizzle, at (%d, %d, %d)",
             way < 3 ? "load" : "store", rank, swizzle_names[swizzle], at[0], at[1], at[2]);
    box_case(b, (enum gpu_swizzle)swizzle, rank, way >= 3, at);
    return true;
}

static bool run_wgmma(struct bench *b, int number, char *name) {
    static const char *const majors[] = {"K", "MN"};
    const int sizes = (int)(sizeof wgmma_cases / sizeof *wgmma_cases), forms = 6;
    if (number >= sizes * forms * 3 * 2) return false;
    const int size = number / (forms * 3 * 2), form = number / 6 % forms;
    struct wgmma_case_of of = {(enum gpu_swizzle)(1 + number / 2 % 3), form >= 4, number % 2 == 1};
    const int a = form < 4 ? form / 2 : 0, m = form < 4 ? form % 2 : form - 4;
    snprintf(name, CONFORMANCE_NAME, "wgmma m64n%dk16 %s, A %s, B %s-major, %s swizzle",
             wgmma_cases[size].n, of.f16 ? "f16" : "bf16",
             of.registers ? "in registers"
             : a          ? "MN-major"
                          : "K-major",
             majors[m], swizzle_names[of.swizzle]);
    wgmma_cases[size].run[a * 2 + m](b, of);
    return true;
}

static const struct {
    const char *name;
    void (*run)(struct bench *b);
} single_cases[] = {
    {"ldmatrix x4", ldmatrix_case<4, false>},
    {"ldmatrix x4 transposed", ldmatrix_case<4, true>},
    {"ldmatrix x2", ldmatrix_case<2, false>},
    {"ldmatrix x2 transposed", ldmatrix_case<2, true>},
    {"mma m16n8k16 bf16", mma_case<BF16>},
    {"mma m16n8k16 f16", mma_case<F16>},
    {"mma m16n8k8 tf32", mma_case<TF32>},
    {"bulk copies and sums", bulk_case},
    {"cluster of two: multicast and shared memory", cluster_case},
};

static bool run_case(struct bench *b, int number, char *name) {
    const int singles = (int)(sizeof single_cases / sizeof *single_cases), boxes = 4 * 5 * 3;
    if (number >= singles + boxes) return run_wgmma(b, number - singles - boxes, name);
    if (number >= singles) return run_box(b, number - singles, name);
    snprintf(name, CONFORMANCE_NAME, "%s", single_cases[number].name);
    single_cases[number].run(b);
    return true;
}

extern "C" bool conformance_run(struct stream *stream, const struct device *gpu, int number,
                                char name[CONFORMANCE_NAME], char wrong[CONFORMANCE_NAME]) {
    struct bench *b = (struct bench *)calloc(1, sizeof *b);
    void *const none = NULL;
    if (!b) abort();
    b->stream = stream;
    b->wrong = wrong;
    wrong[0] = 0;
    b->in[0] = b->in[1] = b->out = none;
    enum status status = device_allocate(gpu, &b->in[0], MEMORY);
    if (status == STATUS_OK) status = device_allocate(gpu, &b->in[1], MEMORY);
    if (status == STATUS_OK) status = device_allocate(gpu, &b->out, MEMORY);
    bool more = status == STATUS_OK && run_case(b, number, name);
    if (status != STATUS_OK) snprintf(wrong, CONFORMANCE_NAME, "%s", status_message());
    device_free(gpu, b->in[0]);
    device_free(gpu, b->in[1]);
    device_free(gpu, b->out);
    free(b);
    return more;
}
