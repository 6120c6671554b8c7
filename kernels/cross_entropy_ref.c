/* Cross entropy in plain loops; the sum runs in double, so that the oracle adds no error of its
 * own. */
#include "kernels/ops.h"

#include <math.h>

void VARIANT(cross_entropy_forward_ref)(struct stream *s, struct cross_entropy_row *rows,
                                        const float *logits, const int32_t *targets, int64_t first,
                                        int64_t tokens, int64_t vocab) {
    (void)s;
    for (int64_t t = 0; t < tokens; t++) {
        const float *row = logits + t * vocab;
        float max = -INFINITY;
        double sum = 0.0;
        for (int64_t i = 0; i < vocab; i++) max = row[i] > max ? row[i] : max;
        for (int64_t i = 0; i < vocab; i++) sum += (double)expf(row[i] - max); /* a NaN stays */
        int64_t target = targets[t] - first;
        bool mine = targets[t] >= 0 && target >= 0 && target < vocab;
        rows[t] = (struct cross_entropy_row){max, (float)sum, mine ? row[target] : 0.0f};
    }
}

void VARIANT(cross_entropy_backward_ref)(struct stream *s, void *dlogits, const float *logits,
                                         const struct cross_entropy_row *rows,
                                         const int32_t *targets, const float *weight, int64_t first,
                                         int64_t tokens, int64_t vocab) {
    (void)s;
    for (int64_t t = 0; t < tokens; t++) {
        const float *row = logits + t * vocab;
        act_t *out = (act_t *)dlogits + t * vocab;
        int64_t target = targets[t] < 0 ? -1 : targets[t] - first;
        for (int64_t i = 0; i < vocab; i++) {
            float softmax = expf(row[i] - rows[t].row_max) / rows[t].sum_exp;
            out[i] = act_store(weight[t] * (i == target ? softmax - 1.0f : softmax));
        }
    }
}
