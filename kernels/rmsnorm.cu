/* RMSNorm on a GPU: a block a row; dw by partial sums of a fixed grid, added in order. */
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"
#include "kernels/gpu/reduce.h"

enum { THREADS = 256, PARTIAL_ROWS = 64 };

static __device__ __forceinline__ float sum_block(float value, float *partial) {
    return gpu_reduce_block<GPU_SUM, THREADS>(value, partial);
}

struct rmsnorm_shared {
    float partial[GPU_WARP];
};

template <class A>
static __global__ void __launch_bounds__(THREADS)
    forward(A *y, float *rstd, const A *x, const float *w, int64_t width, float eps) {
    GPU_SHARED(struct rmsnorm_shared, shared);
    const A *in = x + blockIdx.x * width;
    A *out = y + blockIdx.x * width;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < width; i += THREADS) {
        float value = to_f32(in[i]);
        sum = fmaf(value, value, sum);
    }
    sum = sum_block(sum, shared.partial);
    float inverse = 1.0f / sqrtf(sum / (float)width + eps);
    for (int64_t i = threadIdx.x; i < width; i += THREADS)
        out[i] = from_f32<A>(to_f32(in[i]) * inverse * w[i]);
    if (rstd && threadIdx.x == 0) rstd[blockIdx.x] = inverse;
}

/* With n = x * rstd and g = dy * w:  dx = rstd * (g - n * mean(g * n)). */
template <class A>
static __global__ void __launch_bounds__(THREADS)
    backward_input(A *dx, const A *dy, const A *x, const float *w, const float *rstd, int64_t width,
                   bool accumulate) {
    GPU_SHARED(struct rmsnorm_shared, shared);
    int64_t row = blockIdx.x;
    float inverse = rstd[row], sum = 0.0f;
    for (int64_t i = row * width + threadIdx.x, j = threadIdx.x; j < width;
         i += THREADS, j += THREADS)
        sum = fmaf(to_f32(dy[i]) * w[j], to_f32(x[i]) * inverse, sum);
    float mean = sum_block(sum, shared.partial) / (float)width;
    for (int64_t i = row * width + threadIdx.x, j = threadIdx.x; j < width;
         i += THREADS, j += THREADS) {
        float gradient = inverse * (to_f32(dy[i]) * w[j] - to_f32(x[i]) * inverse * mean);
        dx[i] = from_f32<A>(accumulate ? to_f32(dx[i]) + gradient : gradient);
    }
}

/* partial (blocks of rows, width): a thread a column, over PARTIAL_ROWS rows in order. */
template <class A>
static __global__ void __launch_bounds__(THREADS)
    backward_weight_partial(float *partial, const A *dy, const A *x, const float *rstd,
                            int64_t rows, int64_t width) {
    int64_t column = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (column >= width) return;
    int64_t first = blockIdx.y * (int64_t)PARTIAL_ROWS;
    int64_t end = first + PARTIAL_ROWS < rows ? first + PARTIAL_ROWS : rows;
    float sum = 0.0f;
    for (int64_t row = first; row < end; row++) {
        int64_t at = row * width + column;
        sum = fmaf(to_f32(dy[at]), to_f32(x[at]) * rstd[row], sum);
    }
    partial[blockIdx.y * width + column] = sum;
}

static __global__ void __launch_bounds__(THREADS)
    backward_weight_add(float *dw, const float *partial, int64_t parts, int64_t width) {
    int64_t column = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (int64_t part = 0; part < parts; part++) sum += partial[part * width + column];
    dw[column] += sum;
}

/* ---- entry points ---- */

template <class A>
static void rmsnorm_forward(struct stream *s, void *y, float *rstd, const void *x, const float *w,
                            int64_t rows, int64_t width, float eps) {
    gpu_launch(s, "rmsnorm_forward", gpu_grid{.blocks = dim3((unsigned)rows), .threads = THREADS},
               forward<A>, (A *)y, rstd, (const A *)x, w, width, eps);
}

/* dw first: dx may alias dy. */
template <class A>
static void rmsnorm_backward(struct stream *s, const struct rmsnorm_backward_args *a) {
    if (a->rows == 0) return;
    unsigned columns = (unsigned)((a->width + THREADS - 1) / THREADS);
    int64_t parts = (a->rows + PARTIAL_ROWS - 1) / PARTIAL_ROWS;
    if (a->dw) {
        float *partial = (float *)device_scratch(s, (size_t)(parts * a->width) * sizeof(float));
        if (!partial) return;
        gpu_launch(s, "rmsnorm_backward dw",
                   gpu_grid{.blocks = dim3(columns, (unsigned)parts), .threads = THREADS},
                   backward_weight_partial<A>, partial, (const A *)a->dy, (const A *)a->x, a->rstd,
                   a->rows, a->width);
        gpu_launch(s, "rmsnorm_backward dw", gpu_grid{.blocks = dim3(columns), .threads = THREADS},
                   backward_weight_add, a->dw, partial, parts, a->width);
    }
    gpu_launch(s, "rmsnorm_backward",
               gpu_grid{.blocks = dim3((unsigned)a->rows), .threads = THREADS}, backward_input<A>,
               (A *)a->dx, (const A *)a->dy, (const A *)a->x, a->w, a->rstd, a->width,
               a->accumulate);
}

template <class A> static void fill(struct kernels *table) {
    table->rmsnorm_forward = rmsnorm_forward<A>;
    table->rmsnorm_backward = rmsnorm_backward<A>;
}

void cuda_rmsnorm(struct kernels *table) {
    if (table->act == DTYPE_BF16)
        fill<struct bf16>(table);
    else
        fill<float>(table);
}
