/* Embedding in plain loops, over every layout of a weight. */
#include "kernels/ops.h"

#include <assert.h>

void VARIANT(embedding_forward_ref)(struct stream *s, void *y, const int32_t *tokens,
                                    const struct weight *w, int64_t first, int64_t vocab,
                                    int64_t count) {
    for (int64_t t = 0; t < count; t++) {
        act_t *out = (act_t *)y + t * w->cols;
        if (tokens[t] < 0 || tokens[t] >= vocab) {
            stream_fail(s, STATUS_SHAPE, "embedding", "token %d at %lld is not in [0, %lld)",
                        (int)tokens[t], (long long)t, (long long)vocab);
            return;
        }
        int64_t row = tokens[t] - first;
        bool mine = row >= 0 && row < w->rows;
        for (int64_t i = 0; i < w->cols; i++) {
            if (!mine) {
                out[i] = act_store(0.0f);
                continue;
            }
            int64_t at = weight_index(w->layout, w->cols, row, i);
            float value = w->layout == LAYOUT_PANEL_BF16
                              ? bf16_to_f32(((const uint16_t *)w->data)[at])
                              : ((const float *)w->data)[at];
            out[i] = act_store(value);
        }
    }
}

void VARIANT(embedding_backward_ref)(struct stream *s, const struct weight *dw,
                                     const int32_t *tokens, const void *dy, int64_t first,
                                     int64_t count) {
    (void)s;
    assert(dw->layout != LAYOUT_PANEL_BF16);
    float *data = dw->data;
    for (int64_t t = 0; t < count; t++) {
        const act_t *from = (const act_t *)dy + t * dw->cols;
        int64_t row = tokens[t] - first;
        if (row < 0 || row >= dw->rows) continue;
        for (int64_t i = 0; i < dw->cols; i++)
            data[weight_index(dw->layout, dw->cols, row, i)] += act_load(from[i]);
    }
}
