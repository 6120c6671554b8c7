/* AdamW with fp32 and 8-bit moments on a GPU, the bits of the reference; the sum of squares in
 * double, over a grid that n alone decides. */
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"
#include "kernels/gpu/raster.h"
#include "kernels/gpu/reduce.h"
#include "kernels/gpu/run.h"

static constexpr int THREADS = 256, RUN = 4, MOST_BLOCKS = 1024;
static_assert(THREADS == MOMENT8_BLOCK, "a thread an element of a block of moments");

struct adamw_factors {
    float keep, beta1, rest1, beta2, rest2, rate, correction, eps, grad_scale;
};

static struct adamw_factors factors_of(const struct adamw_args *a) {
    struct adamw_factors f;
    f.keep = (float)(1.0 - a->lr * a->decay);
    f.beta1 = (float)a->beta1;
    f.rest1 = (float)(1.0 - a->beta1);
    f.beta2 = (float)a->beta2;
    f.rest2 = (float)(1.0 - a->beta2);
    f.rate = (float)(a->lr / (1.0 - pow(a->beta1, (double)a->step)));
    f.correction = (float)(1.0 / sqrt(1.0 - pow(a->beta2, (double)a->step)));
    f.eps = (float)a->eps;
    f.grad_scale = a->grad_scale;
    return f;
}

static __device__ __forceinline__ void step_one(float *w, float *m, float *v, float grad,
                                                const struct adamw_factors &f) {
    const float g = grad * f.grad_scale;
    *m = f.beta1 * *m + f.rest1 * g;
    *v = f.beta2 * *v + f.rest2 * g * g;
    *w = *w * f.keep - f.rate * *m / (sqrtf(*v) * f.correction + f.eps);
}

static __global__ void __launch_bounds__(THREADS)
    adamw_kernel(float *w, float *m, float *v, const float *grad, int64_t n,
                 const struct adamw_factors f) {
    const int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * RUN, left = n - at;
    if (left <= 0) return;
    float weight[RUN], first[RUN], second[RUN], g[RUN];
    gpu_load_run<RUN>(weight, w + at, left);
    gpu_load_run<RUN>(first, m + at, left);
    gpu_load_run<RUN>(second, v + at, left);
    gpu_load_run<RUN>(g, grad + at, left);
#pragma unroll
    for (int i = 0; i < RUN; i++) step_one(&weight[i], &first[i], &second[i], g[i], f);
    gpu_store_run<RUN>(w + at, weight, left);
    gpu_store_run<RUN>(m + at, first, left);
    gpu_store_run<RUN>(v + at, second, left);
}

/* ---- moments in 8 bits ---- */

/* Ascending magnitudes of first and second moments. */
static constexpr int FIRST_LEVELS = 128, SECOND_LEVELS = 256;
struct moment8_levels {
    float first[FIRST_LEVELS], second[SECOND_LEVELS];
};

struct adamw8_shared {
    struct moment8_levels levels;
    int first_most[GPU_WARP], second_most[GPU_WARP];
};

/* Of a block's elements, one a thread: moment8_scale. */
static __device__ __forceinline__ float block_scale(float value, int *partial) {
    const int magnitude = __float_as_int(value) & 0x7fffffff;
    const int most = gpu_reduce_block<GPU_MAX, THREADS>(magnitude, partial);
    if (most >= 0x7f800000) return NAN;
    const float scale = __int_as_float(most);
    return scale < 0x1p-100f ? 0.0f : scale;
}

/* The nearest of `count` levels, the lower one at a tie: how many middles are below x. */
static __device__ __forceinline__ int nearest_level(float x, const float *levels, int count) {
    int low = 0;
    for (int step = count / 2; step > 0; step /= 2)
        if (x > 0.5f * (levels[low + step - 1] + levels[low + step])) low += step;
    return low;
}

