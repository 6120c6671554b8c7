/* bf16 products on tensor cores: mma.sync fed by ldmatrix from a ring of stages in shared memory,
 * which cp.async fills ahead of their use.
 *
 * A stage holds 64 k of both operands as they are stored: a tile's lines are rows (64 k wide), or,
 * of an operand by depth, 64 lines of k (as wide as the tile has rows). Chunks of 16 bytes trade
 * places within a line by the line's number, so that eight lines of one column lie in different
 * banks. Operands whose lines don't begin at multiples of 16 bytes are carried by plain loads. */
#include "kernels/gpu/gpu.h"
#include "kernels/gpu/launch.h"
#include "kernels/gpu/product.h"
#include "kernels/gpu/raster.h"
#include "kernels/gpu/tensor.h"

static constexpr int STEP = TENSOR_STEP; /* k of a stage, whatever the tile */

/* How a block divides C: warps of warp_rows x warp_cols beside each other. */
template <int rows_, int cols_, int warp_rows_, int warp_cols_, int stages_> struct tensor_shape {
    static constexpr int rows = rows_, cols = cols_, stages = stages_;
    static constexpr int warp_rows = warp_rows_, warp_cols = warp_cols_;
    static constexpr int warps_across = cols / warp_cols;
    static constexpr int threads = rows / warp_rows * warps_across * 32;
    static constexpr int stage = (rows + cols) * STEP; /* elements */
    static constexpr int bytes = stages * stage * 2;
};

/* A tile of LINES lines, WIDTH elements each, from line `line0` and element `column0` of an operand
 * that has `lines` lines of `columns` elements. What lies outside is zero. */
template <int LINES, int WIDTH, int THREADS>
__device__ __forceinline__ void tensor_fetch(struct bf16 *tile, const struct cuda_operand &o,
                                             bool aligned, int64_t line0, int64_t lines,
                                             int64_t column0, int64_t columns) {
    constexpr int chunks = WIDTH / TENSOR_CHUNK, pace = THREADS / chunks;
    const int column = (int)threadIdx.x % chunks, first = (int)threadIdx.x / chunks;
    const int64_t left = columns - column0 - column * TENSOR_CHUNK;
    const int below = left > 0 ? (int)(lines - line0 < LINES ? lines - line0 : LINES) : 0;
    const struct bf16 *from =
        (const struct bf16 *)o.data + (line0 + first) * o.stride + column0 + column * TENSOR_CHUNK;
    if (aligned) {
#pragma unroll
        for (int i = 0; i < LINES / pace; i++, from += pace * o.stride) {
            const int line = first + i * pace;
            gpu_copy_async16(tile + tensor_place<WIDTH>(line, column), line < below ? from : o.data,
                             line < below);
        }
        return;
    }
#pragma unroll 1
    for (int line = first; line < LINES; line += pace, from += pace * o.stride)
        *(struct tensor_chunk *)(tile + tensor_place<WIDTH>(line, column)) =
            tensor_carry(from, line < below ? left : 0);
}

/* An operand's stage: `rows` of it from row0 on, STEP k from k0 on. */
template <int ROWS, bool BY_DEPTH, int THREADS>
__device__ __forceinline__ void
tensor_fetch_operand(struct bf16 *tile, const struct cuda_operand &o, bool aligned, int64_t row0,
                     int64_t rows, int64_t k0, int64_t k) {
    if (BY_DEPTH)
        tensor_fetch<STEP, ROWS, THREADS>(tile, o, aligned, k0, k, row0, rows);
    else
        tensor_fetch<ROWS, STEP, THREADS>(tile, o, aligned, row0, rows, k0, k);
}

/* A's fragment: rows row .. row + 15, k from 16 * step on. The four matrices of ldmatrix are
 * (rows 0-7, k 0-7), (rows 8-15, k 0-7), (rows 0-7, k 8-15), (rows 8-15, k 8-15). */
