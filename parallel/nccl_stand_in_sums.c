#include "parallel/nccl_stand_in.h"

#include "kernels/base/dtype.h"
#include "kernels/base/units.h"

enum { CHUNK = 512 }; /* elements that are summed from one rank on */

static double combine(double a, double b, int sum) {
    if (sum == NCCL_SUM) return a + b;
    return (sum == NCCL_MAX) == (a > b) ? a : b;
}

static int64_t combine_whole(int64_t a, int64_t b, int sum) {
    if (sum == NCCL_SUM) return a + b;
    return (sum == NCCL_MAX) == (a > b) ? a : b;
}

/* The sum of two floats is exact in a double before it is rounded, so all types add in it. */
static void add(void *out, const void *row, int64_t i, int type, int sum) {
    uint16_t *bf16 = out;
    const uint16_t *bf16_row = row;
    switch (type) {
    case NCCL_F32:
        ((float *)out)[i] =
            (float)combine((double)((float *)out)[i], (double)((const float *)row)[i], sum);
        break;
    case NCCL_F64:
        ((double *)out)[i] = combine(((double *)out)[i], ((const double *)row)[i], sum);
        break;
    case NCCL_BF16:
        bf16[i] = f32_to_bf16(
            (float)combine((double)bf16_to_f32(bf16[i]), (double)bf16_to_f32(bf16_row[i]), sum));
        break;
    case NCCL_I32:
        ((int32_t *)out)[i] =
            (int32_t)combine_whole(((int32_t *)out)[i], ((const int32_t *)row)[i], sum);
        break;
    case NCCL_I64:
        ((int64_t *)out)[i] = combine_whole(((int64_t *)out)[i], ((const int64_t *)row)[i], sum);
        break;
    default:
        ((uint8_t *)out)[i] =
            (uint8_t)combine_whole(((uint8_t *)out)[i], ((const uint8_t *)row)[i], sum);
        break;
    }
}

void stand_in_sum(void *out, const void *rows, int ranks, int64_t count, int type, int sum) {
    int64_t width = (int64_t)stand_in_width(type);
    for (int64_t first = 0; first < count; first += CHUNK) {
        int64_t n = min_i64(CHUNK, count - first);
        int start = (int)(first / CHUNK + 1) % ranks;
        const char *from = (const char *)rows + first * width;
        char *to = (char *)out + first * width;
        memcpy(to, from + start * count * width, (size_t)(n * width));
        for (int k = 1; k < ranks; k++)
            for (int64_t i = 0; i < n; i++)
                add(to, from + (start + k) % ranks * count * width, i, type, sum);
    }
}
