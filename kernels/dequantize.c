/* One function a format, each a loop over blocks. Compiled with -O3: the loops over a block's
 * elements have constant counts and no branches, so they vectorize. The order of the operations is
 * the format's own (a value is scale * q - min, scales multiplied first): results are exact, not
 * close. */
#include "kernels/dequantize.h"

#include <assert.h>
#include <math.h>

enum { BLOCK = 32 };

static float load_f16(const uint8_t *data) {
    uint16_t bits;
    memcpy(&bits, data, sizeof bits);
    return f16_to_f32(bits);
}

static void from_f16(float *out, const uint8_t *data, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof bits);
        out[i] = f16_to_f32(bits);
    }
}

static void from_bf16(float *out, const uint8_t *data, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, sizeof bits);
        out[i] = bf16_to_f32(bits);
    }
}

static void from_f64(float *out, const uint8_t *data, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double value;
        memcpy(&value, data + 8 * i, sizeof value);
        out[i] = (float)value;
    }
}

/* {d f16, q u8[16]}: element j in the low nibble of q[j], element j + 16 in the high one. */
static void block_q4_0(float *out, const uint8_t *data) {
    float d = load_f16(data);
    const uint8_t *q = data + 2;
    for (int j = 0; j < 16; j++) {
        out[j] = (float)((q[j] & 15) - 8) * d;
        out[j + 16] = (float)((q[j] >> 4) - 8) * d;
    }
}

/* {d f16, m f16, q u8[16]} */
static void block_q4_1(float *out, const uint8_t *data) {
    float d = load_f16(data), m = load_f16(data + 2);
    const uint8_t *q = data + 4;
    for (int j = 0; j < 16; j++) {
        out[j] = (float)(q[j] & 15) * d + m;
        out[j + 16] = (float)(q[j] >> 4) * d + m;
    }
}

/* {d f16, high u32, q u8[16]}: bit j of `high` is the fifth bit of element j. */
static void block_q5_0(float *out, const uint8_t *data) {
    float d = load_f16(data);
    uint32_t high;
    memcpy(&high, data + 2, sizeof high);
    const uint8_t *q = data + 6;
    for (int j = 0; j < 16; j++) {
        int low_half = (q[j] & 15) | (int)((high >> j) & 1) << 4;
        int high_half = (q[j] >> 4) | (int)((high >> (j + 16)) & 1) << 4;
        out[j] = (float)(low_half - 16) * d;
        out[j + 16] = (float)(high_half - 16) * d;
    }
}

/* {d f16, m f16, high u32, q u8[16]} */
static void block_q5_1(float *out, const uint8_t *data) {
    float d = load_f16(data), m = load_f16(data + 2);
    uint32_t high;
    memcpy(&high, data + 4, sizeof high);
    const uint8_t *q = data + 8;
    for (int j = 0; j < 16; j++) {
        int low_half = (q[j] & 15) | (int)((high >> j) & 1) << 4;
        int high_half = (q[j] >> 4) | (int)((high >> (j + 16)) & 1) << 4;
        out[j] = (float)low_half * d + m;
        out[j + 16] = (float)high_half * d + m;
    }
}

/* {d f16, q i8[32]} */
static void block_q8_0(float *out, const uint8_t *data) {
    float d = load_f16(data);
    const int8_t *q = (const int8_t *)data + 2;
    for (int j = 0; j < BLOCK; j++) out[j] = (float)q[j] * d;
}

/* {scales u8[16]: low nibble scale, high nibble min, of 16 elements each; q u8[64]; d, dmin f16}.
 * 32 bytes of q hold 128 elements: four groups of 32, two bits each. */
static void block_q2_k(float *out, const uint8_t *data) {
    const uint8_t *scales = data, *q = data + 16;
    float d = load_f16(data + 80), dmin = load_f16(data + 82);
    for (int g = 0; g < 16; g++) { /* a group of 16 elements */
        float scale = d * (float)(scales[g] & 15), min = dmin * (float)(scales[g] >> 4);
        const uint8_t *from = q + 32 * (g / 8) + 16 * (g % 2);
        int shift = 2 * (g % 8 / 2);
        for (int j = 0; j < 16; j++)
            out[16 * g + j] = scale * (float)((from[j] >> shift) & 3) - min;
    }
}

/* {high u8[32], q u8[64], scales u8[12], d f16}: as Q2_K, but the third bit of element 32 k + j is
 * bit k of high[j] (set: nothing is subtracted), and 16 scales of 6 bits, biased by 32: four bits
 * in a nibble of the first eight bytes, two in the last four. */