/* A thread block takes every gridDim.x-th block of moments, a thread an element of it. */
static __global__ void __launch_bounds__(THREADS)
    adamw8_kernel(float *w, const float *grad, struct moment8 *m, struct moment8 *v, int64_t blocks,
                  const struct adamw_factors f,
                  const __grid_constant__ struct moment8_levels levels) {
    GPU_SHARED(struct adamw8_shared, shared);
    const int i = (int)threadIdx.x;
    if (i < FIRST_LEVELS) shared.levels.first[i] = levels.first[i];
    shared.levels.second[i] = levels.second[i];
    __syncthreads();
    for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
        const int64_t at = b * MOMENT8_BLOCK + i;
        const int old = m[b].codes[i];
        const float magnitude = shared.levels.first[old % FIRST_LEVELS];
        float first = m[b].scale * (old < FIRST_LEVELS ? magnitude : -magnitude);
        float second = v[b].scale * shared.levels.second[v[b].codes[i]];
        float weight = w[at];
        step_one(&weight, &first, &second, grad[at], f);
        w[at] = weight;
        const float first_scale = block_scale(first, shared.first_most);
        const float second_scale = block_scale(second, shared.second_most);
        int first_code = 0, second_code = 0;
        if (first_scale > 0.0f) {
            first_code =
                nearest_level(fabsf(first / first_scale), shared.levels.first, FIRST_LEVELS);
            if (__float_as_int(first) < 0) first_code += FIRST_LEVELS;
        }
        if (second_scale > 0.0f) {
            const float size = fabsf(second / second_scale);
            second_code = nearest_level(size, shared.levels.second, SECOND_LEVELS);
            if (second_code == 0 && size > 0.0f) second_code = 1;
        }
        m[b].codes[i] = (uint8_t)first_code;
        v[b].codes[i] = (uint8_t)second_code;
        if (i > 0) continue;
        m[b].scale = first_scale;
        v[b].scale = second_scale;
    }
}

/* ---- the sum of squares ---- */

struct squares_shared {
    double partial[GPU_WARP];
};

static __global__ void __launch_bounds__(THREADS)
    squares_kernel(double *partial, const float *x, int64_t n) {
    GPU_SHARED(struct squares_shared, shared);
    const int64_t stride = (int64_t)gridDim.x * THREADS * RUN;
    double sum = 0.0;
    float values[RUN];
    for (int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * RUN; i < n; i += stride) {
        gpu_load_run<RUN>(values, x + i, n - i);
#pragma unroll
        for (int j = 0; j < RUN; j++) sum += (double)values[j] * (double)values[j];
    }
    sum = gpu_reduce_block<GPU_SUM, THREADS>(sum, shared.partial);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(THREADS)
    squares_add_kernel(double *total, const double *partial, int parts) {
    GPU_SHARED(struct squares_shared, shared);
    double sum = 0.0;
    for (int i = (int)threadIdx.x; i < parts; i += THREADS) sum += partial[i];
    sum = gpu_reduce_block<GPU_SUM, THREADS>(sum, shared.partial);
    if (threadIdx.x == 0) *total += sum;
}

/* ---- entry points ---- */

static void adamw(struct stream *s, const struct adamw_args *a) {
    const int64_t blocks = gpu_tiles(a->n, THREADS * RUN);
    gpu_launch(s, "adamw", gpu_grid{.blocks = dim3((unsigned)blocks), .threads = THREADS},
               adamw_kernel, a->w, a->m, a->v, a->grad, a->n, factors_of(a));
}

static void adamw8(struct stream *s, const struct adamw_args *a, struct moment8 *m,
                   struct moment8 *v) {
    struct moment8_map first, second;
    struct moment8_levels levels;
    moment8_map_create(&first, 1);
    moment8_map_create(&second, 0);
    assert(first.count == FIRST_LEVELS && second.count == SECOND_LEVELS);
    memcpy(levels.first, first.values, sizeof levels.first);
    memcpy(levels.second, second.values, sizeof levels.second);
    const int64_t blocks = a->n / MOMENT8_BLOCK;
    const unsigned grid = (unsigned)(blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS);
    gpu_launch(s, "adamw8", gpu_grid{.blocks = dim3(grid), .threads = THREADS}, adamw8_kernel, a->w,
               a->grad, m, v, blocks, factors_of(a), levels);
}

static void sum_squares(struct stream *s, double *sum, const float *x, int64_t n) {
    const int64_t runs = gpu_tiles(n, THREADS * RUN);
    const int parts = (int)(runs < MOST_BLOCKS ? runs : MOST_BLOCKS);
    if (parts == 0) return;
    double *partial = (double *)device_scratch(s, (size_t)parts * sizeof *partial);
    if (!partial) return;
    gpu_launch(s, "sum_squares", gpu_grid{.blocks = dim3((unsigned)parts), .threads = THREADS},
               squares_kernel, partial, x, n);
    gpu_launch(s, "sum_squares", gpu_grid{.blocks = dim3(1), .threads = THREADS},
               squares_add_kernel, sum, partial, parts);
}

void cuda_optimizer(struct kernels *table) {
    table->adamw = adamw;
    table->adamw8 = adamw8;
    table->sum_squares = sum_squares;
}