template <int ROWS, bool BY_DEPTH>
__device__ __forceinline__ void tensor_load_a(uint32_t a[4], const struct bf16 *tile, int row,
                                              int step) {
    const int lane = gpu_lane();
    if (BY_DEPTH)
        gpu_ldmatrix_x4_trans(a, tile + tensor_place<ROWS>(step * 16 + lane % 8 + lane / 16 * 8,
                                                           row / TENSOR_CHUNK + lane / 8 % 2));
    else
        gpu_ldmatrix_x4(a, tile + tensor_place<STEP>(row + lane % 16, step * 2 + lane / 16));
}

/* B's fragments of 16 columns: (cols 0-7, k 0-7), (cols 0-7, k 8-15), then cols 8-15. */
template <int COLS, bool BY_DEPTH>
__device__ __forceinline__ void tensor_load_b(uint32_t b[4], const struct bf16 *tile, int col,
                                              int step) {
    const int lane = gpu_lane();
    if (BY_DEPTH)
        gpu_ldmatrix_x4_trans(
            b, tile + tensor_place<COLS>(step * 16 + lane % 16, col / TENSOR_CHUNK + lane / 16));
    else
        gpu_ldmatrix_x4(
            b, tile + tensor_place<STEP>(col + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
}

/* The fragments of 8 columns. */
template <int COLS, bool BY_DEPTH>
__device__ __forceinline__ void tensor_load_b8(uint32_t b[2], const struct bf16 *tile, int col,
                                               int step) {
    const int lane = gpu_lane() % 16;
    if (BY_DEPTH)
        gpu_ldmatrix_x2_trans(b, tile + tensor_place<COLS>(step * 16 + lane, col / TENSOR_CHUNK));
    else
        gpu_ldmatrix_x2(b, tile + tensor_place<STEP>(col + lane % 8, step * 2 + lane / 8));
}

/* The 16 k of one step: every element of the warp's part gets one more term. */
template <class T, bool A_BY_DEPTH, bool B_BY_DEPTH>
__device__ __forceinline__ void
tensor_multiply(struct tensor_sums<T::warp_rows / 16, T::warp_cols / 8> *sums, const struct bf16 *a,
                const struct bf16 *b, int row, int col, int step) {
    constexpr int high = T::warp_rows / 16, wide = T::warp_cols / 8;
    uint32_t of_a[high][4], of_b[wide][2];
#pragma unroll
    for (int i = 0; i < high; i++)
        tensor_load_a<T::rows, A_BY_DEPTH>(of_a[i], a, row + 16 * i, step);
    if (wide == 1)
        tensor_load_b8<T::cols, B_BY_DEPTH>(of_b[0], b, col, step);
    else
#pragma unroll
        for (int j = 0; j < wide; j += 2)
            tensor_load_b<T::cols, B_BY_DEPTH>(of_b[j], b, col + 8 * j, step);
#pragma unroll
    for (int i = 0; i < high; i++)
#pragma unroll
        for (int j = 0; j < wide; j++) gpu_mma_bf16(sums->at[i][j], of_a[i], of_b[j]);
}

/* Operands whose lines all begin at multiples of 16 bytes and hold whole chunks. */
struct tensor_aligned {
    bool a, b, c; /* of C: pairs at multiples of 4 bytes */
};

template <class T, bool A_BY_DEPTH, bool B_BY_DEPTH>
__global__ __launch_bounds__(T::threads) void tensor_kernel(struct cuda_product p,
                                                            struct tensor_aligned aligned) {
    GPU_DYNAMIC_SHARED(struct bf16, ring);
    const struct gpu_tile tile =
        gpu_raster(blockIdx.x, gpu_tiles(p.m, T::rows), gpu_tiles(p.n, T::cols));
    const int64_t row0 = (int64_t)tile.row * T::rows, col0 = (int64_t)tile.col * T::cols;
    const int row = gpu_warp() / T::warps_across * T::warp_rows;
    const int col = gpu_warp() % T::warps_across * T::warp_cols;
    const int64_t steps = gpu_tiles(p.k, STEP);
    struct tensor_sums<T::warp_rows / 16, T::warp_cols / 8> sums;
    auto fetch = [&](int64_t step) {
        struct bf16 *a = ring + step % T::stages * T::stage, *b = a + T::rows * STEP;
        tensor_fetch_operand<T::rows, A_BY_DEPTH, T::threads>(a, p.a, aligned.a, row0, p.m,
                                                              step * STEP, p.k);
        tensor_fetch_operand<T::cols, B_BY_DEPTH, T::threads>(b, p.b, aligned.b, col0, p.n,
                                                              step * STEP, p.k);
    };
    for (int i = 0; i < T::stages - 1; i++) {
        if (i < steps) fetch(i);
        gpu_copy_commit();
    }
    tensor_begin(&sums, p, row0 + row, col0 + col);
    for (int64_t i = 0; i < steps; i++) {
        gpu_copy_wait<T::stages - 2>();
        __syncthreads(); /* stage i is there, and all are done with the one before it */
        if (i + T::stages - 1 < steps) fetch(i + T::stages - 1);
        gpu_copy_commit();
        const struct bf16 *a = ring + i % T::stages * T::stage, *b = a + T::rows * STEP;
#pragma unroll 2 /* four at a time spill */
        for (int step = 0; step < STEP / 16; step++)
            tensor_multiply<T, A_BY_DEPTH, B_BY_DEPTH>(&sums, a, b, row, col, step);
    }
    gpu_copy_wait<0>();
    tensor_end(&sums, p, aligned.c, row0 + row, col0 + col);
}

static bool lines_aligned(const struct cuda_operand *o, int64_t columns) {
    return (uintptr_t)o->data % sizeof(struct tensor_chunk) == 0 && o->stride % TENSOR_CHUNK == 0 &&
           columns % TENSOR_CHUNK == 0;
}

template <class T, bool A_BY_DEPTH, bool B_BY_DEPTH>
static void tensor_launch(struct stream *s, const char *op, const struct cuda_product *p) {
    const struct tensor_aligned aligned = {lines_aligned(&p->a, p->a.by_depth ? p->m : p->k),
                                           lines_aligned(&p->b, p->b.by_depth ? p->n : p->k),
                                           tensor_pairs_aligned(p)};
    const int64_t blocks = gpu_tiles(p->m, T::rows) * gpu_tiles(p->n, T::cols);
    gpu_launch(
        s, op,
        gpu_grid{.blocks = dim3((unsigned)blocks), .threads = T::threads, .shared = T::bytes},
        tensor_kernel<T, A_BY_DEPTH, B_BY_DEPTH>, *p, aligned);
}

/* Many rows; few of them, or of columns; decoding. */
typedef struct tensor_shape<128, 128, 64, 64, 3> large_shape;
typedef struct tensor_shape<64, 64, 32, 32, 4> middle_shape;
typedef struct tensor_shape<16, 16, 16, 8, 12> small_shape;

static constexpr int FEW_ROWS = 16;

template <bool A_BY_DEPTH, bool B_BY_DEPTH>
static void tensor_choose(struct stream *s, const char *op, const struct cuda_product *p) {
    const int64_t tiles = gpu_tiles(p->m, large_shape::rows) * gpu_tiles(p->n, large_shape::cols);
    if (tiles >= PRODUCT_LARGE_TILES)
        tensor_launch<large_shape, A_BY_DEPTH, B_BY_DEPTH>(s, op, p);
    else
        tensor_launch<middle_shape, A_BY_DEPTH, B_BY_DEPTH>(s, op, p);
}

bool product_tensor_takes(const struct cuda_product *p) {
    return p->a.bf16 && p->b.bf16 && (p->b.by_depth || !p->a.by_depth);
}

void product_tensor_cuda(struct stream *s, const char *op, const struct cuda_product *p) {
    assert(product_tensor_takes(p));
    if (p->a.by_depth)
        tensor_choose<true, true>(s, op, p);
    else if (p->b.by_depth)
        tensor_choose<false, true>(s, op, p);
    else if (p->m <= FEW_ROWS)
        tensor_launch<small_shape, false, false>(s, op, p);
    else
        tensor_choose<false, false>(s, op, p);
}
