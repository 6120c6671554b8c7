/* Fast RMSNorm. A row's sums run over the width in one order, whatever the number of rows. */
#include "kernels/ops.h"
#include "kernels/simd_math.h"
#include "kernels/threads.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { GRAIN = 1 << 14, UNROLL = 4 };

/* sum of x^2 over a row: four chains of vectors, folded in one order. */
static float squares_of_row(const act_t *x, int64_t width) {
    v16 sum[UNROLL] = {v16_zero(), v16_zero(), v16_zero(), v16_zero()};
    int64_t i = 0;
    for (; i + UNROLL * V16_LANES <= width; i += UNROLL * V16_LANES) {
        for (int j = 0; j < UNROLL; j++) {
            v16 in = v16_load_act(x + i + j * V16_LANES);
            sum[j] = v16_fma(in, in, sum[j]);
        }
    }
    for (; i < width; i += V16_LANES) {
        v16 in = v16_load_act_part(x + i, width - i);
        sum[0] = v16_fma(in, in, sum[0]);
    }
    return v16_sum(v16_add(v16_add(sum[0], sum[1]), v16_add(sum[2], sum[3])));
}

void VARIANT(rmsnorm_forward_cpu)(struct stream *s, void *y, float *rstd, const void *x,
                                  const float *w, int64_t rows, int64_t width, float eps) {
    int threads = threads_for(s, rows * width, GRAIN);
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const act_t *in = (const act_t *)x + row * width;
        act_t *out = (act_t *)y + row * width;
        float inverse = 1.0f / sqrtf(squares_of_row(in, width) / (float)width + eps);
        v16 factor = v16_splat(inverse);
        for (int64_t i = 0; i < width; i += V16_LANES) {
            v16 normed = v16_mul(v16_load_act_part(in + i, width - i), factor);
            v16_store_act_part(out + i, v16_mul(normed, v16_load_part(w + i, width - i)),
                               width - i);
        }
        if (rstd) rstd[row] = inverse;
    }
}

/* One row: dw += dy * n (unless NULL), then dx. */
static void backward_row(const struct rmsnorm_backward_args *a, int64_t row, double *dw) {
    int64_t width = a->width;
    const act_t *dy = (const act_t *)a->dy + row * width, *x = (const act_t *)a->x + row * width;
    act_t *dx = (act_t *)a->dx + row * width;
    v16 rstd = v16_splat(a->rstd[row]), sum = v16_zero();
    for (int64_t i = 0; i < width; i += V16_LANES) {
        v16 normed = v16_mul(v16_load_act_part(x + i, width - i), rstd);
        v16 by_normed = v16_mul(v16_load_act_part(dy + i, width - i), normed);
        sum = v16_fma(by_normed, v16_load_part(a->w + i, width - i), sum);
        if (dw) v16_double_store(dw + i, v16_double_add(v16_double_load(dw + i), by_normed));
    }
    v16 mean = v16_splat(v16_sum(sum) / (float)width);
    for (int64_t i = 0; i < width; i += V16_LANES) {
        v16 normed = v16_mul(v16_load_act_part(x + i, width - i), rstd);
        v16 g = v16_mul(v16_load_act_part(dy + i, width - i), v16_load_part(a->w + i, width - i));
        v16 gradient = v16_mul(rstd, v16_fnma(normed, mean, g));
        if (a->accumulate) gradient = v16_add(v16_load_act_part(dx + i, width - i), gradient);
        v16_store_act_part(dx + i, gradient, width - i);
    }
}

/* Rows go in blocks that depend on the shape alone; each block sums its part of dw in scratch, and
 * the parts are added in the order of the blocks. In double: of thousands of rows little may be
 * left, and then their order would show. */
void VARIANT(rmsnorm_backward_cpu)(struct stream *s, const struct rmsnorm_backward_args *a) {
    assert(a->width <= RMSNORM_MAX_WIDTH);
    int threads = threads_for(s, a->rows * a->width, GRAIN);
    int64_t in_block = (1 << 14) / a->width + 8;
    int64_t blocks = (a->rows + in_block - 1) / in_block;
    int64_t columns = a->dw ? (a->width + V16_LANES - 1) / V16_LANES * V16_LANES : 0;
    _Alignas(64) double total[RMSNORM_MAX_WIDTH];
    memset(total, 0, (size_t)columns * sizeof *total);
#pragma omp parallel for ordered num_threads(threads) if (threads > 1) schedule(static, 1)
    for (int64_t block = 0; block < blocks; block++) {
        _Alignas(64) double part[RMSNORM_MAX_WIDTH];
        memset(part, 0, (size_t)columns * sizeof *part);
        for (int64_t row = block * in_block; row < a->rows && row < (block + 1) * in_block; row++)
            backward_row(a, row, a->dw ? part : NULL);
#pragma omp ordered
        for (int64_t i = 0; i < columns; i += V16_LANES)
            v16_double_store(
                total + i, v16_double_plus(v16_double_load(total + i), v16_double_load(part + i)));
    }
    for (int64_t i = 0; a->dw && i < a->width; i++) a->dw[i] += (float)total[i];
}
