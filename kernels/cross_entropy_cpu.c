/* Fast cross entropy: a row is read from memory once and walked again while it lies in cache. */
#include "kernels/ops.h"
#include "kernels/simd_math.h"
#include "kernels/threads.h"

#include <math.h>

enum { GRAIN = 1 << 14, UNROLL = 4 };

static v16 load_or_lowest(const float *row, int64_t left) {
    if (left >= V16_LANES) return v16_load(row);
    float lanes[V16_LANES];
    for (int i = 0; i < V16_LANES; i++) lanes[i] = i < left ? row[i] : -INFINITY;
    return v16_load(lanes);
}

static float row_maximum(const float *row, int64_t vocab) {
    v16 max[UNROLL];
    for (int j = 0; j < UNROLL; j++) max[j] = v16_splat(-INFINITY);
    int64_t i = 0;
    for (; i + UNROLL * V16_LANES <= vocab; i += UNROLL * V16_LANES)
        for (int j = 0; j < UNROLL; j++)
            max[j] = v16_max(v16_load(row + i + j * V16_LANES), max[j]);
    for (; i < vocab; i += V16_LANES) max[0] = v16_max(load_or_lowest(row + i, vocab - i), max[0]);
    return v16_max_lane(v16_max(v16_max(max[0], max[1]), v16_max(max[2], max[3])));
}

/* sum of exp(row - max); a NaN in the row, which the maximum passes over, makes it NaN. */
static float row_sum(const float *row, int64_t vocab, float max) {
    v16 sum[UNROLL], base = v16_splat(max);
    for (int j = 0; j < UNROLL; j++) sum[j] = v16_zero();
    int64_t i = 0;
    for (; i + UNROLL * V16_LANES <= vocab; i += UNROLL * V16_LANES)
        for (int j = 0; j < UNROLL; j++)
            sum[j] = v16_add(sum[j], v16_exp(v16_sub(v16_load(row + i + j * V16_LANES), base)));
    for (; i < vocab; i += V16_LANES)
        sum[0] = v16_add(sum[0], v16_exp(v16_sub(load_or_lowest(row + i, vocab - i), base)));
    return v16_sum(v16_add(v16_add(sum[0], sum[1]), v16_add(sum[2], sum[3])));
}

void VARIANT(cross_entropy_forward_cpu)(struct stream *s, struct cross_entropy_row *rows,
                                        const float *logits, const int32_t *targets, int64_t first,
                                        int64_t tokens, int64_t vocab) {
    int threads = threads_for(s, tokens * vocab, GRAIN);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        const float *row = logits + t * vocab;
        float max = row_maximum(row, vocab);
        int64_t target = targets[t] < 0 ? -1 : targets[t] - first;
        bool mine = target >= 0 && target < vocab;
        rows[t] =
            (struct cross_entropy_row){max, row_sum(row, vocab, max), mine ? row[target] : 0.0f};
    }
}

void VARIANT(cross_entropy_backward_cpu)(struct stream *s, void *dlogits, const float *logits,
                                         const struct cross_entropy_row *rows,
                                         const int32_t *targets, const float *weight, int64_t first,
                                         int64_t tokens, int64_t vocab) {
    int threads = threads_for(s, tokens * vocab, GRAIN);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        const float *row = logits + t * vocab;
        act_t *out = (act_t *)dlogits + t * vocab;
        int64_t target = targets[t] < 0 ? -1 : targets[t] - first;
        bool mine = target >= 0 && target < vocab;
        v16 base = v16_splat(rows[t].row_max), factor = v16_splat(weight[t] / rows[t].sum_exp);
        float logit = mine ? row[target] : 0.0f; /* out may be the row */
        for (int64_t i = 0; i < vocab; i += V16_LANES) {
            v16 p = v16_exp(v16_sub(v16_load_part(row + i, vocab - i), base));
            v16_store_act_part(out + i, v16_mul(p, factor), vocab - i);
        }
        if (!mine) continue;
        float p = v16_first(v16_exp(v16_splat(logit - rows[t].row_max)));
        out[target] = act_store(weight[t] * (p / rows[t].sum_exp - 1.0f));
    }
}
