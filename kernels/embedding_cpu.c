/* Fast embedding. Forward: tokens in parallel. Backward: columns in parallel, so that each element
 * is summed by one thread in token order. */
#include "kernels/ops.h"
#include "kernels/simd_math.h"
#include "kernels/threads.h"

#include <assert.h>
#include <string.h>

static void copy_row(act_t *out, const struct weight *w, int64_t row) {
    if (w->layout == LAYOUT_ROWS_F32) {
        const float *from = (const float *)w->data + row * w->cols;
        for (int64_t i = 0; i < w->cols; i += V16_LANES)
            v16_store_act_part(out + i, v16_load_part(from + i, w->cols - i), w->cols - i);
        return;
    }
    if (layout_is_quantized(w->layout) || w->layout == LAYOUT_ROWS_BF16) {
        float values[256];
        for (int64_t i = 0; i < w->cols; i++) {
            int64_t left = w->cols - i;
            if (i % 256 == 0) weight_read(values, w, row, i, left < 256 ? left : 256);
            out[i] = act_store(values[i % 256]);
        }
        return;
    }
    int64_t first = weight_index(w->layout, w->cols, row, 0);
    if (w->layout == LAYOUT_PANEL_F32) {
        const float *from = (const float *)w->data + first;
        for (int64_t i = 0; i < w->cols; i++) out[i] = act_store(from[i * PANEL_ROWS]);
    } else {
        const uint16_t *from = (const uint16_t *)w->data + first;
        for (int64_t i = 0; i < w->cols; i++)
            out[i] = act_store(bf16_to_f32(from[i / 2 * 2 * PANEL_ROWS + i % 2]));
    }
}

void VARIANT(embedding_forward_cpu)(struct stream *s, void *y, const int32_t *tokens,
                                    const struct weight *w, int64_t first, int64_t vocab,
                                    int64_t count) {
    for (int64_t t = 0; t < count; t++) {
        if (tokens[t] >= 0 && tokens[t] < vocab) continue;
        stream_fail(s, STATUS_SHAPE, "embedding", "token %d at %lld is not in [0, %lld)",
                    (int)tokens[t], (long long)t, (long long)vocab);
        return;
    }
    int threads = threads_for(s, count * w->cols, 1 << 13);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t t = 0; t < count; t++) {
        int64_t row = tokens[t] - first;
        act_t *out = (act_t *)y + t * w->cols;
        if (row >= 0 && row < w->rows)
            copy_row(out, w, row);
        else
            memset(out, 0, (size_t)w->cols * sizeof *out);
    }
}

enum { SLAB = 64 }; /* columns of a share: whole cache lines of a row */

/* Columns [first, end) of a token's gradient. */
static void add_row(const struct weight *dw, int64_t row, const act_t *dy, int64_t first,
                    int64_t end) {
    float *data = dw->data;
    if (dw->layout == LAYOUT_ROWS_F32) {
        float *to = data + row * dw->cols;
        for (int64_t i = first; i < end; i += V16_LANES) {
            v16 sum = v16_add(v16_load_part(to + i, end - i), v16_load_act_part(dy + i, end - i));
            v16_store_part(to + i, sum, end - i);
        }
        return;
    }
    float *to = data + weight_index(dw->layout, dw->cols, row, 0);
    for (int64_t i = first; i < end; i++) to[i * PANEL_ROWS] += act_load(dy[i]);
}

void VARIANT(embedding_backward_cpu)(struct stream *s, const struct weight *dw,
                                     const int32_t *tokens, const void *dy, int64_t first,
                                     int64_t count) {
    assert(dw->layout == LAYOUT_PANEL_F32 || dw->layout == LAYOUT_ROWS_F32);
    int threads = threads_for(s, count * dw->cols, 1 << 13);
    int64_t slabs = (dw->cols + SLAB - 1) / SLAB;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t slab = 0; slab < slabs; slab++) {
        int64_t from = slab * SLAB, end = from + SLAB < dw->cols ? from + SLAB : dw->cols;
        for (int64_t t = 0; t < count; t++) {
            int64_t row = tokens[t] - first;
            if (row >= 0 && row < dw->rows)
                add_row(dw, row, (const act_t *)dy + t * dw->cols, from, end);
        }
    }
}
