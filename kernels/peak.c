/* Compiled once per instruction set. */
#define _GNU_SOURCE
#include "kernels/peak.h"

#include "kernels/ops.h"

#include <math.h>
#include <time.h>

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
        struct timespec start, end;
        float total = 0.0f;
        clock_gettime(CLOCK_MONOTONIC, &start);
#pragma omp parallel num_threads(threads) reduction(+ : total)
        total += burst(0.999f);
        clock_gettime(CLOCK_MONOTONIC, &end);
        sink = sink + total;
        double seconds =
            (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
        double flops = 2.0 * WIDTH * CHAINS * (STEPS / WIDTH) * threads;
        if (flops / seconds > best) best = flops / seconds;
    }
    return best;
}
