/* Token embedding on a GPU, forward over every layout of rows and of frozen weights; backward
 * without atomics, in token order: the bits of the reference. */
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"
#include "kernels/gpu/quantized.h"
#include "kernels/gpu/raster.h"
#include "kernels/gpu/reduce.h"
#include "kernels/gpu/run.h"

static constexpr int THREADS = 128, EIGHT = 8, BACK_THREADS = 256, BACK_RUN = 4;

/* A block a token and THREADS * EIGHT columns. A row that isn't here reads as zeros. */
template <class A, class T>
static __global__ void __launch_bounds__(THREADS)
    forward_rows(A *y, const int32_t *tokens, const T *table, int64_t first, int64_t rows,
                 int64_t cols) {
    const int64_t column = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * EIGHT;
    const int64_t row = tokens[blockIdx.x] - first, left = cols - column;
    if (left <= 0) return;
    float values[EIGHT] = {};
    if (row >= 0 && row < rows) gpu_load_run<EIGHT>(values, table + row * cols + column, left);
    gpu_store_run<EIGHT>(y + blockIdx.x * cols + column, values, left);
}

template <class A>
static __global__ void __launch_bounds__(THREADS)
    forward_quantized(A *y, const int32_t *tokens, const struct gpu_quantized w, int64_t first) {
    const int64_t column = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * EIGHT;
    const int64_t row = tokens[blockIdx.x] - first, left = w.cols - column;
    if (left <= 0) return;
    float values[EIGHT] = {};
    if (row >= 0 && row < w.rows) {
        const int64_t panel = row / PANEL_ROWS, chunk = column / QUANTIZED_CHUNK;
        const int64_t beyond = w.cols - chunk * QUANTIZED_CHUNK;
        gpu_eight_of_chunk(values, w, gpu_panel_at(w, panel) + chunk * gpu_chunk_bytes(w),
                           w.absmax + (panel * w.blocks + chunk * (QUANTIZED_CHUNK / NF4_BLOCK)) *
                                          PANEL_ROWS,
                           row, (int)(column % QUANTIZED_CHUNK),
                           beyond < QUANTIZED_CHUNK ? (int)beyond : (int)QUANTIZED_CHUNK);
    }
    gpu_store_run<EIGHT>(y + blockIdx.x * w.cols + column, values, left);
}

struct backward_shared {
    int partial[GPU_WARP];
    int count[BACK_THREADS / GPU_WARP]; /* of a warp's tokens that match */
    int64_t match[BACK_THREADS];        /* them, in order */
};

/* Whether thread t's token of this stretch is the wanted one; lists those of the block in order,
 * and returns how many they are. */
static __device__ __forceinline__ int list_matches(struct backward_shared &shared, bool is_match,
                                                   int64_t token) {
    const unsigned votes = __ballot_sync(GPU_ALL_LANES, is_match);
    __syncthreads(); /* the last list was read */
    if (gpu_lane() == 0) shared.count[gpu_warp()] = __popc(votes);
    __syncthreads();
    int before = 0, all = 0;
    for (int i = 0; i < BACK_THREADS / GPU_WARP; i++) {
        before += i < gpu_warp() ? shared.count[i] : 0;
        all += shared.count[i];
    }
    before += __popc(votes & ((1u << gpu_lane()) - 1));
    if (is_match) shared.match[before] = token;
    __syncthreads();
    return all;
}

/* A block a token and BACK_THREADS * BACK_RUN columns: the first one of an id adds the rows of all
 * tokens of that id, in order. */
