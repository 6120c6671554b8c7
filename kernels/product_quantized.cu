/* Few rows times a quantized weight: what decoding is made of. A block owns one panel of 16 rows of
 * W, and walks it in chunks of 256 columns, which are contiguous as they are stored.
 *
 *     4 warps  copy chunks (and the same columns of A) to a ring, ahead of their use, and turn a
 *              chunk into a tile of bf16
 *     2 warps  multiply the tile before it, 8 columns of C each, k = 0, 16, 32 ...
 *
 * The steps of 16 k are those of product_tensor.cu, so the bits are too. */
#include "kernels/gpu/launch.h"
#include "kernels/gpu/product.h"
#include "kernels/gpu/quantized.h"
#include "kernels/quantized_cuda.h"

static constexpr int WIDTH = QUANTIZED_CHUNK;
static constexpr int MAKERS = 128; /* threads that copy and widen */
static constexpr int USERS = 64;   /* threads that multiply */
static constexpr int THREADS = MAKERS + USERS;
static constexpr int STAGES = 8;
static constexpr int MAKERS_BARRIER = 1;
static constexpr int ABSMAX_BYTES = WIDTH / NF4_BLOCK * PANEL_ROWS;

/* Shared memory: the two tiles, then the ring, a stage after the other. */
struct fused_tile {
    struct bf16 at[PANEL_ROWS * WIDTH];
};
struct fused_shared {
    struct fused_tile tiles[2];
};

/* What the threads of a block know alike. */
struct fused {
    struct gpu_quantized w;
    const struct bf16 *x;
    int64_t x_stride;
    int tokens;
    bool x_aligned, y_pairs;
    int64_t panel, chunks;
    int raw_bytes, stage_bytes; /* a stage: W's bytes, c of NF4, then rows of A */
    uint8_t *ring;
};

__device__ __forceinline__ uint8_t *fused_stage(const struct fused &f, int64_t chunk) {
    return f.ring + chunk % STAGES * f.stage_bytes;
}

__device__ __forceinline__ struct bf16 *fused_x(const struct fused &f, int64_t chunk) {
    return (struct bf16 *)(void *)(fused_stage(f, chunk) + f.raw_bytes + ABSMAX_BYTES);
}

__device__ __forceinline__ int fused_columns(const struct fused &f, int64_t chunk) {
    const int64_t left = f.w.cols - chunk * WIDTH;
    return left < WIDTH ? (int)left : WIDTH;
}

/* `bytes` is a multiple of 16. */
__device__ __forceinline__ void fused_copy_bytes(uint8_t *to, const uint8_t *from, int bytes) {
    for (int at = (int)threadIdx.x * 16; at < bytes; at += MAKERS * 16)
        gpu_copy_async16(to + at, from + at, true);
}

__device__ __forceinline__ void fused_copy_x(const struct fused &f, int64_t chunk, int columns) {
    struct bf16 *to = fused_x(f, chunk);
    for (int i = (int)threadIdx.x; i < f.tokens * (WIDTH / TENSOR_CHUNK); i += MAKERS) {
        const int line = i / (WIDTH / TENSOR_CHUNK), column = i % (WIDTH / TENSOR_CHUNK);
        const int left = columns - column * TENSOR_CHUNK;
        const struct bf16 *from = f.x + line * f.x_stride + chunk * WIDTH + column * TENSOR_CHUNK;
        struct bf16 *place = to + tensor_place<WIDTH>(line, column);
        if (f.x_aligned)
            gpu_copy_async16(place, left > 0 ? from : f.x, left > 0);
        else
            *(struct tensor_chunk *)(void *)place = tensor_carry(from, left);
    }
}

/* Makers: everything of a chunk to its stage. */
__device__ __forceinline__ void fused_copy(const struct fused &f, int64_t chunk) {
    if (chunk < f.chunks) {
        const int columns = fused_columns(f, chunk);
        const int64_t blocks = ((int64_t)columns + f.w.block_elements - 1) / f.w.block_elements;
        fused_copy_bytes(fused_stage(f, chunk),
                         gpu_panel_at(f.w, f.panel) + chunk * gpu_chunk_bytes(f.w),
                         (int)blocks * f.w.block_bytes * PANEL_ROWS);
        if (f.w.absmax)
            fused_copy_bytes(fused_stage(f, chunk) + f.raw_bytes,
                             f.w.absmax +
                                 (f.panel * f.w.blocks + chunk * (WIDTH / NF4_BLOCK)) * PANEL_ROWS,
                             (int)blocks * PANEL_ROWS);
        fused_copy_x(f, chunk, columns);
    }
    gpu_copy_commit();
}

