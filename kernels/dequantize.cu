/* Quantized weights to rows in a workspace. A thread makes eight neighbours: the lanes of a warp
 * share blocks, and write runs of a row. */
#include "kernels/gpu/launch.h"
#include "kernels/gpu/layout.h"
#include "kernels/gpu/quantized.h"
#include "kernels/gpu/raster.h"
#include "kernels/quantized_cuda.h"

static constexpr int THREADS = 256, EIGHTS = QUANTIZED_CHUNK / 8;

template <class A>
__device__ __forceinline__ void put_eight(A *to, const float values[8], int64_t count) {
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < count) to[i] = from_f32<A>(values[i]);
}

/* A block of threads makes a chunk: 16 rows, 256 columns. blockIdx.x counts chunks of a panel,
 * blockIdx.y panels. */
template <class A>
static __global__ void __launch_bounds__(THREADS)
    dequantize_kernel(struct gpu_quantized w, struct dequantize_part part) {
    const int64_t column0 = part.first_col + (int64_t)blockIdx.x * QUANTIZED_CHUNK;
    const int64_t panel = part.first_row / PANEL_ROWS + blockIdx.y;
    const int64_t chunk = column0 / QUANTIZED_CHUNK;
    const int64_t left = w.cols - column0;
    const int columns = left < QUANTIZED_CHUNK ? (int)left : (int)QUANTIZED_CHUNK;
    const uint8_t *data = gpu_panel_at(w, panel) + chunk * gpu_chunk_bytes(w);
    const uint8_t *absmax =
        w.absmax + (panel * w.blocks + chunk * (QUANTIZED_CHUNK / NF4_BLOCK)) * PANEL_ROWS;
    for (int i = (int)threadIdx.x; i < EIGHTS * PANEL_ROWS; i += THREADS) {
        const int column = i % EIGHTS * 8;
        const int64_t row = panel * PANEL_ROWS + i / EIGHTS, line = row - part.first_row;
        const int64_t at = column0 + column - part.first_col;
        if (line >= part.rows || at >= part.cols) continue;
        float values[8];
        gpu_eight_of_chunk(values, w, data, absmax, row, column, columns);
        put_eight((A *)part.out + line * part.cols + at, values, part.cols - at);
    }
}

void dequantize_cuda(struct stream *s, const struct weight *w, const struct dequantize_part *part) {
    assert(part->first_row % PANEL_ROWS == 0 && part->first_col % QUANTIZED_CHUNK == 0);
    const struct gpu_quantized q = gpu_quantized_of(w);
    const dim3 blocks((unsigned)gpu_tiles(part->cols, QUANTIZED_CHUNK),
                      (unsigned)gpu_tiles(part->rows, PANEL_ROWS));
    gpu_launch(s, "dequantize", gpu_grid{.blocks = blocks, .threads = THREADS},
               part->bf16 ? dequantize_kernel<struct bf16> : dequantize_kernel<float>, q, *part);
}
