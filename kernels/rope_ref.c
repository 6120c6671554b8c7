/* Rotary embedding in plain loops. */
#include "kernels/ops.h"

#include <math.h>

void VARIANT(rope_table_ref)(struct stream *s, float *table, const int32_t *positions,
                             const double *inverse_frequency, double factor, int64_t tokens,
                             int rotary_dim) {
    (void)s;
    int pairs = rotary_dim / 2;
    for (int64_t t = 0; t < tokens; t++) {
        float *row = table + t * 2 * pairs;
        for (int i = 0; i < pairs; i++) {
            double angle = positions[t] * inverse_frequency[i];
            row[2 * i] = (float)(cos(angle) * factor);
            row[2 * i + 1] = (float)(sin(angle) * factor);
        }
    }
}

static void rotate_head(act_t *x, const float *row, const struct rope_args *a) {
    int pairs = a->rotary_dim / 2;
    bool interleaved = a->style == ROPE_INTERLEAVED;
    for (int i = 0; i < pairs; i++) {
        act_t *first = &x[interleaved ? 2 * i : i];
        act_t *second = &x[interleaved ? 2 * i + 1 : i + pairs];
        float cosine = row[2 * i], sine = a->backward ? -row[2 * i + 1] : row[2 * i + 1];
        float x0 = act_load(*first), x1 = act_load(*second);
        *first = act_store(x0 * cosine - x1 * sine);
        *second = act_store(x1 * cosine + x0 * sine);
    }
}

void VARIANT(rope_ref)(struct stream *s, const struct rope_args *a) {
    (void)s;
    for (int64_t t = 0; t < a->tokens; t++) {
        act_t *x = (act_t *)a->x + t * a->heads * a->head_dim;
        const float *row = a->table + t * a->rotary_dim;
        for (int h = 0; h < a->heads; h++) rotate_head(x + h * a->head_dim, row, a);
    }
}