static void block_q3_k(float *out, const uint8_t *data) {
    const uint8_t *high = data, *q = data + 32, *scales = data + 96;
    float d = load_f16(data + 108);
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
        int two = (scales[8 + g % 4] >> (2 * (g / 4))) & 3;
        float scale = d * (float)((low | two << 4) - 32);
        const uint8_t *from = q + 32 * (g / 8) + 16 * (g % 2), *mask = high + 16 * (g % 2);
        int shift = 2 * (g % 8 / 2), bit = g / 2;
        for (int j = 0; j < 16; j++) {
            int value = ((from[j] >> shift) & 3) - 4 + 4 * ((mask[j] >> bit) & 1);
            out[16 * g + j] = scale * (float)value;
        }
    }
}

/* The 6-bit scale and min of group g (of 8) in the 12 bytes Q4_K and Q5_K share. */
static void scale_and_min(const uint8_t *packed, int g, int *scale, int *min) {
    if (g < 4) {
        *scale = packed[g] & 63;
        *min = packed[g + 4] & 63;
    } else {
        *scale = (packed[g + 4] & 15) | (packed[g - 4] >> 6) << 4;
        *min = (packed[g + 4] >> 4) | (packed[g] >> 6) << 4;
    }
}

/* {d, dmin f16, scales u8[12], q u8[128]}: 32 bytes of q hold two groups of 32, low nibbles first.
 */
static void block_q4_k(float *out, const uint8_t *data) {
    float d = load_f16(data), dmin = load_f16(data + 2);
    for (int g = 0; g < 8; g++) {
        int scale, min;
        scale_and_min(data + 4, g, &scale, &min);
        float by = d * (float)scale, less = dmin * (float)min;
        const uint8_t *q = data + 16 + 32 * (g / 2);
        int shift = 4 * (g % 2);
        for (int j = 0; j < 32; j++) out[32 * g + j] = by * (float)((q[j] >> shift) & 15) - less;
    }
}

/* {d, dmin f16, scales u8[12], high u8[32], q u8[128]}: bit g of high[j] is the fifth bit of
 * element j of group g. */
static void block_q5_k(float *out, const uint8_t *data) {
    float d = load_f16(data), dmin = load_f16(data + 2);
    const uint8_t *high = data + 16;
    for (int g = 0; g < 8; g++) {
        int scale, min;
        scale_and_min(data + 4, g, &scale, &min);
        float by = d * (float)scale, less = dmin * (float)min;
        const uint8_t *q = data + 48 + 32 * (g / 2);
        int shift = 4 * (g % 2);
        for (int j = 0; j < 32; j++) {
            int value = ((q[j] >> shift) & 15) | ((high[j] >> g) & 1) << 4;
            out[32 * g + j] = by * (float)value - less;
        }
    }
}

/* {low u8[128], high u8[64], scales i8[16], d f16}: each half of 128 elements is four groups of 32;
 * groups 0 and 1 are the low nibbles of 64 bytes, 2 and 3 the high ones, and group k's upper two
 * bits are bits 2 k of 32 bytes. */
static void block_q6_k(float *out, const uint8_t *data) {
    const int8_t *scales = (const int8_t *)data + 192;
    float d = load_f16(data + 208);
    for (int g = 0; g < 16; g++) { /* 16 elements with one scale */
        int half = g / 8, group = g % 8 / 2, part = 16 * (g % 2);
        const uint8_t *low = data + 64 * half + 32 * (group % 2) + part;
        const uint8_t *high = data + 128 + 32 * half + part;
        float scale = d * (float)scales[g];
        int low_shift = 4 * (group / 2), high_shift = 2 * group;
        for (int j = 0; j < 16; j++) {
            int value = ((low[j] >> low_shift) & 15) | ((high[j] >> high_shift) & 3) << 4;
            out[16 * g + j] = scale * (float)(value - 32);
        }
    }
}

/* The sixteen levels of IQ4_NL and IQ4_XS. */
static const int8_t levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                  1,    13,   25,  38,  53,  69,  89,  113};

/* {d f16, q u8[16]} as Q4_0, with levels for values. */
static void block_iq4_nl(float *out, const uint8_t *data) {
    float d = load_f16(data);
    const uint8_t *q = data + 2;
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)levels[q[j] & 15];
        out[j + 16] = d * (float)levels[q[j] >> 4];
    }
}

/* {d f16, high u16, low u8[4], q u8[128]}: eight groups of 32 as IQ4_NL; a group's scale has six
 * bits, biased by 32: four in a nibble of `low`, two in `high`. */
