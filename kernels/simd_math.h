/* More operations on the vectors of kernels/simd.h: arithmetic, reductions in one order, parts of
 * vectors, activations, exponentials. An operation means the same in each lane on either
 * instruction set, so a value does not depend on which path computed it. */
#ifndef STRATA_KERNELS_SIMD_MATH_H
#define STRATA_KERNELS_SIMD_MATH_H

#include "kernels/simd.h"
#include "kernels/variant.h"

#include <math.h>

enum { V16_LANES = 16 };

#if defined(__AVX512F__)

static inline v16 v16_sub(v16 a, v16 b) {
    return _mm512_sub_ps(a, b);
}
static inline v16 v16_mul(v16 a, v16 b) {
    return _mm512_mul_ps(a, b);
}
static inline v16 v16_div(v16 a, v16 b) {
    return _mm512_div_ps(a, b);
}
static inline v16 v16_fnma(v16 a, v16 b, v16 c) {
    return _mm512_fnmadd_ps(a, b, c);
}
static inline v16 v16_sqrt(v16 x) {
    return _mm512_sqrt_ps(x);
}
/* b where either is a NaN. */
static inline v16 v16_max(v16 a, v16 b) {
    return _mm512_max_ps(a, b);
}
static inline v16 v16_min(v16 a, v16 b) {
    return _mm512_min_ps(a, b);
}
/* To the nearest integer, ties to even. */
static inline v16 v16_round(v16 x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* x * 2^n for an integral n in [-252, 254]. */
static inline v16 v16_scale2(v16 x, v16 n) {
    return _mm512_scalef_ps(x, n);
}
/* x where a >= b or either is a NaN, else 0. */
static inline v16 v16_zero_below(v16 x, v16 a, v16 b) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ), x);
}
/* Lanes whose bit is set from x, the others from `other`. */
static inline v16 v16_select(uint32_t mask, v16 x, v16 other) {
    return _mm512_mask_mov_ps(other, (__mmask16)mask, x);
}
/* One bit a lane. */
static inline uint32_t v16_mask_ge(v16 a, v16 b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
/* Lanes 1 0 3 2 5 4 ... */
static inline v16 v16_swap_pairs(v16 x) {
    return _mm512_permute_ps(x, 0xb1);
}
static inline __m256 v16_low(v16 x) {
    return _mm512_castps512_ps256(x);
}
static inline __m256 v16_high(v16 x) {
    return _mm512_extractf32x8_ps(x, 1);
}

/* Eight 64-bit words, of which products take the low half. */
typedef __m512i w8;

static inline w8 w8_splat(uint64_t x) {
    return _mm512_set1_epi64((long long)x);
}
static inline w8 w8_load(const uint64_t *from) {
    return _mm512_loadu_si512(from);
}
static inline void w8_store(uint64_t *to, w8 x) {
    _mm512_storeu_si512(to, x);
}
static inline w8 w8_product(w8 a, w8 b) {
    return _mm512_mul_epu32(a, b);
}
static inline w8 w8_high(w8 x) {
    return _mm512_srli_epi64(x, 32);
}
static inline w8 w8_xor(w8 a, w8 b) {
    return _mm512_xor_si512(a, b);
}

/* Sixteen doubles, for sums that must not lose bits. */
typedef struct {
    __m512d part[2];
} v16_double;

static inline v16_double v16_double_zero(void) {
    return (v16_double){{_mm512_setzero_pd(), _mm512_setzero_pd()}};
}
static inline v16_double v16_double_add_square(v16_double sum, v16 x) {
    __m512d low = _mm512_cvtps_pd(v16_low(x)), high = _mm512_cvtps_pd(v16_high(x));
    return (v16_double){
        {_mm512_fmadd_pd(low, low, sum.part[0]), _mm512_fmadd_pd(high, high, sum.part[1])}};
}
static inline v16_double v16_double_add(v16_double sum, v16 x) {
    return (v16_double){{_mm512_add_pd(sum.part[0], _mm512_cvtps_pd(v16_low(x))),
                         _mm512_add_pd(sum.part[1], _mm512_cvtps_pd(v16_high(x)))}};
}
static inline v16_double v16_double_load(const double *from) {
    return (v16_double){{_mm512_loadu_pd(from), _mm512_loadu_pd(from + 8)}};
}
static inline void v16_double_store(double *to, v16_double x) {
    _mm512_storeu_pd(to, x.part[0]);
    _mm512_storeu_pd(to + 8, x.part[1]);
}
static inline v16_double v16_double_plus(v16_double a, v16_double b) {
    return (v16_double){{_mm512_add_pd(a.part[0], b.part[0]), _mm512_add_pd(a.part[1], b.part[1])}};
}
static inline double v16_double_sum(v16_double x) {
    double lanes[8], sum = 0.0;
    _mm512_storeu_pd(lanes, _mm512_add_pd(x.part[0], x.part[1]));
    for (int i = 0; i < 8; i++) sum += lanes[i];
    return sum;
}

#else

static inline v16 v16_sub(v16 a, v16 b) {
    return (v16){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
static inline v16 v16_mul(v16 a, v16 b) {
    return (v16){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
static inline v16 v16_div(v16 a, v16 b) {
    return (v16){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
static inline v16 v16_fnma(v16 a, v16 b, v16 c) {
    return (v16){_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
static inline v16 v16_sqrt(v16 x) {
    return (v16){_mm256_sqrt_ps(x.low), _mm256_sqrt_ps(x.high)};
}
static inline v16 v16_max(v16 a, v16 b) {
    return (v16){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
static inline v16 v16_min(v16 a, v16 b) {
    return (v16){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
static inline v16 v16_round(v16 x) {
    return (v16){_mm256_round_ps(x.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                 _mm256_round_ps(x.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
/* In two factors, so that neither leaves the range of an exponent. */
static inline __m256 v8_scale2(__m256 x, __m256 n) {
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half), bias = _mm256_set1_epi32(127);
    __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i second = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
static inline v16 v16_scale2(v16 x, v16 n) {
    return (v16){v8_scale2(x.low, n.low), v8_scale2(x.high, n.high)};
}
static inline v16 v16_zero_below(v16 x, v16 a, v16 b) {
    return (v16){_mm256_and_ps(x.low, _mm256_cmp_ps(a.low, b.low, _CMP_NLT_UQ)),
                 _mm256_and_ps(x.high, _mm256_cmp_ps(a.high, b.high, _CMP_NLT_UQ))};
}
static inline __m256 v8_select(uint32_t mask, __m256 x, __m256 other) {
    __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_and_si256(_mm256_set1_epi32((int)mask), bit);
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit)));
}
static inline v16 v16_select(uint32_t mask, v16 x, v16 other) {
    return (v16){v8_select(mask, x.low, other.low), v8_select(mask >> 8, x.high, other.high)};
}
static inline uint32_t v16_mask_ge(v16 a, v16 b) {
    int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ));
    int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ));
    return (uint32_t)(low | high << 8);
}
static inline v16 v16_swap_pairs(v16 x) {
    return (v16){_mm256_permute_ps(x.low, 0xb1), _mm256_permute_ps(x.high, 0xb1)};
}
static inline __m256 v16_low(v16 x) {
    return x.low;
}
static inline __m256 v16_high(v16 x) {
    return x.high;
}

typedef struct {
    __m256i low, high;
} w8;

static inline w8 w8_splat(uint64_t x) {
    return (w8){_mm256_set1_epi64x((long long)x), _mm256_set1_epi64x((long long)x)};
}
static inline w8 w8_load(const uint64_t *from) {
    return (w8){_mm256_loadu_si256((const __m256i *)(const void *)from),
                _mm256_loadu_si256((const __m256i *)(const void *)(from + 4))};
}
static inline void w8_store(uint64_t *to, w8 x) {
    _mm256_storeu_si256((__m256i *)(void *)to, x.low);
    _mm256_storeu_si256((__m256i *)(void *)(to + 4), x.high);
}
static inline w8 w8_product(w8 a, w8 b) {
    return (w8){_mm256_mul_epu32(a.low, b.low), _mm256_mul_epu32(a.high, b.high)};
}
static inline w8 w8_high(w8 x) {
    return (w8){_mm256_srli_epi64(x.low, 32), _mm256_srli_epi64(x.high, 32)};
}
static inline w8 w8_xor(w8 a, w8 b) {
    return (w8){_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
}

typedef struct {
    __m256d part[4];
} v16_double;

static inline v16_double v16_double_zero(void) {
    __m256d zero = _mm256_setzero_pd();
    return (v16_double){{zero, zero, zero, zero}};
}
static inline __m256d v4_add_square(__m256d sum, __m128 x) {
    __m256d wide = _mm256_cvtps_pd(x);
    return _mm256_fmadd_pd(wide, wide, sum);
}
static inline v16_double v16_double_add_square(v16_double sum, v16 x) {
    return (v16_double){{v4_add_square(sum.part[0], _mm256_castps256_ps128(x.low)),
                         v4_add_square(sum.part[1], _mm256_extractf128_ps(x.low, 1)),
                         v4_add_square(sum.part[2], _mm256_castps256_ps128(x.high)),
                         v4_add_square(sum.part[3], _mm256_extractf128_ps(x.high, 1))}};
}
static inline v16_double v16_double_add(v16_double sum, v16 x) {
    __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x.low));
    __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(x.low, 1));
    __m256d c = _mm256_cvtps_pd(_mm256_castps256_ps128(x.high));
    __m256d d = _mm256_cvtps_pd(_mm256_extractf128_ps(x.high, 1));
    return (v16_double){{_mm256_add_pd(sum.part[0], a), _mm256_add_pd(sum.part[1], b),
                         _mm256_add_pd(sum.part[2], c), _mm256_add_pd(sum.part[3], d)}};
}
static inline v16_double v16_double_load(const double *from) {
    v16_double x;
    for (int i = 0; i < 4; i++) x.part[i] = _mm256_loadu_pd(from + 4 * i);
    return x;
}
static inline void v16_double_store(double *to, v16_double x) {
    for (int i = 0; i < 4; i++) _mm256_storeu_pd(to + 4 * i, x.part[i]);
}
static inline v16_double v16_double_plus(v16_double a, v16_double b) {
    for (int i = 0; i < 4; i++) a.part[i] = _mm256_add_pd(a.part[i], b.part[i]);
    return a;
}
static inline double v16_double_sum(v16_double x) {
    double lanes[4], sum = 0.0;
    __m256d low = _mm256_add_pd(x.part[0], x.part[1]), high = _mm256_add_pd(x.part[2], x.part[3]);
    _mm256_storeu_pd(lanes, _mm256_add_pd(low, high));
    for (int i = 0; i < 4; i++) sum += lanes[i];
    return sum;
}

#endif

static inline float v16_first(v16 x) {
    return _mm256_cvtss_f32(v16_low(x));
}
/* Sum and maximum over the lanes, in one order: halves are folded onto each other. */
static inline float v16_sum(v16 x) {
    __m256 eight = _mm256_add_ps(v16_low(x), v16_high(x));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float v16_max_lane(v16 x) {
    __m256 eight = _mm256_max_ps(v16_low(x), v16_high(x));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* The first `count` lanes, all from 16 on; the others read as 0 and are not written. */
static inline v16 v16_load_part(const float *from, int64_t count) {
    if (count >= V16_LANES) return v16_load(from);
    float lanes[V16_LANES] = {0};
    for (int64_t i = 0; i < count; i++) lanes[i] = from[i];
    return v16_load(lanes);
}
static inline void v16_store_part(float *to, v16 x, int64_t count) {
    if (count >= V16_LANES) {
        v16_store(to, x);
        return;
    }
    float lanes[V16_LANES];
    v16_store(lanes, x);
    for (int64_t i = 0; i < count; i++) to[i] = lanes[i];
}

/* The same with -infinity for the lanes beyond. */
static inline v16 v16_load_or_lowest(const float *from, int64_t count) {
    if (count >= V16_LANES) return v16_load(from);
    return v16_select((1u << count) - 1, v16_load_part(from, count), v16_splat(-INFINITY));
}

/* Activations in memory. */
#if STRATA_ACT_BF16
static inline v16 v16_load_act(const act_t *from) {
    return v16_load_bf16(from);
}
static inline void v16_store_act(act_t *to, v16 x) {
    v16_store_bf16(to, x);
}
#else
static inline v16 v16_load_act(const act_t *from) {
    return v16_load(from);
}
static inline void v16_store_act(act_t *to, v16 x) {
    v16_store(to, x);
}
#endif
static inline v16 v16_load_act_part(const act_t *from, int64_t count) {
    if (count >= V16_LANES) return v16_load_act(from);
    act_t lanes[V16_LANES] = {0};
    for (int64_t i = 0; i < count; i++) lanes[i] = from[i];
    return v16_load_act(lanes);
}
static inline void v16_store_act_part(act_t *to, v16 x, int64_t count) {
    if (count >= V16_LANES) {
        v16_store_act(to, x);
        return;
    }
    act_t lanes[V16_LANES];
    v16_store_act(lanes, x);
    for (int64_t i = 0; i < count; i++) to[i] = lanes[i];
}

/* e^x within 2 ulp: x = n ln 2 + r, |r| <= ln 2 / 2, e^r = 1 + r + r^2 p(r) with a minimax
 * polynomial of degree 4 (relative error 2^-28). Exactly 1 at 0; 0 where the result would be
 * subnormal (x < -87.33), infinity from 88.73 on, NaN for NaN. */
static inline v16 v16_exp(v16 x) {
    const v16 lowest = v16_splat(-87.3365402f);
    v16 clamped =
        v16_max(lowest, v16_min(v16_splat(89.0f), x)); /* the second operand wins for a NaN */
    v16 n = v16_round(v16_mul(clamped, v16_splat(0x1.715476p+0f)));
    v16 r = v16_fnma(n, v16_splat(0x1.62e400p-1f), clamped);
    r = v16_fnma(n, v16_splat(0x1.7f7d1cp-20f), r);
    v16 p = v16_splat(0x1.6a23d0p-10f);
    p = v16_fma(p, r, v16_splat(0x1.123a20p-7f));
    p = v16_fma(p, r, v16_splat(0x1.5558f2p-5f));
    p = v16_fma(p, r, v16_splat(0x1.555492p-3f));
    p = v16_fma(p, r, v16_splat(0x1.fffffcp-2f));
    p = v16_add(v16_fma(p, v16_mul(r, r), r), v16_splat(1.0f));
    return v16_zero_below(v16_scale2(p, n), x, lowest);
}

/* 1 / (1 + e^-x) */
static inline v16 v16_sigmoid(v16 x) {
    v16 one = v16_splat(1.0f);
    return v16_div(one, v16_add(one, v16_exp(v16_sub(v16_splat(0.0f), x))));
}

#endif
