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
    /* Named and measured so that files holding them can be inspected; nothing here reads them. */
    DTYPE_U16,
    DTYPE_U32,
    DTYPE_U64,
    DTYPE_C64,
    DTYPE_F8_E4M3,
    DTYPE_F8_E5M2,
    DTYPE_F8_E8M0,
    DTYPE_F6_E2M3,
    DTYPE_F6_E3M2,
    DTYPE_F4,
    DTYPE_Q8_1,
    DTYPE_Q8_K,
    DTYPE_IQ1_S,
    DTYPE_IQ1_M,
    DTYPE_IQ2_XXS,
    DTYPE_IQ2_XS,
    DTYPE_IQ2_S,
    DTYPE_IQ3_XXS,
    DTYPE_IQ3_S,
    DTYPE_TQ1_0,
    DTYPE_TQ2_0,
    DTYPE_MXFP4,
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

/* yes where the condition holds, no elsewhere, by masks: the half conversions have no branches, so
 * that loops over them vectorize. */
static inline uint32_t select_u32(int condition, uint32_t yes, uint32_t no) {
    uint32_t mask = 0u - (uint32_t)condition;
    return (yes & mask) | (no & ~mask);
}

static inline float f16_to_f32(uint16_t value) {
    uint32_t magnitude = (uint32_t)(value & 0x7fffu) << 13;
    uint32_t normal = magnitude + 0x38000000u; /* the bias grows from 15 to 127 */
    uint32_t special = magnitude + 0x70000000u;
    /* A subnormal m * 2^-24 is (0.5 + m * 2^-24) - 0.5, exactly. */
    uint32_t shifted = 0x3f000000u | (uint32_t)(value & 0x3ffu);
    float lifted;
    memcpy(&lifted, &shifted, sizeof lifted);
    lifted -= 0.5f;
    uint32_t subnormal;
    memcpy(&subnormal, &lifted, sizeof subnormal);
    uint32_t bits = select_u32(magnitude < 0x00800000u, subnormal, normal);
    bits = select_u32(magnitude >= 0x0f800000u, special, bits);
    bits |= (uint32_t)(value & 0x8000u) << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* Round to nearest even; overflow to infinity; NaN stays NaN. */
static inline uint16_t f32_to_f16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    /* A subnormal half: adding 0.5, whose neighbours are 2^-24 apart, lets the FPU round. Larger
     * magnitudes don't use the sum; they are cut off so that it stays finite. */
    uint32_t small = select_u32(magnitude < 0x38800000u, magnitude, 0);
    float scaled;
    memcpy(&scaled, &small, sizeof scaled);
    scaled += 0.5f;
    uint32_t subnormal;
    memcpy(&subnormal, &scaled, sizeof subnormal);
    uint32_t half = select_u32(magnitude < 0x38800000u, subnormal - 0x3f000000u, normal);
    half = select_u32(magnitude >= 0x477ff000u, 0x7c00u, half); /* rounds to 65536 or more */
    half = select_u32(magnitude > 0x7f800000u, 0x7e00u, half);
    return (uint16_t)(sign | half);
}

#endif
