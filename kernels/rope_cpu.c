/* Fast rotary embedding: a token's cosines and sines are laid out once for all its heads. */
#include "kernels/ops.h"
#include "kernels/simd_math.h"
#include "kernels/threads.h"

#include <assert.h>

void VARIANT(rope_table_cpu)(struct stream *s, float *table, const int32_t *positions,
                             const double *inverse_frequency, double factor, int64_t tokens,
                             int rotary_dim) {
    int threads = threads_for(s, tokens * rotary_dim, 1 << 10);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t t = 0; t < tokens; t++) VARIANT(rope_table_ref)
    (s, table + t * rotary_dim, positions + t, inverse_frequency, factor, 1, rotary_dim);
}

/* A token's rotation. Half-split: pair i at [i]. Interleaved: cosine (c, c) and sine (-s, s) at
 * [2i], [2i + 1]. Whole vectors, the padding zero. */
struct rotation {
    _Alignas(64) float cosine[ATTENTION_MAX_HEAD_DIM], sine[ATTENTION_MAX_HEAD_DIM];
};

static void lay_out(struct rotation *to, const float *row, const struct rope_args *a) {
    bool interleaved = a->style == ROPE_INTERLEAVED;
    for (int i = 0; i < a->rotary_dim / 2; i++) {
        float cosine = row[2 * i], sine = a->backward ? -row[2 * i + 1] : row[2 * i + 1];
        if (interleaved) {
            to->cosine[2 * i] = to->cosine[2 * i + 1] = cosine;
            to->sine[2 * i] = -sine;
            to->sine[2 * i + 1] = sine;
        } else {
            to->cosine[i] = cosine;
            to->sine[i] = sine;
        }
    }
}

static void rotate_halves(act_t *x, const struct rotation *by, int pairs) {
    for (int i = 0; i < pairs; i += V16_LANES) {
        v16 cosine = v16_load(by->cosine + i), sine = v16_load(by->sine + i);
        v16 first = v16_load_act_part(x + i, pairs - i);
        v16 second = v16_load_act_part(x + pairs + i, pairs - i);
        v16 low = v16_fnma(second, sine, v16_mul(first, cosine));
        v16 high = v16_fma(first, sine, v16_mul(second, cosine));
        v16_store_act_part(x + i, low, pairs - i);
        v16_store_act_part(x + pairs + i, high, pairs - i);
    }
}

static void rotate_neighbours(act_t *x, const struct rotation *by, int count) {
    for (int i = 0; i < count; i += V16_LANES) {
        v16 in = v16_load_act_part(x + i, count - i);
        v16 turned = v16_mul(in, v16_load(by->cosine + i));
        turned = v16_fma(v16_swap_pairs(in), v16_load(by->sine + i), turned);
        v16_store_act_part(x + i, turned, count - i);
    }
}

void VARIANT(rope_cpu)(struct stream *s, const struct rope_args *a) {
    assert(a->rotary_dim <= ATTENTION_MAX_HEAD_DIM);
    int threads = threads_for(s, a->tokens * a->heads * a->head_dim, 1 << 14);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t t = 0; t < a->tokens; t++) {
        struct rotation rotation = {0};
        lay_out(&rotation, a->table + t * a->rotary_dim, a);
        act_t *x = (act_t *)a->x + t * a->heads * a->head_dim;
        for (int h = 0; h < a->heads; h++, x += a->head_dim) {
            if (a->style == ROPE_INTERLEAVED)
                rotate_neighbours(x, &rotation, a->rotary_dim);
            else
                rotate_halves(x, &rotation, a->rotary_dim / 2);
        }
    }
}
