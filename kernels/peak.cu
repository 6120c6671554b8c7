/* The ceiling of a GPU: fp32 multiply-adds from registers alone, on the current device. */
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/launch.h"

static constexpr int THREADS = 256, BLOCKS_PER_PROCESSOR = 8, CHAINS = 8, BURSTS = 5;
static constexpr float LONG_ENOUGH = 2.0f; /* milliseconds */

static __global__ void __launch_bounds__(THREADS)
    peak_kernel(float *sink, float factor, int steps) {
    float sums[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sums[i] = (float)(threadIdx.x + (unsigned)i);
    for (int step = 0; step < steps; step++) {
#pragma unroll
        for (int i = 0; i < CHAINS; i++) sums[i] = fmaf(sums[i], factor, 1e-3f);
    }
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < CHAINS; i++) total += sums[i];
    if (total < 0.0f) *sink = total; /* never: it keeps the arithmetic alive */
}

/* Milliseconds of one burst; 0 where the device failed. */
static float burst(struct stream *s, cudaEvent_t start, cudaEvent_t end, unsigned blocks,
                   int steps) {
    float milliseconds = 0.0f;
    gpu_note(s, "peak_fma", cudaEventRecord(start, (cudaStream_t)s->device));
    gpu_launch(s, "peak_fma", gpu_grid{.blocks = dim3(blocks), .threads = THREADS}, peak_kernel,
               (float *)device_scratch(s, sizeof(float)), 0.999f, steps);
    gpu_note(s, "peak_fma", cudaEventRecord(end, (cudaStream_t)s->device));
    if (stream_check(s) != STATUS_OK) return 0.0f;
    gpu_note(s, "peak_fma", cudaEventElapsedTime(&milliseconds, start, end));
    return milliseconds;
}

/* Bursts grow until they are long enough to be timed; then the best of a few. */
static double fastest(struct stream *s, cudaEvent_t start, cudaEvent_t end, unsigned blocks) {
    int steps = 16;
    double best = 0.0;
    float milliseconds = burst(s, start, end, blocks, steps);
    while (milliseconds > 0.0f && milliseconds < LONG_ENOUGH && steps < 1 << 20) {
        steps *= 2;
        milliseconds = burst(s, start, end, blocks, steps);
    }
    for (int i = 0; i < BURSTS && milliseconds > 0.0f; i++) {
        const double flops = 2.0 * CHAINS * steps * THREADS * blocks;
        const double rate = flops / (1e-3 * (double)milliseconds);
        best = rate > best ? rate : best;
        milliseconds = burst(s, start, end, blocks, steps);
    }
    return best;
}

/* 0 where there is no device that works. */
static double peak_fma(int) {
    struct device device;
    struct stream stream = {};
    int ordinal = 0;
    if (cudaGetDevice(&ordinal) != cudaSuccess) return 0.0;
    if (device_open_cuda(&device, ordinal) != STATUS_OK) return 0.0;
    if (device_open_stream(&device, &stream) != STATUS_OK) return 0.0;
    cudaEvent_t start = NULL, end = NULL;
    double best = 0.0;
    if (cudaEventCreate(&start) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess)
        best = fastest(&stream, start, end, (unsigned)(device.processors * BLOCKS_PER_PROCESSOR));
    if (end) cudaEventDestroy(end);
    if (start) cudaEventDestroy(start);
    stream_close(&stream);
    return best;
}

void cuda_peak(struct kernels *table) {
    table->peak_fma = peak_fma;
}