/* Makers: the chunk's tile, [16 rows of W][256], once its stage is there. */
__device__ __forceinline__ void fused_widen(const struct fused &f, struct fused_tile *tile,
                                            int64_t chunk) {
    gpu_copy_wait<STAGES - 2>();
    gpu_barrier(MAKERS_BARRIER, MAKERS);
    const uint8_t *data = fused_stage(f, chunk);
    const int columns = fused_columns(f, chunk);
    for (int i = (int)threadIdx.x; i < PANEL_ROWS * WIDTH / 8; i += MAKERS) {
        const int line = i / (WIDTH / 8), column = i % (WIDTH / 8);
        int64_t row = f.panel * PANEL_ROWS + line;
        float values[8];
        if (row >= f.w.rows) row = f.w.rows - 1; /* of padding, only the scale is asked for */
        gpu_eight_of_chunk(values, f.w, data, data + f.raw_bytes, row, column * 8, columns);
        struct tensor_chunk chunk8;
#pragma unroll
        for (int j = 0; j < 8; j++) chunk8.at[j] = from_f32<struct bf16>(values[j]);
        *(struct tensor_chunk *)(void *)(tile->at + tensor_place<WIDTH>(line, column)) = chunk8;
    }
}

/* Users: the chunk's terms of 8 columns of C. Rows that A lacks repeat its first one: what is made
 * of them is not stored. */
__device__ __forceinline__ void fused_multiply(const struct fused &f,
                                               struct tensor_sums<1, 1> *sums,
                                               const struct fused_tile *tile, int64_t chunk,
                                               int warp) {
    const struct bf16 *x = fused_x(f, chunk);
    const int lane = gpu_lane(), token = lane % 16 < f.tokens ? lane % 16 : 0;
    const int columns = fused_columns(f, chunk);
    for (int k = 0; k < columns; k += TENSOR_STEP) {
#pragma unroll
        for (int pair = 0; pair < TENSOR_STEP / 32; pair++) {
            const int column = k / TENSOR_CHUNK + pair * 4;
            uint32_t a[2][4], b[4];
            gpu_ldmatrix_x4(b,
                            tile->at + tensor_place<WIDTH>(warp * 8 + lane % 8, column + lane / 8));
            gpu_ldmatrix_x4(a[0], x + tensor_place<WIDTH>(token, column + lane / 16));
            gpu_ldmatrix_x4(a[1], x + tensor_place<WIDTH>(token, column + 2 + lane / 16));
            gpu_mma_bf16(sums->at[0][0], a[0], b);
            gpu_mma_bf16(sums->at[0][0], a[1], b + 2);
        }
    }
}

static __global__ void __launch_bounds__(THREADS)
    fused_kernel(struct fused f, struct cuda_product p) {
    GPU_DYNAMIC_SHARED(struct fused_shared, shared);
    const bool maker = threadIdx.x < MAKERS;
    const int warp = gpu_warp() - MAKERS / GPU_WARP; /* of a user */
    struct tensor_sums<1, 1> sums;
    f.panel = blockIdx.x;
    f.ring = (uint8_t *)(shared + 1);
    if (maker) {
        for (int i = 0; i < STAGES - 1; i++) fused_copy(f, i);
        fused_widen(f, &shared->tiles[0], 0);
    } else
        tensor_begin(&sums, p, 0, f.panel * PANEL_ROWS + warp * 8);
    for (int64_t chunk = 0; chunk < f.chunks; chunk++) {
        __syncthreads(); /* this chunk's tile is made, the one before is used */
        if (!maker) {
            fused_multiply(f, &sums, &shared->tiles[chunk % 2], chunk, warp);
            continue;
        }
        fused_copy(f, chunk + STAGES - 1);
        if (chunk + 1 < f.chunks) fused_widen(f, &shared->tiles[(chunk + 1) % 2], chunk + 1);
    }
    if (maker)
        gpu_copy_wait<0>();
    else
        tensor_end(&sums, p, f.y_pairs, 0, f.panel * PANEL_ROWS + warp * 8);
}

void product_quantized_cuda(struct stream *s, const char *op, const struct cuda_product *p,
                            const struct weight *w) {
    assert(p->m <= FUSED_ROWS && p->a.bf16 && !p->a.by_depth);
    struct fused f = {};
    f.w = gpu_quantized_of(w);
    f.x = (const struct bf16 *)p->a.data;
    f.x_stride = p->a.stride;
    f.tokens = (int)p->m;
    f.x_aligned =
        (uintptr_t)f.x % 16 == 0 && f.x_stride % TENSOR_CHUNK == 0 && p->k % TENSOR_CHUNK == 0;
    f.y_pairs = tensor_pairs_aligned(p);
    f.chunks = (w->cols + WIDTH - 1) / WIDTH;
    f.raw_bytes = WIDTH / f.w.block_elements * f.w.block_bytes * PANEL_ROWS;
    f.stage_bytes = f.raw_bytes + ABSMAX_BYTES + f.tokens * WIDTH * 2;
    const int64_t panels = (w->rows + PANEL_ROWS - 1) / PANEL_ROWS;
    gpu_launch(
        s, op,
        gpu_grid{.blocks = dim3((unsigned)panels),
                 .threads = THREADS,
                 .shared = sizeof(struct fused_shared) + (size_t)STAGES * (size_t)f.stage_bytes},
        fused_kernel, f, *p);
}