static void block_iq4_xs(float *out, const uint8_t *data) {
    float d = load_f16(data);
    uint16_t high;
    memcpy(&high, data + 2, sizeof high);
    const uint8_t *low = data + 4;
    for (int g = 0; g < 8; g++) {
        int scale = ((low[g / 2] >> (4 * (g % 2))) & 15) | ((high >> (2 * g)) & 3) << 4;
        float by = d * (float)(scale - 32);
        const uint8_t *q = data + 8 + 16 * g;
        for (int j = 0; j < 16; j++) {
            out[32 * g + j] = by * (float)levels[q[j] & 15];
            out[32 * g + j + 16] = by * (float)levels[q[j] >> 4];
        }
    }
}

static void (*const block_readers[DTYPE_COUNT])(float *out, const uint8_t *data) = {
    [DTYPE_Q4_0] = block_q4_0, [DTYPE_Q4_1] = block_q4_1,     [DTYPE_Q5_0] = block_q5_0,
    [DTYPE_Q5_1] = block_q5_1, [DTYPE_Q8_0] = block_q8_0,     [DTYPE_Q2_K] = block_q2_k,
    [DTYPE_Q3_K] = block_q3_k, [DTYPE_Q4_K] = block_q4_k,     [DTYPE_Q5_K] = block_q5_k,
    [DTYPE_Q6_K] = block_q6_k, [DTYPE_IQ4_NL] = block_iq4_nl, [DTYPE_IQ4_XS] = block_iq4_xs,
};

bool dequantize(float *out, enum dtype type, const void *data, size_t count) {
    const struct dtype_info *info = dtype_info(type);
    size_t block = (size_t)info->block_elements, bytes = (size_t)info->block_bytes;
    assert(count % block == 0);
    switch (type) {
    case DTYPE_F32:
        memcpy(out, data, count * sizeof *out);
        return true;
    case DTYPE_F16:
        from_f16(out, data, count);
        return true;
    case DTYPE_BF16:
        from_bf16(out, data, count);
        return true;
    case DTYPE_F64:
        from_f64(out, data, count);
        return true;
    default:
        break;
    }
    if (!block_readers[type]) return false;
    for (size_t i = 0; i < count / block; i++)
        block_readers[type](out + i * block, (const uint8_t *)data + i * bytes);
    return true;
}

static void to_f16(uint8_t *out, const float *data, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint16_t bits = f32_to_f16(data[i]);
        memcpy(out + 2 * i, &bits, sizeof bits);
    }
}

static void to_bf16(uint8_t *out, const float *data, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint16_t bits = f32_to_bf16(data[i]);
        memcpy(out + 2 * i, &bits, sizeof bits);
    }
}

/* The largest magnitude as bits: they order like the values, and a NaN is above infinity, so it
 * is never lost as it would be by comparing floats. */
static uint32_t largest_bits(const float *data) {
    uint32_t largest = 0;
    for (int j = 0; j < BLOCK; j++) {
        uint32_t bits;
        memcpy(&bits, &data[j], sizeof bits);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

static void write_q8_0(uint8_t *out, const float *data) {
    uint32_t bits = largest_bits(data);
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    bool finite = bits < 0x7f800000u;
    float d = finite ? largest / 127.0f : NAN;
    float inverse = finite && d > 0.0f ? 1.0f / d : 0.0f;
    if (inverse > 0x1p127f) inverse = 0.0f; /* d is subnormal: its f16 is zero anyway */
    uint16_t scale = f32_to_f16(d);
    memcpy(out, &scale, sizeof scale);
    if (!finite) {
        memset(out + 2, 1, BLOCK); /* times NaN: the damage stays visible */
        return;
    }
    for (int j = 0; j < BLOCK; j++) {
        /* Adding 1.5 * 2^23 leaves no fraction bits: rounds to nearest even. */
        float rounded = data[j] * inverse + 0x1.8p23f;
        int32_t integer;
        memcpy(&integer, &rounded, sizeof integer);
        out[2 + j] = (uint8_t)(integer - 0x4b400000);
    }
}

bool quantize(void *out, enum dtype type, const float *data, size_t count) {
    switch (type) {
    case DTYPE_F32:
        memcpy(out, data, count * sizeof *data);
        return true;
    case DTYPE_F16:
        to_f16(out, data, count);
        return true;
    case DTYPE_BF16:
        to_bf16(out, data, count);
        return true;
    case DTYPE_Q8_0:
        assert(count % BLOCK == 0);
        for (size_t i = 0; i < count / BLOCK; i++)
            write_q8_0((uint8_t *)out + 34 * i, data + BLOCK * i);
        return true;
    default:
        return false;
    }
}
