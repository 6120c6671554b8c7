/* Sampling on a GPU: one block a row. A candidate's place in order is a 64-bit key, its probability
 * above its id turned round, so what top-k and top-p keep is all keys from some key on: that key is
 * found bit by bit, with the count and the mass of those not below. Sums are in double and in one
 * fixed order. */
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"
#include "kernels/gpu/reduce.h"
extern "C" {
#include "kernels/sample_adjust.h"
}

static constexpr int THREADS = 512, WARPS = THREADS / GPU_WARP;
static constexpr uint64_t NOTHING = 0, IMPOSSIBLE = ~(uint64_t)0;

struct sample_shared {
    uint64_t best[GPU_WARP];
    double mass[GPU_WARP], segment[THREADS];
    int count[GPU_WARP];
    int32_t token;
};

struct sample_measure {
    int count;
    double mass;
};

static __device__ __forceinline__ uint64_t key_of(uint32_t ordered, int32_t id) {
    return (uint64_t)ordered << 32 | (0xffffffffu - (uint32_t)id);
}

static __device__ __forceinline__ int32_t id_of(uint64_t key) {
    return (int32_t)(0xffffffffu - (uint32_t)key);
}

/* The key of the highest, the lower id on a tie; NOTHING where all are -infinity, IMPOSSIBLE where
 * one is NaN or +infinity. */
static __device__ __forceinline__ uint64_t row_best(struct sample_shared &shared, const float *row,
                                                    int32_t vocab) {
    uint64_t best = NOTHING;
    for (int32_t i = (int32_t)threadIdx.x; i < vocab; i += THREADS) {
        const float x = row[i] + 0.0f; /* -0 is 0 */
        const uint32_t bits = __float_as_uint(x);
        uint64_t key = key_of(bits >> 31 ? ~bits : bits | 0x80000000u, i);
        if (x == -INFINITY) key = NOTHING;
        if (!(x < INFINITY)) key = IMPOSSIBLE;
        best = key > best ? key : best;
    }
    best = gpu_reduce_block<GPU_MAX, THREADS>(best, shared.best);
    __syncthreads();
    return best;
}

/* Of the candidates whose keys are not below. */
static __device__ __forceinline__ struct sample_measure
measure(struct sample_shared &shared, const float *p, int32_t vocab, uint64_t key) {
    struct sample_measure sum = {0, 0.0};
    for (int32_t i = (int32_t)threadIdx.x; i < vocab; i += THREADS) {
        if (key_of(__float_as_uint(p[i]), i) < key) continue;
        sum.count++;
        sum.mass += (double)p[i];
    }
    sum.count = gpu_reduce_warp<GPU_SUM>(sum.count);
    sum.mass = gpu_reduce_warp<GPU_SUM>(sum.mass);
    __syncthreads(); /* the last sums were read */
    if (gpu_lane() == 0) {
        shared.count[gpu_warp()] = sum.count;
        shared.mass[gpu_warp()] = sum.mass;
    }
    __syncthreads();
    sum = {0, 0.0};
    for (int i = 0; i < WARPS; i++) {
        sum.count += shared.count[i];
        sum.mass += shared.mass[i];
    }
    return sum;
}

/* The last member's key of the shortest prefix in order with `count` members and `mass`. Where the
 * probabilities are known, the ids need looking at only if there are equals. */
static __device__ __forceinline__ uint64_t last_kept(struct sample_shared &shared, const float *p,
                                                     int32_t vocab, int count, double mass) {
    uint64_t key = 0;
    int members = vocab;
    for (int bit = 61; bit >= 0; bit--) { /* probabilities are at most 1, below 2^30 as bits */
        if (bit == 31 && measure(shared, p, vocab, key + (1ull << 32)).count + 1 == members) break;
        if (bit < 32 && (uint32_t)vocab >> bit == 0) {
            key |= 1ull << bit; /* of every id turned round */
            continue;
        }
        const struct sample_measure m = measure(shared, p, vocab, key | 1ull << bit);
        if (m.count < count || m.mass < mass) continue;
        key |= 1ull << bit;
        members = m.count;
    }
    return key;
}

