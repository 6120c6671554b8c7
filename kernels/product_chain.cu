/* fp32 products in tiles: operands of a step of 16 k go through registers to shared memory while
 * the step before is multiplied. A thread owns ROWS x COLS elements of C, each one chain of fused
 * multiply-adds in the order of k. */
#include "kernels/gpu/gpu.h"
#include "kernels/gpu/launch.h"
#include "kernels/gpu/product.h"
#include "kernels/gpu/raster.h"

static constexpr int SIDE = 16, THREADS = SIDE * SIDE, DEPTH = 16;

/* [k][row], a line's floats beside each other; the pad keeps 16-byte alignment and spreads banks */
template <int WIDTH> struct chain_tile { alignas(16) float at[DEPTH][WIDTH + 4]; };
template <int ROWS, int COLS> struct chain_tiles {
    struct chain_tile<SIDE * ROWS> a[2];
    struct chain_tile<SIDE * COLS> b[2];
};

__device__ __forceinline__ float chain_element(const struct cuda_operand &o, int64_t at) {
    return o.bf16 ? to_f32(((const struct bf16 *)o.data)[at]) : ((const float *)o.data)[at];
}

/* The i-th element that this thread carries: neighbours in memory go to neighbouring threads. */
__device__ __forceinline__ void chain_place(const struct cuda_operand &o, int width, int i,
                                            int *row, int *depth) {
    const int at = (int)threadIdx.x + i * THREADS;
    *row = o.by_depth ? at % width : at / DEPTH;
    *depth = o.by_depth ? at / width : at % DEPTH;
}

template <int EACH>
__device__ __forceinline__ void chain_fetch(float (&held)[EACH], const struct cuda_operand &o,
                                            int64_t row0, int64_t rows, int64_t k0, int64_t k) {
    for (int i = 0; i < EACH; i++) {
        int row, depth;
        chain_place(o, EACH * SIDE, i, &row, &depth);
        const bool inside = row0 + row < rows && k0 + depth < k;
        const int64_t line = o.by_depth ? k0 + depth : row0 + row;
        const int64_t column = o.by_depth ? row0 + row : k0 + depth;
        held[i] = inside ? chain_element(o, line * o.stride + column) : 0.0f;
    }
}

template <int EACH>
__device__ __forceinline__ void chain_put(struct chain_tile<EACH * SIDE> *tile,
                                          const float (&held)[EACH], const struct cuda_operand &o) {
    for (int i = 0; i < EACH; i++) {
        int row, depth;
        chain_place(o, EACH * SIDE, i, &row, &depth);
        tile->at[depth][row] = held[i];
    }
}

/* Element i of a thread's EACH within the tile: fours side by side, so that loads are 16 bytes. */
template <int EACH> __device__ __forceinline__ int chain_index(int lane, int i) {
    return EACH % 4 == 0 ? i / 4 * (SIDE * 4) + lane * 4 + i % 4 : lane * EACH + i;
}

template <int ROWS, int COLS> struct chain_sums { float at[ROWS][COLS]; };

template <int ROWS, int COLS>
__device__ __forceinline__ void
chain_multiply(struct chain_sums<ROWS, COLS> *sums, const struct chain_tile<ROWS * SIDE> *a,
               const struct chain_tile<COLS * SIDE> *b, int64_t left) {
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
        if (d >= left) break; /* adding a padding zero would turn -0 into 0 */
        float of_a[ROWS], of_b[COLS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) of_a[i] = a->at[d][chain_index<ROWS>(y, i)];
#pragma unroll
        for (int j = 0; j < COLS; j++) of_b[j] = b->at[d][chain_index<COLS>(x, j)];
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < COLS; j++) sums->at[i][j] = fmaf(of_a[i], of_b[j], sums->at[i][j]);
    }
}

