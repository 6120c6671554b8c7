/* Element types as files store them.
 *
 * Plain types have one element a block. Quantized GGUF types come in blocks of 32 or 256 elements
 * along the innermost axis (source: the GGUF specification and ggml's block definitions). What a
 * matmul reads is a layout (kernels/pack.h), not one of these. */
#ifndef STRATA_KERNELS_BASE_DTYPE_H
#define STRATA_KERNELS_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_F64,
    DTYPE_I8,
    DTYPE_I16,
    DTYPE_I32,
    DTYPE_I64,
    DTYPE_U8,
    DTYPE_BOOL,
    DTYPE_Q4_0,
    DTYPE_Q4_1,
    DTYPE_Q5_0,
    DTYPE_Q5_1,
    DTYPE_Q8_0,
    DTYPE_Q2_K,
    DTYPE_Q3_K,
    DTYPE_Q4_K,
    DTYPE_Q5_K,
    DTYPE_Q6_K,
    DTYPE_IQ4_NL,
    DTYPE_IQ4_XS,
    DTYPE_COUNT
};

struct dtype_info {
    const char *name;   /* "F32", "Q4_K", ... as GGUF and safetensors spell it */
    int block_elements; /* 1 for plain types */
    int block_bytes;    /* bytes of one block */
};

/* Never NULL for a value below DTYPE_COUNT. */
const struct dtype_info *dtype_info(enum dtype type);

/* Bytes of `elements` of `type`; elements must be a multiple of the block. */
size_t dtype_bytes(enum dtype type, size_t elements);

static inline float bf16_to_f32(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_f32(uint16_t value);
uint16_t f32_to_f16(float value); /* round to nearest even; overflow to infinity */

#endif
