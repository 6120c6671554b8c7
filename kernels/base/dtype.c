#include "kernels/base/dtype.h"

#include <assert.h>

static const struct dtype_info infos[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 1, 4},
    [DTYPE_F16] = {"F16", 1, 2},
    [DTYPE_BF16] = {"BF16", 1, 2},
    [DTYPE_F64] = {"F64", 1, 8},
    [DTYPE_I8] = {"I8", 1, 1},
    [DTYPE_I16] = {"I16", 1, 2},
    [DTYPE_I32] = {"I32", 1, 4},
    [DTYPE_I64] = {"I64", 1, 8},
    [DTYPE_U8] = {"U8", 1, 1},
    [DTYPE_BOOL] = {"BOOL", 1, 1},
    [DTYPE_Q4_0] = {"Q4_0", 32, 18},
    [DTYPE_Q4_1] = {"Q4_1", 32, 20},
    [DTYPE_Q5_0] = {"Q5_0", 32, 22},
    [DTYPE_Q5_1] = {"Q5_1", 32, 24},
    [DTYPE_Q8_0] = {"Q8_0", 32, 34},
    [DTYPE_Q2_K] = {"Q2_K", 256, 84},
    [DTYPE_Q3_K] = {"Q3_K", 256, 110},
    [DTYPE_Q4_K] = {"Q4_K", 256, 144},
    [DTYPE_Q5_K] = {"Q5_K", 256, 176},
    [DTYPE_Q6_K] = {"Q6_K", 256, 210},
    [DTYPE_IQ4_NL] = {"IQ4_NL", 32, 18},
    [DTYPE_IQ4_XS] = {"IQ4_XS", 256, 136},
    [DTYPE_U16] = {"U16", 1, 2},
    [DTYPE_U32] = {"U32", 1, 4},
    [DTYPE_U64] = {"U64", 1, 8},
    [DTYPE_C64] = {"C64", 1, 8},
    [DTYPE_F8_E4M3] = {"F8_E4M3", 1, 1},
    [DTYPE_F8_E5M2] = {"F8_E5M2", 1, 1},
    [DTYPE_F8_E8M0] = {"F8_E8M0", 1, 1},
    [DTYPE_F6_E2M3] = {"F6_E2M3", 4, 3},
    [DTYPE_F6_E3M2] = {"F6_E3M2", 4, 3},
    [DTYPE_F4] = {"F4", 2, 1},
    [DTYPE_Q8_1] = {"Q8_1", 32, 36},
    [DTYPE_Q8_K] = {"Q8_K", 256, 292},
    [DTYPE_IQ1_S] = {"IQ1_S", 256, 50},
    [DTYPE_IQ1_M] = {"IQ1_M", 256, 56},
    [DTYPE_IQ2_XXS] = {"IQ2_XXS", 256, 66},
    [DTYPE_IQ2_XS] = {"IQ2_XS", 256, 74},
    [DTYPE_IQ2_S] = {"IQ2_S", 256, 82},
    [DTYPE_IQ3_XXS] = {"IQ3_XXS", 256, 98},
    [DTYPE_IQ3_S] = {"IQ3_S", 256, 110},
    [DTYPE_TQ1_0] = {"TQ1_0", 256, 54},
    [DTYPE_TQ2_0] = {"TQ2_0", 256, 66},
    [DTYPE_MXFP4] = {"MXFP4", 32, 17},
};

const struct dtype_info *dtype_info(enum dtype type) {
    assert((unsigned)type < DTYPE_COUNT);
    return &infos[type];
}

size_t dtype_bytes(enum dtype type, size_t elements) {
    const struct dtype_info *info = dtype_info(type);
    assert(elements % (size_t)info->block_elements == 0);
    return elements / (size_t)info->block_elements * (size_t)info->block_bytes;
}
