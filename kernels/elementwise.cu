/* Elementwise ops on a GPU: a thread a run of neighbours. The bits of the reference but for exp. */
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"
#include "kernels/gpu/raster.h"
#include "kernels/gpu/run.h"
extern "C" {
#include "kernels/base/rng.h"
}

static constexpr int THREADS = 256, MOST_IN = 3, MOST_OUT = 2;

/* What an op makes of one element of each input. */
typedef void element_fn(float *out, const float *in, float parameter);

static __device__ __forceinline__ void add_one(float *out, const float *in, float) {
    out[0] = in[0] + in[1];
}

static __device__ __forceinline__ void scale_one(float *out, const float *in, float scale) {
    out[0] = in[0] * scale;
}

static __device__ __forceinline__ void copy_one(float *out, const float *in, float) {
    out[0] = in[0];
}

static __device__ __forceinline__ void swiglu_one(float *out, const float *in, float) {
    out[0] = in[0] / (1.0f + expf(-in[0])) * in[1];
}

/* in: dy, gate, up; silu'(g) = sigmoid(g) * (1 + g * (1 - sigmoid(g))) */
static __device__ __forceinline__ void swiglu_gradient_one(float *out, const float *in, float) {
    float sigmoid = 1.0f / (1.0f + expf(-in[1]));
    out[0] = in[0] * in[2] * sigmoid * (1.0f + in[1] * (1.0f - sigmoid));
    out[1] = in[0] * in[1] * sigmoid;
}

template <class To, class From> struct elements {
    To *out[MOST_OUT];
    const From *in[MOST_IN];
    int64_t n;
    float parameter;
};

/* All of a run is loaded before any of it is stored: outputs may alias inputs. */
template <class To, class From, int OUT, int IN, element_fn ONE>
static __global__ void __launch_bounds__(THREADS)
    element_kernel(const struct elements<To, From> e) {
    constexpr int W = 16 / (sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
    const int64_t first = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * W, left = e.n - first;
    if (left <= 0) return;
    float in[IN][W], out[OUT][W];
#pragma unroll
    for (int i = 0; i < IN; i++) gpu_load_run<W>(in[i], e.in[i] + first, left);
#pragma unroll
    for (int j = 0; j < W; j++) {
        float x[IN], y[OUT];
#pragma unroll
        for (int i = 0; i < IN; i++) x[i] = in[i][j];
        ONE(y, x, e.parameter);
#pragma unroll
        for (int i = 0; i < OUT; i++) out[i][j] = y[i];
    }
#pragma unroll
    for (int i = 0; i < OUT; i++) gpu_store_run<W>(e.out[i] + first, out[i], left);
}

template <int OUT, int IN, element_fn ONE, class To, class From>
static void each_element(struct stream *s, const char *op, const struct elements<To, From> &e) {
    constexpr int W = 16 / (sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
    gpu_launch(s, op,
               gpu_grid{.blocks = dim3((unsigned)gpu_tiles(e.n, THREADS * W)), .threads = THREADS},
               element_kernel<To, From, OUT, IN, ONE>, e);
}

/* A thread makes the elements of one block of random numbers: at most four neighbours. */
template <class A>
static __global__ void __launch_bounds__(THREADS) dropout_kernel(const struct dropout_args a) {
    const uint64_t begin = (uint64_t)a.row_id[blockIdx.x] * (uint64_t)a.whole + (uint64_t)a.first;
    const uint64_t end = begin + (uint64_t)a.width;
    const uint64_t number = begin / 4 + (uint64_t)blockIdx.y * THREADS + threadIdx.x;
    if (number * 4 >= end) return;
    const struct rng_block block = rng_draw(a.seed, RNG_DROPOUT, a.domain, number);
    const float keep = 1.0f / (1.0f - a.p);
    const int64_t row = (int64_t)blockIdx.x * a.width;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint64_t element = number * 4 + (uint64_t)i;
        if (element < begin || element >= end) continue;
        const int64_t at = row + (int64_t)(element - begin);
        const float x = to_f32(((const A *)a.x)[at]);
        ((A *)a.y)[at] = from_f32<A>(rng_unit(block.word[i]) >= a.p ? x * keep : 0.0f);
    }
}

/* ---- entry points ---- */

template <class A>
static void add(struct stream *s, void *y, const void *a, const void *b, int64_t n) {
    each_element<1, 2, add_one>(s, "add",
                                elements<A, A>{{(A *)y}, {(const A *)a, (const A *)b}, n, 0.0f});
}

template <class A> static void scale(struct stream *s, void *y, float factor, int64_t n) {
    each_element<1, 1, scale_one>(s, "scale", elements<A, A>{{(A *)y}, {(const A *)y}, n, factor});
}

static void accumulate_f32(struct stream *s, float *y, const float *x, int64_t n) {
    each_element<1, 2, add_one>(s, "accumulate_f32", elements<float, float>{{y}, {y, x}, n, 0.0f});
}

/* In place, smaller elements would land on what other threads have not read: through a workspace.
 */
template <class A> static void round_f32(struct stream *s, void *y, const float *x, int64_t n) {
    const bool in_place = y == x && sizeof(A) < sizeof(float);
    const size_t bytes = (size_t)n * sizeof(A);
    if (n == 0) return;
    void *to = in_place ? device_scratch(s, bytes) : y;
    if (!to) return;
    each_element<1, 1, copy_one>(s, "round_f32", elements<A, float>{{(A *)to}, {x}, n, 0.0f});
    if (in_place) stream_copy(s, y, to, bytes);
}

template <class A>
static void swiglu_forward(struct stream *s, void *y, const void *gate, const void *up, int64_t n) {
    each_element<1, 2, swiglu_one>(
        s, "swiglu_forward", elements<A, A>{{(A *)y}, {(const A *)gate, (const A *)up}, n, 0.0f});
}

template <class A>
static void swiglu_backward(struct stream *s, void *dgate, void *dup, const void *dy,
                            const void *gate, const void *up, int64_t n) {
    each_element<2, 3, swiglu_gradient_one>(
        s, "swiglu_backward",
        elements<A, A>{
            {(A *)dgate, (A *)dup}, {(const A *)dy, (const A *)gate, (const A *)up}, n, 0.0f});
}

/* A row that begins inside a block of random numbers touches one more. */
template <class A> static void dropout(struct stream *s, const struct dropout_args *a) {
    if (a->width == 0) return;
    const dim3 blocks((unsigned)a->rows, (unsigned)gpu_tiles(a->width / 4 + 2, THREADS));
    gpu_launch(s, "dropout", gpu_grid{.blocks = blocks, .threads = THREADS}, dropout_kernel<A>, *a);
}

template <class A> static void fill(struct kernels *table) {
    table->add = add<A>;
    table->scale = scale<A>;
    table->accumulate_f32 = accumulate_f32;
    table->round_f32 = round_f32<A>;
    table->swiglu_forward = swiglu_forward<A>;
    table->swiglu_backward = swiglu_backward<A>;
    table->dropout = dropout<A>;
}

void cuda_elementwise(struct kernels *table) {
    if (table->act == DTYPE_BF16)
        fill<struct bf16>(table);
    else
        fill<float>(table);
}
