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
        float values[256] = {0};
        for (int64_t i = 0; i < w->cols; i++) {
            int64_t left = w->cols - i;
            if (mine && i % 256 == 0) weight_read(values, w, row, i, left < 256 ? left : 256);
            out[i] = act_store(values[i % 256]);
        }
    }
}

void VARIANT(embedding_backward_ref)(struct stream *s, const struct weight *dw,
                                     const int32_t *tokens, const void *dy, int64_t first,
                                     int64_t count) {
    (void)s;
    assert(dw->layout == LAYOUT_PANEL_F32 || dw->layout == LAYOUT_ROWS_F32);
    float *data = dw->data;
    for (int64_t t = 0; t < count; t++) {
        const act_t *from = (const act_t *)dy + t * dw->cols;
        int64_t row = tokens[t] - first;
        if (row < 0 || row >= dw->rows) continue;
        for (int64_t i = 0; i < dw->cols; i++)
            data[weight_index(dw->layout, dw->cols, row, i)] += act_load(from[i]);
    }
}
