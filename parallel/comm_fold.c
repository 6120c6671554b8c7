#include "parallel/comm_fold.h"
#include "kernels/base/units.h"

#include <assert.h>

enum { FOLD_BLOCK = 4096 }; /* elements: stays in the first-level cache while ranks are added */

static void combine_f32(float *out, const float *row, int64_t count, enum comm_sum sum) {
    if (sum == COMM_SUM)
        for (int64_t i = 0; i < count; i++) out[i] += row[i];
    else if (sum == COMM_MAX)
        for (int64_t i = 0; i < count; i++) out[i] = row[i] > out[i] ? row[i] : out[i];
    else
        for (int64_t i = 0; i < count; i++) out[i] = row[i] < out[i] ? row[i] : out[i];
}

static void combine_f64(double *out, const double *row, int64_t count, enum comm_sum sum) {
    if (sum == COMM_SUM)
        for (int64_t i = 0; i < count; i++) out[i] += row[i];
    else if (sum == COMM_MAX)
        for (int64_t i = 0; i < count; i++) out[i] = row[i] > out[i] ? row[i] : out[i];
    else
        for (int64_t i = 0; i < count; i++) out[i] = row[i] < out[i] ? row[i] : out[i];
}

static void widen(float *out, const uint16_t *row, int64_t count) {
    for (int64_t i = 0; i < count; i++) out[i] = bf16_to_f32(row[i]);
}

static void fold_f32(float *out, const float *rows, int ranks, int64_t stride, int64_t count,
                     enum comm_sum sum) {
    memcpy(out, rows, (size_t)count * sizeof *out);
    for (int r = 1; r < ranks; r++) combine_f32(out, rows + r * stride, count, sum);
}

static void fold_f64(double *out, const double *rows, int ranks, int64_t stride, int64_t count,
                     enum comm_sum sum) {
    memcpy(out, rows, (size_t)count * sizeof *out);
    for (int r = 1; r < ranks; r++) combine_f64(out, rows + r * stride, count, sum);
}

static void fold_bf16(uint16_t *out, const uint16_t *rows, int ranks, int64_t stride, int64_t count,
                      enum comm_sum sum) {
    float total[FOLD_BLOCK], wide[FOLD_BLOCK];
    widen(total, rows, count);
    for (int r = 1; r < ranks; r++) {
        widen(wide, rows + r * stride, count);
        combine_f32(total, wide, count, sum);
    }
    for (int64_t i = 0; i < count; i++) out[i] = f32_to_bf16(total[i]);
}

void comm_fold(void *out, const void *rows, int ranks, int64_t count, enum dtype type,
               enum comm_sum sum, int threads) {
    assert(type == DTYPE_F32 || type == DTYPE_F64 || type == DTYPE_BF16);
    int64_t blocks = (count + FOLD_BLOCK - 1) / FOLD_BLOCK;
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 16)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t first = block * FOLD_BLOCK;
        int64_t n = min_i64(count - first, FOLD_BLOCK);
        if (type == DTYPE_F32)
            fold_f32((float *)out + first, (const float *)rows + first, ranks, count, n, sum);
        else if (type == DTYPE_F64)
            fold_f64((double *)out + first, (const double *)rows + first, ranks, count, n, sum);
        else
            fold_bf16((uint16_t *)out + first, (const uint16_t *)rows + first, ranks, count, n,
                      sum);
    }
}
