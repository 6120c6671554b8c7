/* Compiled once per instruction set. */
#define _GNU_SOURCE
#include "kernels/peak.h"

#include "kernels/base/clock.h"
#include "kernels/ops.h"

#include <math.h>
#include <stdbool.h>

#if STRATA_FAST
#include "kernels/simd.h"
enum { WIDTH = 16 };
typedef v16 lane;
static lane lane_splat(float value) {
    return v16_splat(value);
}
static lane lane_fma(lane a, lane b, lane c) {
    return v16_fma(a, b, c);
}
static float lane_first(lane a) {
    float values[WIDTH];
    v16_store(values, a);
    return values[0];
}
#else
enum { WIDTH = 1 };
typedef float lane;
static lane lane_splat(float value) {
    return value;
}
static lane lane_fma(lane a, lane b, lane c) {
    return fmaf(a, b, c);
}
static float lane_first(lane a) {
    return a;
}
#endif

enum { CHAINS = 12, STEPS = 400000, BURSTS = 40 }; /* more chains than latency x issue width */

static float burst(float seed) {
    lane sums[CHAINS], factor = lane_splat(seed), term = lane_splat(1e-3f);
    for (int c = 0; c < CHAINS; c++) sums[c] = lane_splat((float)c);
    for (int step = 0; step < STEPS / WIDTH; step++)
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++) sums[c] = lane_fma(sums[c], factor, term);
    float total = 0.0f;
    for (int c = 0; c < CHAINS; c++) total += lane_first(sums[c]);
    return total;
}

double VARIANT(peak_fma)(int threads) {
    double best = 0.0;
    volatile float sink = 0.0f; /* keeps the arithmetic alive */
    for (int i = 0; i < BURSTS; i++) {
        float total = 0.0f;
        double start = clock_seconds();
#pragma omp parallel num_threads(threads) reduction(+ : total)
        total += burst(0.999f);
        double seconds = clock_seconds() - start;
        sink = sink + total;
        double flops = 2.0 * WIDTH * CHAINS * (STEPS / WIDTH) * threads;
        if (flops / seconds > best) best = flops / seconds;
    }
    return best;
}

#if defined(__AVX512BF16__)
enum { SHORT = 2000, TURNS = 40 };

/* Seconds of a short burst of either instruction. */
static double short_burst(const bool dots, volatile float *sink) {
    v16 sums[CHAINS], factor = v16_splat(0.999f);
    for (int c = 0; c < CHAINS; c++) sums[c] = v16_splat((float)c);
    double start = clock_seconds();
    for (int step = 0; step < SHORT / CHAINS; step++)
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            sums[c] =
                dots ? v16_dot_pairs(sums[c], factor, factor) : v16_fma(sums[c], factor, factor);
    float total = 0.0f;
    for (int c = 0; c < CHAINS; c++) total += lane_first(sums[c]);
    *sink = *sink + total;
    return clock_seconds() - start;
}

/* In turns, so that whatever else the machine does meets both; the best of each. */
double VARIANT(peak_dots_gain)(void) {
    volatile float sink = 0.0f;
    double best[2] = {1.0, 1.0};
    for (int turn = 0; turn < 2 * TURNS; turn++) {
        double seconds = turn % 2 ? short_burst(true, &sink) : short_burst(false, &sink);
        if (seconds < best[turn % 2]) best[turn % 2] = seconds;
    }
    return 2.0 * best[0] / best[1];
}
#endif
