/* Sixteen floats: one register of AVX-512, two of AVX2. A panel of a packed weight (kernels/pack.h)
 * is a column of them. Only for files compiled with STRATA_FAST. */
#ifndef STRATA_KERNELS_SIMD_H
#define STRATA_KERNELS_SIMD_H

#include "kernels/base/dtype.h"

#include <immintrin.h>
#include <stdint.h>

#if defined(__AVX512F__)

typedef __m512 v16;

static inline v16 v16_zero(void) {
    return _mm512_setzero_ps();
}
static inline v16 v16_splat(float value) {
    return _mm512_set1_ps(value);
}
static inline v16 v16_load(const float *from) {
    return _mm512_loadu_ps(from);
}
static inline void v16_store(float *to, v16 value) {
    _mm512_storeu_ps(to, value);
}
static inline v16 v16_add(v16 a, v16 b) {
    return _mm512_add_ps(a, b);
}
/* a * b + c, rounded once. */
static inline v16 v16_fma(v16 a, v16 b, v16 c) {
    return _mm512_fmadd_ps(a, b, c);
}
/* Sixteen bf16, widened exactly. */
static inline v16 v16_load_bf16(const uint16_t *from) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
/* Of sixteen pairs of bf16, which fill a register: the first, the second of each, widened. */
static inline v16 v16_even_bf16(v16 pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
}
static inline v16 v16_odd_bf16(v16 pairs) {
    __m512i high = _mm512_set1_epi32((int)0xffff0000);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), high));
}
/* Pairs from two times sixteen bf16: even[i], odd[i]. */
static inline v16 v16_pair_bf16(const uint16_t *even, const uint16_t *odd) {
    __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)even));
    __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)odd));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
/* sum + the two products of each pair; subnormal numbers count as 0. */
static inline v16 v16_dot_pairs(v16 sum, v16 a, v16 b) {
#if defined(__AVX512BF16__)
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(a),
                            (__m512bh)_mm512_castps_si512(b));
#else
    (void)a, (void)b;
    return sum; /* no table without the instruction makes tiles of pairs */
#endif
}

/* Sixteen floats rounded to bf16 as f32_to_bf16 does. */
static inline __m256i v16_to_bf16(v16 x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    up = _mm512_mask_or_epi32(up, is_nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
}
static inline void v16_store_bf16(uint16_t *to, v16 x) {
    _mm256_storeu_si256((__m256i *)(void *)to, v16_to_bf16(x));
}

/* rows[i][j] <-> rows[j][i]: pairs of rows, pairs of pairs, then the 128-bit lanes twice. */
static inline void v16_transpose(v16 rows[16]) {
    v16 t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    /* rows[4g + c]: in lane q, column 4q + c of rows 4g .. 4g + 3 */
#pragma GCC unroll 4
    for (int g = 0; g < 4; g++) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m512d low = _mm512_castps_pd(t[4 * g + h]);
            __m512d high = _mm512_castps_pd(t[4 * g + 2 + h]);
            rows[4 * g + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            rows[4 * g + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        v16 a = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0x88);      /* lanes 0, 2 | 0, 2 */
        v16 b = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0xdd);      /* lanes 1, 3 | 1, 3 */
        v16 d = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0x88); /* of rows 8 .. 15 */
        v16 e = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0xdd);
        t[c] = _mm512_shuffle_f32x4(a, d, 0x88);
        t[4 + c] = _mm512_shuffle_f32x4(b, e, 0x88);
        t[8 + c] = _mm512_shuffle_f32x4(a, d, 0xdd);
        t[12 + c] = _mm512_shuffle_f32x4(b, e, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) rows[i] = t[i];
}

#else

typedef struct {
    __m256 low, high;
} v16;

static inline v16 v16_zero(void) {
    return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
static inline v16 v16_splat(float value) {
    return (v16){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}
static inline v16 v16_load(const float *from) {
    return (v16){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
static inline void v16_store(float *to, v16 value) {
    _mm256_storeu_ps(to, value.low);
    _mm256_storeu_ps(to + 8, value.high);
}
static inline v16 v16_add(v16 a, v16 b) {
    return (v16){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
/* a * b + c, rounded once. */
static inline v16 v16_fma(v16 a, v16 b, v16 c) {
    return (v16){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
/* Of sixteen pairs of bf16: the first, the second of each, widened. */
static inline __m256 v8_even_bf16(__m256 pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16));
}
static inline __m256 v8_odd_bf16(__m256 pairs) {
    return _mm256_and_ps(pairs, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000)));
}
static inline v16 v16_even_bf16(v16 pairs) {
    return (v16){v8_even_bf16(pairs.low), v8_even_bf16(pairs.high)};
}
static inline v16 v16_odd_bf16(v16 pairs) {
    return (v16){v8_odd_bf16(pairs.low), v8_odd_bf16(pairs.high)};
}
/* No dot products here: no table on this path makes tiles of pairs. */
static inline v16 v16_dot_pairs(v16 sum, v16 a, v16 b) {
    (void)a, (void)b;
    return sum;
}
static inline __m256 v8_load_bf16(const uint16_t *from) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
/* Sixteen bf16, widened exactly. */
static inline v16 v16_load_bf16(const uint16_t *from) {
    return (v16){v8_load_bf16(from), v8_load_bf16(from + 8)};
}

/* Sixteen floats rounded to bf16 as f32_to_bf16 does. */
static inline __m256i v8_to_bf16(__m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, is_nan), 16);
}
static inline __m256i v16_to_bf16(v16 x) {
    __m256i packed = _mm256_packus_epi32(v8_to_bf16(x.low), v8_to_bf16(x.high));
    return _mm256_permute4x64_epi64(packed, 0xd8);
}
static inline void v16_store_bf16(uint16_t *to, v16 x) {
    _mm256_storeu_si256((__m256i *)(void *)to, v16_to_bf16(x));
}
static inline void v8_transpose(__m256 rows[8]) {
    __m256 t[8], u[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    /* u[4g + c]: in lane q, column 4q + c of rows 4g .. 4g + 3 */
#pragma GCC unroll 2
    for (int g = 0; g < 2; g++) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            __m256d low = _mm256_castps_pd(t[4 * g + h]);
            __m256d high = _mm256_castps_pd(t[4 * g + 2 + h]);
            u[4 * g + 2 * h] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
            u[4 * g + 2 * h + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        rows[c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
        rows[4 + c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
    }
}

/* rows[i][j] <-> rows[j][i], by quarters. */
static inline void v16_transpose(v16 rows[16]) {
    __m256 upper_left[8], upper_right[8], lower_left[8], lower_right[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        upper_left[i] = rows[i].low;
        upper_right[i] = rows[i].high;
        lower_left[i] = rows[8 + i].low;
        lower_right[i] = rows[8 + i].high;
    }
    v8_transpose(upper_left);
    v8_transpose(upper_right);
    v8_transpose(lower_left);
    v8_transpose(lower_right);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        rows[i] = (v16){upper_left[i], lower_left[i]};
        rows[8 + i] = (v16){upper_right[i], lower_right[i]};
    }
}

#endif

#endif