template <class A>
static __global__ void __launch_bounds__(BACK_THREADS)
    backward_kernel(float *dw, const int32_t *tokens, const A *dy, int64_t first, int64_t rows,
                    int64_t cols, int64_t count) {
    GPU_SHARED(struct backward_shared, shared);
    const int32_t id = tokens[blockIdx.x];
    const int64_t row = id - first, here = blockIdx.x;
    if (row < 0 || row >= rows) return;
    int is_later = 0;
    for (int64_t t = threadIdx.x; t < here && !is_later; t += BACK_THREADS)
        is_later = tokens[t] == id;
    if (gpu_reduce_block<GPU_MAX, BACK_THREADS>(is_later, shared.partial)) return;
    const int64_t column = ((int64_t)blockIdx.y * BACK_THREADS + threadIdx.x) * BACK_RUN;
    const int64_t left = cols - column;
    float sum[BACK_RUN] = {}, add[BACK_RUN];
    if (left > 0) gpu_load_run<BACK_RUN>(sum, dw + row * cols + column, left);
    for (int64_t stretch = here; stretch < count; stretch += BACK_THREADS) {
        const int64_t t = stretch + threadIdx.x;
        const int matches = list_matches(shared, t < count && tokens[t] == id, t);
        for (int i = 0; i < matches && left > 0; i++) {
            gpu_load_run<BACK_RUN>(add, dy + shared.match[i] * cols + column, left);
#pragma unroll
            for (int j = 0; j < BACK_RUN; j++) sum[j] += add[j];
        }
    }
    if (left > 0) gpu_store_run<BACK_RUN>(dw + row * cols + column, sum, left);
}

/* ---- entry points ---- */

static bool tokens_known(struct stream *s, const int32_t *tokens, int64_t vocab, int64_t count) {
    for (int64_t t = 0; t < count; t++) {
        if (tokens[t] >= 0 && tokens[t] < vocab) continue;
        stream_fail(s, STATUS_SHAPE, "embedding", "token %d at %lld is not in [0, %lld)",
                    (int)tokens[t], (long long)t, (long long)vocab);
        return false;
    }
    return true;
}

template <class A>
static void embedding_forward(struct stream *s, void *y, const int32_t *tokens,
                              const struct weight *w, int64_t first, int64_t vocab, int64_t count) {
    if (!tokens_known(s, tokens, vocab, count)) return;
    const struct gpu_grid grid = {
        .blocks = dim3((unsigned)count, (unsigned)gpu_tiles(w->cols, THREADS * EIGHT)),
        .threads = THREADS};
    assert(layout_is_rows(w->layout) || layout_is_quantized(w->layout));
    if (layout_is_quantized(w->layout))
        gpu_launch(s, "embedding_forward", grid, forward_quantized<A>, (A *)y, tokens,
                   gpu_quantized_of(w), first);
    else if (w->layout == LAYOUT_ROWS_BF16)
        gpu_launch(s, "embedding_forward", grid, forward_rows<A, struct bf16>, (A *)y, tokens,
                   (const struct bf16 *)w->data, first, w->rows, w->cols);
    else
        gpu_launch(s, "embedding_forward", grid, forward_rows<A, float>, (A *)y, tokens,
                   (const float *)w->data, first, w->rows, w->cols);
}

/* Every block reads all tokens: from a copy on the device. */
template <class A>
static void embedding_backward(struct stream *s, const struct weight *dw, const int32_t *tokens,
                               const void *dy, int64_t first, int64_t count) {
    assert(dw->layout == LAYOUT_ROWS_F32);
    if (count == 0) return;
    const size_t bytes = (size_t)count * sizeof *tokens;
    int32_t *copy = (int32_t *)device_scratch(s, bytes);
    if (!copy) return;
    stream_copy(s, copy, tokens, bytes);
    const dim3 blocks((unsigned)count, (unsigned)gpu_tiles(dw->cols, BACK_THREADS * BACK_RUN));
    gpu_launch(s, "embedding_backward", gpu_grid{.blocks = blocks, .threads = BACK_THREADS},
               backward_kernel<A>, (float *)dw->data, copy, (const A *)dy, first, dw->rows,
               dw->cols, count);
}

template <class A> static void fill(struct kernels *table) {
    table->embedding_forward = embedding_forward<A>;
    table->embedding_backward = embedding_backward<A>;
}

void cuda_embedding(struct kernels *table) {
    if (table->act == DTYPE_BF16)
        fill<struct bf16>(table);
    else
        fill<float>(table);
}
