#include "kernels/quantized.h"

#include "kernels/base/units.h"
#include "kernels/dequantize.h"

#include <assert.h>
#include <string.h>

static const struct dtype_info *stored_info(const struct weight *weight) {
    return dtype_info(layout_stored_type(weight->layout));
}

static uint8_t *stored_at(const struct weight *weight, int64_t panel, int64_t block) {
    const struct dtype_info *info = stored_info(weight);
    int64_t blocks = weight->cols / info->block_elements;
    return (uint8_t *)weight->data + (panel * blocks + block) * PANEL_ROWS * info->block_bytes;
}

void weight_pack_stored(const struct weight *weight, int64_t row, const void *blocks) {
    const struct dtype_info *info = stored_info(weight);
    int64_t bytes = info->block_bytes, count = weight->cols / info->block_elements;
    assert(row >= 0 && row < weight->rows);
    for (int64_t i = 0; i < count; i++) {
        uint8_t *line = stored_at(weight, row / PANEL_ROWS, i);
        memcpy(line + row % PANEL_ROWS * bytes, (const uint8_t *)blocks + i * bytes, (size_t)bytes);
        if (row + 1 < weight->rows) continue;
        int64_t end = row % PANEL_ROWS + 1; /* the last row: those behind it are padding */
        memset(line + end * bytes, 0, (size_t)((PANEL_ROWS - end) * bytes));
    }
}

int64_t stored_chunk(float *out, const struct weight *weight, int64_t panel, int64_t first) {
    int64_t width = min_i64(QUANTIZED_CHUNK, weight->cols - first);
    const void *from = stored_at(weight, panel, first / stored_info(weight)->block_elements);
    dequantize(out, layout_stored_type(weight->layout), from, (size_t)(width * PANEL_ROWS));
    return width;
}

static void stored_read(float *out, const struct weight *weight, int64_t row, int64_t first,
                        int64_t count) {
    enum dtype type = layout_stored_type(weight->layout);
    const struct dtype_info *info = dtype_info(type);
    float block[QUANTIZED_CHUNK];
    for (int64_t done = 0; done < count; done += info->block_elements) {
        const uint8_t *line =
            stored_at(weight, row / PANEL_ROWS, (first + done) / info->block_elements);
        dequantize(block, type, line + row % PANEL_ROWS * info->block_bytes,
                   (size_t)info->block_elements);
        int64_t width = min_i64(info->block_elements, count - done);
        memcpy(out + done, block, (size_t)width * sizeof *out);
    }
}

static void nf4_read(float *out, const struct weight *weight, int64_t row, int64_t first,
                     int64_t count) {
    struct nf4 q = nf4_of(weight);
    int64_t panel = row / PANEL_ROWS, lane = row % PANEL_ROWS;
    float scale = q.scales[row / q.group_rows];
    for (int64_t i = 0; i < count; i++) {
        int64_t block = panel * q.blocks + (first + i) / NF4_BLOCK, place = (first + i) % NF4_BLOCK;
        uint32_t word = q.codes[(block * (NF4_BLOCK / 8) + place / 8) * PANEL_ROWS + lane];
        float absmax = nf4_absmax(scale, q.absmax[block * PANEL_ROWS + lane]);
        out[i] = nf4_levels[(word >> (4 * (place % 8))) & 15] * absmax;
    }
}

void quantized_read(float *out, const struct weight *weight, int64_t row, int64_t first,
                    int64_t count) {
    assert(first % QUANTIZED_CHUNK == 0 && first + count <= weight->cols);
    assert(!layout_is_moment8(weight->layout));
    if (weight->layout >= LAYOUT_STORED)
        stored_read(out, weight, row, first, count);
    else
        nf4_read(out, weight, row, first, count);
}
