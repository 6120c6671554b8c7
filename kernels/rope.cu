/* Rotary embedding on a GPU: angles in double precision, a thread a run of pairs. */
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"
#include "kernels/gpu/raster.h"
#include "kernels/gpu/run.h"

static constexpr int THREADS = 128;

static __global__ void __launch_bounds__(THREADS)
    rope_table_kernel(float *table, const int32_t *positions, const double *inverse_frequency,
                      double factor, int64_t tokens, int pairs) {
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= tokens * pairs) return;
    const double angle = positions[at / pairs] * inverse_frequency[at % pairs];
    table[2 * at] = (float)(cos(angle) * factor);
    table[2 * at + 1] = (float)(sin(angle) * factor);
}

/* W pairs from `first` on of one head; x0 and x1 are 2 W neighbours where pairs are interleaved. */
template <class A>
static __global__ void __launch_bounds__(THREADS) rope_kernel(const struct rope_args a) {
    constexpr int W = 16 / sizeof(A);
    const int pairs = a.rotary_dim / 2;
    const int64_t runs = gpu_tiles(pairs, W);
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, head = at / runs;
    if (head >= a.tokens * a.heads) return;
    const int first = (int)(at % runs) * W, left = pairs - first;
    A *x = (A *)a.x + head * a.head_dim;
    const bool interleaved = a.style == ROPE_INTERLEAVED;
    A *low = x + (interleaved ? 2 * first : first), *high = interleaved ? low + W : low + pairs;
    const int low_left = interleaved ? 2 * left : left,
              high_left = interleaved ? low_left - W : left;
    float turn[2 * W], v[2][W], y[2][W];
    gpu_load_run<2 * W>(turn, a.table + head / a.heads * a.rotary_dim + 2 * first, 2 * left);
    gpu_load_run<W>(v[0], low, low_left);
    gpu_load_run<W>(v[1], high, high_left);
#pragma unroll
    for (int i = 0; i < W; i++) {
        const float cosine = turn[2 * i], sine = a.backward ? -turn[2 * i + 1] : turn[2 * i + 1];
        const float x0 = interleaved ? v[2 * i / W][2 * i % W] : v[0][i];
        const float x1 = interleaved ? v[2 * i / W][2 * i % W + 1] : v[1][i];
        const float y0 = x0 * cosine - x1 * sine, y1 = x1 * cosine + x0 * sine;
        if (interleaved)
            y[2 * i / W][2 * i % W] = y0, y[2 * i / W][2 * i % W + 1] = y1;
        else
            y[0][i] = y0, y[1][i] = y1;
    }
    gpu_store_run<W>(low, y[0], low_left);
    gpu_store_run<W>(high, y[1], high_left);
}

/* ---- entry points ---- */

static void rope_table(struct stream *s, float *table, const int32_t *positions,
                       const double *inverse_frequency, double factor, int64_t tokens,
                       int rotary_dim) {
    const int pairs = rotary_dim / 2;
    const int64_t blocks = gpu_tiles(tokens * pairs, THREADS);
    gpu_launch(s, "rope_table", gpu_grid{.blocks = dim3((unsigned)blocks), .threads = THREADS},
               rope_table_kernel, table, positions, inverse_frequency, factor, tokens, pairs);
}

template <class A> static void rope(struct stream *s, const struct rope_args *a) {
    const int64_t runs = gpu_tiles(a->rotary_dim / 2, 16 / sizeof(A));
    const int64_t blocks = gpu_tiles(a->tokens * a->heads * runs, THREADS);
    gpu_launch(s, "rope", gpu_grid{.blocks = dim3((unsigned)blocks), .threads = THREADS},
               rope_kernel<A>, *a);
}

void cuda_rope(struct kernels *table) {
    table->rope_table = rope_table;
    table->rope = table->act == DTYPE_BF16 ? rope<struct bf16> : rope<float>;
}
