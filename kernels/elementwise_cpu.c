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

/* In place, a thread's smaller results would lie where another still reads. */
void VARIANT(round_f32_cpu)(struct stream *s, void *y, const float *x, int64_t n) {
    bool shrinks = y == (const void *)x && sizeof(act_t) < sizeof *x;
    int threads = shrinks ? 1 : threads_for(s, n, GRAIN);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < n; i += V16_LANES)
        v16_store_act_part((act_t *)y + i, v16_load_part(x + i, n - i), n - i);
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

enum { BATCH = 32 }; /* numbers made side by side: eight blocks of the generator, four words each */

/* The words of blocks first .. first + 7 of rng_draw(seed, RNG_DROPOUT, domain, .), in order: one
 * block a lane, the upper half of a lane being of no account in rng_philox's products. */
static void draw_batch(uint32_t words[BATCH], const struct dropout_args *a, uint64_t first) {
    uint64_t high = ((uint64_t)RNG_DROPOUT << 56) ^ a->domain, count[8], lanes[4][8];
    for (uint64_t i = 0; i < 8; i++) count[i] = first + i;
    w8 c0 = w8_load(count), c1 = w8_high(c0), c2 = w8_splat(high), c3 = w8_splat(high >> 32);
    uint32_t k0 = (uint32_t)a->seed, k1 = (uint32_t)(a->seed >> 32);
    for (int round = 0; round < 10; round++) {
        w8 p0 = w8_product(c0, w8_splat(0xD2511F53u)), p1 = w8_product(c2, w8_splat(0xCD9E8D57u));
        c0 = w8_xor(w8_xor(w8_high(p1), c1), w8_splat(k0));
        c2 = w8_xor(w8_xor(w8_high(p0), c3), w8_splat(k1));
        c1 = p1;
        c3 = p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    w8_store(lanes[0], c0);
    w8_store(lanes[1], c1);
    w8_store(lanes[2], c2);
    w8_store(lanes[3], c3);
    for (int i = 0; i < BATCH; i++) words[i] = (uint32_t)lanes[i % 4][i / 4];
}

static void dropout_row(const struct dropout_args *a, int64_t row, float keep) {
    const act_t *x = (const act_t *)a->x + row * a->width;
    act_t *y = (act_t *)a->y + row * a->width;
    uint64_t base = (uint64_t)a->row_id[row] * (uint64_t)a->whole + (uint64_t)a->first;
    v16 factor = v16_splat(keep), bound = v16_splat(a->p);
    int64_t skip = (int64_t)(base % 4); /* words of the first block that are of elements before */
    for (int64_t i = -skip; i < a->width; i += BATCH) {
        uint32_t words[BATCH];
        float units[BATCH + V16_LANES] = {0}; /* a last vector may reach beyond */
        draw_batch(words, a, (base + (uint64_t)i) / 4);
        for (int j = 0; j < BATCH; j++) units[j] = rng_unit(words[j]);
        int64_t from = i < 0 ? 0 : i, end = i + BATCH < a->width ? i + BATCH : a->width;
        for (int64_t j = from; j < end; j += V16_LANES) {
            v16 kept = v16_mul(v16_load_act_part(x + j, end - j), factor);
            kept = v16_zero_below(kept, v16_load(units + (j - i)), bound);
            v16_store_act_part(y + j, kept, end - j);
        }
    }
}

void VARIANT(dropout_cpu)(struct stream *s, const struct dropout_args *a) {
    int threads = threads_for(s, a->rows * a->width, GRAIN / 4);
    float keep = 1.0f / (1.0f - a->p);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < a->rows; row++) dropout_row(a, row, keep);
}