/* Where element (i, j) of the thread's sums lies in C; -1 outside. */
template <int ROWS, int COLS>
__device__ __forceinline__ int64_t chain_at(const struct cuda_product &p, int64_t row0,
                                            int64_t col0, int i, int j) {
    const int64_t row = row0 + chain_index<ROWS>((int)threadIdx.x / SIDE, i);
    const int64_t col = col0 + chain_index<COLS>((int)threadIdx.x % SIDE, j);
    return row < p.m && col < p.n ? row * p.c_stride + col : -1;
}

template <int ROWS, int COLS>
__device__ __forceinline__ void chain_begin(struct chain_sums<ROWS, COLS> *sums,
                                            const struct cuda_product &p, int64_t row0,
                                            int64_t col0) {
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < COLS; j++) {
            const int64_t at = p.accumulate ? chain_at<ROWS, COLS>(p, row0, col0, i, j) : -1;
            sums->at[i][j] = at >= 0 ? gpu_load_c(p, at) : 0.0f;
        }
}

template <int ROWS, int COLS>
__device__ __forceinline__ void chain_end(const struct chain_sums<ROWS, COLS> *sums,
                                          const struct cuda_product &p, int64_t row0,
                                          int64_t col0) {
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < COLS; j++) {
            const int64_t at = chain_at<ROWS, COLS>(p, row0, col0, i, j);
            if (at < 0) continue;
            const int64_t col = col0 + chain_index<COLS>((int)threadIdx.x % SIDE, j);
            gpu_store_c(p, at, p.bias ? sums->at[i][j] + p.bias[col] : sums->at[i][j]);
        }
}

template <int ROWS, int COLS>
__global__ __launch_bounds__(THREADS) void chain_kernel(struct cuda_product p) {
    using tiles_of = struct chain_tiles<ROWS, COLS>;
    GPU_DYNAMIC_SHARED(tiles_of, tiles);
    struct chain_sums<ROWS, COLS> sums;
    float next_a[ROWS], next_b[COLS];
    const struct gpu_tile tile =
        gpu_raster(blockIdx.x, gpu_tiles(p.m, ROWS * SIDE), gpu_tiles(p.n, COLS * SIDE));
    const int64_t row0 = (int64_t)tile.row * (ROWS * SIDE),
                  col0 = (int64_t)tile.col * (COLS * SIDE);
    chain_begin<ROWS, COLS>(&sums, p, row0, col0);
    chain_fetch<ROWS>(next_a, p.a, row0, p.m, 0, p.k);
    chain_fetch<COLS>(next_b, p.b, col0, p.n, 0, p.k);
    for (int64_t k = 0, which = 0; k < p.k; k += DEPTH, which ^= 1) {
        chain_put<ROWS>(&tiles->a[which], next_a, p.a);
        chain_put<COLS>(&tiles->b[which], next_b, p.b);
        __syncthreads();
        chain_fetch<ROWS>(next_a, p.a, row0, p.m, k + DEPTH, p.k);
        chain_fetch<COLS>(next_b, p.b, col0, p.n, k + DEPTH, p.k);
        chain_multiply<ROWS, COLS>(&sums, &tiles->a[which], &tiles->b[which], p.k - k);
    }
    chain_end<ROWS, COLS>(&sums, p, row0, col0);
}

template <int ROWS, int COLS>
static void chain_launch(struct stream *s, const char *op, const struct cuda_product *p) {
    const int64_t blocks = gpu_tiles(p->m, ROWS * SIDE) * gpu_tiles(p->n, COLS * SIDE);
    gpu_launch(s, op,
               gpu_grid{.blocks = dim3((unsigned)blocks),
                        .threads = THREADS,
                        .shared = sizeof(struct chain_tiles<ROWS, COLS>)},
               chain_kernel<ROWS, COLS>, *p);
}

void product_chain_cuda(struct stream *s, const char *op, const struct cuda_product *p) {
    if (p->m <= 32)
        chain_launch<1, 4>(s, op, p);
    else if (p->m * p->n <= 1 << 20)
        chain_launch<4, 4>(s, op, p);
    else
        chain_launch<8, 8>(s, op, p);
}