/* Zeroes what top-k, top-p and min-p drop. */
static __device__ __forceinline__ void truncate_row(struct sample_shared &shared,
                                                    const struct sample_args &a) {
    const struct sample_params &params = a.params;
    uint64_t key = 0;
    if (params.top_k > 0 && params.top_k < a.vocab)
        key = last_kept(shared, a.scratch, a.vocab, params.top_k, 0.0);
    if (params.top_p < 1.0f) {
        const double total = measure(shared, a.scratch, a.vocab, key).mass;
        const uint64_t other =
            last_kept(shared, a.scratch, a.vocab, 1, (double)params.top_p * total);
        key = other > key ? other : key;
    }
    const float least = fminf(params.min_p, 1.0f);
    for (int32_t i = (int32_t)threadIdx.x; i < a.vocab; i += THREADS) {
        const float p = a.scratch[i];
        if (key_of(__float_as_uint(p), i) < key || p < least) a.scratch[i] = 0.0f;
    }
    __syncthreads();
}

/* The first id whose cumulative probability exceeds the drawn number: by warps, by their threads'
 * segments of the row, then one by one; rounding can leave none, then the last one possible. */
static __device__ __forceinline__ int32_t draw(struct sample_shared &shared,
                                               const struct sample_args &a) {
    const int32_t length = (a.vocab + THREADS - 1) / THREADS;
    const int32_t first = (int32_t)threadIdx.x * length;
    double sum = 0.0;
    for (int32_t i = first; i < first + length && i < a.vocab; i++) sum += (double)a.scratch[i];
    shared.segment[threadIdx.x] = sum;
    sum = gpu_reduce_warp<GPU_SUM>(sum);
    if (gpu_lane() == 0) shared.mass[gpu_warp()] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        double total = 0.0, before = 0.0;
        int warp = 0, segment = 0;
        for (int i = 0; i < WARPS; i++) total += shared.mass[i];
        const double target = sample_unit(&a) * total;
        while (warp < WARPS - 1 && !(before + shared.mass[warp] > target))
            before += shared.mass[warp++];
        segment = warp * GPU_WARP;
        while (segment < THREADS - 1 && !(before + shared.segment[segment] > target))
            before += shared.segment[segment++];
        int32_t i = segment * length;
        for (; i < a.vocab; i++) {
            before += (double)a.scratch[i];
            if (a.scratch[i] > 0.0f && before > target) break;
        }
        while (i >= a.vocab || !(a.scratch[i] > 0.0f)) i--;
        shared.token = i;
    }
    __syncthreads();
    return shared.token;
}

/* The tokens of `seen` differ, so they are adjusted side by side. */
static __device__ __forceinline__ int32_t choose(struct sample_shared &shared,
                                                 const struct sample_args &a) {
    for (int32_t i = (int32_t)threadIdx.x; i < a.vocab; i += THREADS) a.scratch[i] = a.logits[i];
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < a.seen_count; i += THREADS) sample_adjust_one(&a, i);
    __syncthreads();
    const uint64_t best = row_best(shared, a.scratch, a.vocab);
    if (best == NOTHING || best == IMPOSSIBLE) return -1;
    if (a.params.temperature <= 0.0f) return id_of(best);
    const float max = a.scratch[id_of(best)];
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x; i < a.vocab; i += THREADS)
        a.scratch[i] = expf((a.scratch[i] - max) / a.params.temperature);
    __syncthreads();
    truncate_row(shared, a);
    return draw(shared, a);
}

static __global__ void __launch_bounds__(THREADS)
    sample_kernel(const __grid_constant__ struct sample_args a) {
    GPU_SHARED(struct sample_shared, shared);
    const uint64_t best = row_best(shared, a.logits, a.vocab);
    const bool possible = best != NOTHING && best != IMPOSSIBLE;
    const int32_t token = possible ? choose(shared, a) : -1;
    if (threadIdx.x == 0) *a.token = token;
    if (!a.logprob) return;
    double sum = 0.0, max = 0.0;
    if (token >= 0) {
        max = (double)a.logits[id_of(best)];
        for (int32_t i = (int32_t)threadIdx.x; i < a.vocab; i += THREADS)
            sum += (double)expf(a.logits[i] - (float)max);
    }
    sum = gpu_reduce_block<GPU_SUM, THREADS>(sum, shared.mass);
    if (threadIdx.x > 0) return;
    *a.logprob = token < 0 ? -INFINITY : (float)((double)a.logits[token] - max - log(sum));
}

static void sample(struct stream *s, const struct sample_args *a) {
    gpu_launch(s, "sample", gpu_grid{.blocks = dim3(1), .threads = THREADS}, sample_kernel, *a);
}

void cuda_sample(struct kernels *table) {
    table->sample = sample;
}
