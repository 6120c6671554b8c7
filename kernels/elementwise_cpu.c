/* Fast elementwise ops: each element is computed in a lane of its own, so neither its place in a
 * vector nor the threads matter. */
#include "kernels/base/rng.h"
#include "kernels/ops.h"
#include "kernels/simd_math.h"
#include "kernels/threads.h"

enum { GRAIN = 1 << 15 }; /* elements that are worth a thread */

void VARIANT(add_cpu)(struct stream *s, void *y, const void *a, const void *b, int64_t n) {
    int threads = threads_for(s, n, GRAIN);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < n; i += V16_LANES) {
        v16 left = v16_load_act_part((const act_t *)a + i, n - i);
        v16 right = v16_load_act_part((const act_t *)b + i, n - i);
        v16_store_act_part((act_t *)y + i, v16_add(left, right), n - i);
    }
}

void VARIANT(scale_cpu)(struct stream *s, void *y, float scale, int64_t n) {
    int threads = threads_for(s, n, GRAIN);
    v16 factor = v16_splat(scale);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < n; i += V16_LANES) {
        act_t *at = (act_t *)y + i;
        v16_store_act_part(at, v16_mul(v16_load_act_part(at, n - i), factor), n - i);
    }
}

void VARIANT(accumulate_f32_cpu)(struct stream *s, float *y, const float *x, int64_t n) {
    int threads = threads_for(s, n, GRAIN);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < n; i += V16_LANES) {
        v16 sum = v16_add(v16_load_part(y + i, n - i), v16_load_part(x + i, n - i));
        v16_store_part(y + i, sum, n - i);
    }
}

void VARIANT(swiglu_forward_cpu)(struct stream *s, void *y, const void *gate, const void *up,
                                 int64_t n) {
    int threads = threads_for(s, n, GRAIN / 4);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < n; i += V16_LANES) {
        v16 g = v16_load_act_part((const act_t *)gate + i, n - i);
        v16 u = v16_load_act_part((const act_t *)up + i, n - i);
        v16 silu = v16_mul(g, v16_sigmoid(g));
        v16_store_act_part((act_t *)y + i, v16_mul(silu, u), n - i);
    }
}

/* silu'(g) = sigmoid(g) * (1 + g * (1 - sigmoid(g))) */
void VARIANT(swiglu_backward_cpu)(struct stream *s, void *dgate, void *dup, const void *dy,
                                  const void *gate, const void *up, int64_t n) {
    int threads = threads_for(s, n, GRAIN / 4);
    v16 one = v16_splat(1.0f);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < n; i += V16_LANES) {
        v16 d = v16_load_act_part((const act_t *)dy + i, n - i);
        v16 g = v16_load_act_part((const act_t *)gate + i, n - i);
        v16 u = v16_load_act_part((const act_t *)up + i, n - i);
        v16 sigmoid = v16_sigmoid(g), by_sigmoid = v16_mul(d, sigmoid);
        v16 slope = v16_fma(g, v16_sub(one, sigmoid), one);
        v16_store_act_part((act_t *)dgate + i, v16_mul(v16_mul(by_sigmoid, u), slope), n - i);
        v16_store_act_part((act_t *)dup + i, v16_mul(by_sigmoid, g), n - i);
    }
}

enum { BATCH = 16 }; /* generator blocks made side by side, four words each */

/* words = the blocks of rng_draw(seed, RNG_DROPOUT, domain, first .. first + BATCH - 1), one after
 * the other: rng_philox over lanes. */
static void draw_batch(uint32_t words[4 * BATCH], const struct dropout_args *a, uint64_t first) {
    uint64_t high = ((uint64_t)RNG_DROPOUT << 56) ^ a->domain;
    uint32_t k0 = (uint32_t)a->seed, k1 = (uint32_t)(a->seed >> 32);
    uint32_t c0[BATCH], c1[BATCH], c2[BATCH], c3[BATCH];
    for (uint32_t i = 0; i < BATCH; i++) {
        c0[i] = (uint32_t)(first + i);
        c1[i] = (uint32_t)((first + i) >> 32);
        c2[i] = (uint32_t)high;
        c3[i] = (uint32_t)(high >> 32);
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < BATCH; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[i], p1 = (uint64_t)0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c1[i] = (uint32_t)p1;
            c3[i] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < BATCH; i++) {
        words[4 * i] = c0[i];
        words[4 * i + 1] = c1[i];
        words[4 * i + 2] = c2[i];
        words[4 * i + 3] = c3[i];
    }
}

static void dropout_row(const struct dropout_args *a, int64_t row, float keep) {
    const act_t *x = (const act_t *)a->x + row * a->width;
    act_t *y = (act_t *)a->y + row * a->width;
    uint64_t base = (uint64_t)a->row_id[row] * (uint64_t)a->width;
    for (int64_t i = 0; i < a->width;) {
        uint32_t words[4 * BATCH];
        uint64_t element = base + (uint64_t)i;
        draw_batch(words, a, element / 4);
        int64_t skip = (int64_t)(element % 4), count = 4 * BATCH - skip;
        if (count > a->width - i) count = a->width - i;
        for (int64_t j = 0; j < count; j++) {
            bool kept = rng_unit(words[skip + j]) >= a->p;
            y[i + j] = act_store(kept ? act_load(x[i + j]) * keep : 0.0f);
        }
        i += count;
    }
}

void VARIANT(dropout_cpu)(struct stream *s, const struct dropout_args *a) {
    int threads = threads_for(s, a->rows * a->width, GRAIN / 4);
    float keep = 1.0f / (1.0f - a->p);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < a->rows; row++) dropout_row(a, row, keep);
}
