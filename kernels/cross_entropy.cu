/* Cross entropy on a GPU: a block a row forward, a thread a run of neighbours backward. */
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"
#include "kernels/gpu/raster.h"
#include "kernels/gpu/reduce.h"
#include "kernels/gpu/run.h"

static constexpr int THREADS = 256, RUN = 4;

struct cross_entropy_shared {
    float max[GPU_WARP], sum[GPU_WARP];
};

/* A NaN is passed over by the maximum and stays in the sum. */
static __global__ void __launch_bounds__(THREADS)
    cross_entropy_forward_kernel(struct cross_entropy_row *rows, const float *logits,
                                 const int32_t *targets, int64_t first, int64_t vocab) {
    GPU_SHARED(struct cross_entropy_shared, shared);
    const int64_t t = blockIdx.x;
    const float *row = logits + t * vocab;
    float max = -INFINITY, sum = 0.0f, x[RUN];
    for (int64_t i = (int64_t)threadIdx.x * RUN; i < vocab; i += THREADS * RUN) {
        gpu_load_run<RUN>(x, row + i, vocab - i);
#pragma unroll
        for (int j = 0; j < RUN; j++)
            if (i + j < vocab && x[j] > max) max = x[j];
    }
    max = gpu_reduce_block<GPU_MAX, THREADS>(max, shared.max);
    for (int64_t i = (int64_t)threadIdx.x * RUN; i < vocab; i += THREADS * RUN) {
        gpu_load_run<RUN>(x, row + i, vocab - i);
#pragma unroll
        for (int j = 0; j < RUN; j++)
            if (i + j < vocab) sum += expf(x[j] - max);
    }
    sum = gpu_reduce_block<GPU_SUM, THREADS>(sum, shared.sum);
    if (threadIdx.x > 0) return;
    const int64_t target = targets[t] - first;
    const bool mine = targets[t] >= 0 && target >= 0 && target < vocab;
    rows[t].row_max = max;
    rows[t].sum_exp = sum;
    rows[t].target_logit = mine ? row[target] : 0.0f;
}

template <class A>
static __global__ void __launch_bounds__(THREADS)
    cross_entropy_backward_kernel(A *dlogits, const float *logits,
                                  const struct cross_entropy_row *rows, const int32_t *targets,
                                  const float *weight, int64_t first, int64_t vocab) {
    constexpr int W = 16 / sizeof(A);
    const int64_t t = blockIdx.x, at = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * W;
    if (at >= vocab) return;
    const int64_t target = targets[t] < 0 ? -1 : targets[t] - first;
    const float max = rows[t].row_max, sum = rows[t].sum_exp, scale = weight[t];
    float x[W];
    gpu_load_run<W>(x, logits + t * vocab + at, vocab - at);
#pragma unroll
    for (int i = 0; i < W; i++) {
        const float softmax = expf(x[i] - max) / sum;
        x[i] = scale * (at + i == target ? softmax - 1.0f : softmax);
    }
    gpu_store_run<W>(dlogits + t * vocab + at, x, vocab - at);
}

/* ---- entry points ---- */

static void cross_entropy_forward(struct stream *s, struct cross_entropy_row *rows,
                                  const float *logits, const int32_t *targets, int64_t first,
                                  int64_t tokens, int64_t vocab) {
    gpu_launch(s, "cross_entropy_forward",
               gpu_grid{.blocks = dim3((unsigned)tokens), .threads = THREADS},
               cross_entropy_forward_kernel, rows, logits, targets, first, vocab);
}

template <class A>
static void cross_entropy_backward(struct stream *s, void *dlogits, const float *logits,
                                   const struct cross_entropy_row *rows, const int32_t *targets,
                                   const float *weight, int64_t first, int64_t tokens,
                                   int64_t vocab) {
    const dim3 blocks((unsigned)tokens, (unsigned)gpu_tiles(vocab, THREADS * 16 / sizeof(A)));
    gpu_launch(s, "cross_entropy_backward", gpu_grid{.blocks = blocks, .threads = THREADS},
               cross_entropy_backward_kernel<A>, (A *)dlogits, logits, rows, targets, weight, first,
               vocab);
}

void cuda_cross_entropy(struct kernels *table) {
    table->cross_entropy_forward = cross_entropy_forward;
    table->cross_entropy_backward = table->act == DTYPE_BF16 ? cross_entropy_backward<struct bf16>
                                                             : cross_entropy_backward<float>;
}
