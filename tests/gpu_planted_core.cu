#include "kernels/gpu/launch.h"

extern "C" {
#include "tests/gpu_planted_core.h"
}

enum { THREADS = 128, BLOCKS = 3, COUNT = THREADS * BLOCKS };

/* ---- a block reverses its numbers ---- */

struct numbers {
    float *to;
    const float *from;
};

struct room {
    float number[THREADS];
};

static __device__ float deep(int level) {
    volatile char local[4096];
    local[level % 4096] = (char)level;
    return level > 200 ? 0.0f : deep(level + 1) + (float)local[level % 4096];
}

static __global__ void reverse(float *to, const float *from, struct numbers in, int bug) {
    GPU_DYNAMIC_SHARED(float, dynamic);
    GPU_SHARED(struct room, room);
    float *number = bug == REVERSE_STATIC_BOUNDS ? room.number : dynamic;
    const int i = (int)threadIdx.x, at = (int)blockIdx.x * THREADS + i;
    if (bug == REVERSE_HOST_IN_STRUCT) from = in.from;
    if (bug == REVERSE_STACK) to[at] = deep(0);
    int far = bug == REVERSE_DEVICE_BOUNDS ? 1 : bug == REVERSE_STRAY ? 1 << 24 : 0;
    int shift = bug == REVERSE_SHARED_BOUNDS || bug == REVERSE_STATIC_BOUNDS;
    if (!(bug == REVERSE_UNWRITTEN && i == 77)) number[i + shift] = from[at + far];
    if (bug == REVERSE_BARRIER_DIVIDED) {
        if (i % 2)
            __syncthreads();
        else
            __syncthreads();
    } else if (bug != REVERSE_NO_BARRIER) {
        __syncthreads();
    }
    to[at] = number[THREADS - 1 - i + shift];
}

static float *device_numbers(const struct device *gpu) {
    void *memory = NULL;
    if (device_allocate(gpu, &memory, COUNT * sizeof(float)) != STATUS_OK) abort();
    return (float *)memory;
}

static float *pinned_numbers(const struct device *gpu) {
    void *memory = NULL;
    if (device_allocate_shared(gpu, &memory, COUNT * sizeof(float)) != STATUS_OK) abort();
    return (float *)memory;
}

static bool is_reversed(struct stream *s, const float *to) {
    float got[COUNT];
    stream_copy(s, got, to, sizeof got);
    if (stream_check(s) != STATUS_OK) return false;
    for (int i = 0; i < COUNT; i++)
        if (!(got[i] == (float)(i / THREADS * THREADS + THREADS - 1 - i % THREADS))) return false;
    return true;
}

static bool run_reverse(struct stream *s, const struct device *gpu, int bug) {
    float host[COUNT];
    for (int i = 0; i < COUNT; i++) host[i] = (float)i;
    float *from = device_numbers(gpu), *to = device_numbers(gpu);
    if (bug != REVERSE_DEVICE_UNWRITTEN) stream_copy(s, from, host, sizeof host);
    if (bug == REVERSE_FREED) device_free(gpu, from);
    struct gpu_grid grid = {.blocks = dim3(BLOCKS - (bug == REVERSE_GRID)),
                            .threads = bug == REVERSE_THREADS ? 2048 : THREADS + 0,
                            .shared =
                                bug == REVERSE_TOO_MUCH_SHARED ? 232449 : sizeof(struct room)};
    gpu_launch(s, "reverse", grid, reverse, to, bug == REVERSE_HOST_ARGUMENT ? host : from,
               numbers{to, host}, bug);
    return is_reversed(s, to);
}

/* ---- a warp ---- */

static __global__ void rotate(float *to, int bug) {
    GPU_SHARED(struct room, room);
    const int lane = gpu_lane();
    if (bug == WARP_LANE_ENDED && lane == 5) return;
    room.number[lane] = (float)lane;
    if (bug != WARP_NO_SYNC) __syncwarp();
    float value = room.number[(lane + 1) % GPU_WARP];
    const unsigned mask = bug == WARP_MASKS && lane >= 16 ? 0xffff8000u : GPU_ALL_LANES;
    if (bug == WARP_DIVIDED && lane % 2)
        value = (float)__ballot_sync(GPU_ALL_LANES, 1);
    else
        value = __shfl_sync(mask, value, lane + 1);
    to[lane] = value;
}

static bool run_warp(struct stream *s, const struct device *gpu, int bug) {
    float *to = device_numbers(gpu), got[GPU_WARP];
    gpu_launch(s, "rotate", gpu_grid{.blocks = dim3(1), .threads = GPU_WARP}, rotate, to, bug);
    stream_copy(s, got, to, sizeof got);
    if (stream_check(s) != STATUS_OK) return false;
    for (int i = 0; i < GPU_WARP; i++)
        if (!(got[i] == (float)((i + 2) % GPU_WARP))) return false;
    return true;
}

/* ---- two halves: one makes numbers, the other takes them ---- */

enum { HALF = THREADS / 2, FULL = 1, EMPTY = 2, ROUNDS = 4 };

static __global__ void halves(float *to, int bug) {
    GPU_SHARED(struct room, room);
    const int i = (int)threadIdx.x % HALF;
    int all = bug == HALVES_TOO_MANY ? 4 * THREADS : THREADS + 0;
    if (threadIdx.x < HALF) {
        if (bug == HALVES_COUNT) all = HALF;
        for (int round = 0; round < ROUNDS; round++) {
            if (round > 0) gpu_barrier(EMPTY, THREADS);
            room.number[i] = (float)(round * HALF + i);
            gpu_barrier_arrive(FULL, all);
        }
        return;
    }
    float sum = 0.0f;
    for (int round = 0; round < ROUNDS; round++) {
        gpu_barrier(bug == HALVES_OTHER_BARRIER ? 3 : FULL + 0, all);
        sum += room.number[HALF - 1 - i];
        if (round + 1 < ROUNDS) gpu_barrier_arrive(EMPTY, THREADS);
    }
    to[i] = sum;
}

static bool run_halves(struct stream *s, const struct device *gpu, int bug) {
    float *to = device_numbers(gpu), got[HALF];
    gpu_launch(s, "halves", gpu_grid{.blocks = dim3(1), .threads = THREADS}, halves, to, bug);
    stream_copy(s, got, to, sizeof got);
    if (stream_check(s) != STATUS_OK) return false;
    for (int i = 0; i < HALF; i++)
        if (!(got[i] == (float)(ROUNDS * (HALF - 1 - i) + HALF * ROUNDS * (ROUNDS - 1) / 2)))
            return false;
    return true;
}

/* ---- the last block adds ---- */

struct turn {
    int number;
};

static __global__ void add_all(float *sum, float *parts, int *arrived, int bug) {
    GPU_SHARED(struct turn, turn);
    const int i = (int)threadIdx.x;
    if (bug == LAST_NO_ATOMIC) {
        if (i == 0) *sum += 1.0f;
        return;
    }
    parts[blockIdx.x * THREADS + i] = 1.0f;
    if (bug == LAST_WAITS_FOR_NOBODY)
        while (gpu_load_acquire(arrived) == 0) {}
    if (bug != LAST_NO_BARRIER) __syncthreads();
    if (i == 0) {
        if (bug != LAST_NO_FENCE) __threadfence();
        turn.number = atomicAdd(arrived, 1);
    }
    __syncthreads();
    if (turn.number != BLOCKS - 1) return;
    if (i > 0) return;
    float total = 0.0f;
    for (int part = 0; part < COUNT; part++) total += parts[part];
    *sum = total;
    if (bug != LAST_NO_RESET) *arrived = 0;
}

static bool run_last(struct stream *s, const struct device *gpu, int bug) {
    float *parts = device_numbers(gpu), *sum = device_numbers(gpu), got;
    int *arrived = (int *)device_numbers(gpu);
    stream_fill(s, arrived, 0, sizeof *arrived);
    for (int launch = 0; launch < 2; launch++) {
        stream_fill(s, sum, 0, sizeof *sum);
        gpu_launch(s, "add_all", gpu_grid{.blocks = dim3(BLOCKS), .threads = THREADS}, add_all, sum,
                   parts, arrived, bug);
        stream_copy(s, &got, sum, sizeof got);
        if (stream_check(s) != STATUS_OK || !(got == (float)COUNT)) return false;
    }
    return true;
}

/* ---- the host ---- */

static bool run_host(struct stream *s, const struct device *gpu, int bug) {
    struct stream other;
    if (device_open_stream(gpu, &other) != STATUS_OK) return false;
    float *from = pinned_numbers(gpu), *half = device_numbers(gpu), *to = pinned_numbers(gpu);
    for (int i = 0; i < COUNT; i++) from[i] = (float)i;
    cudaEvent_t event;
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    struct gpu_grid grid = {
        .blocks = dim3(BLOCKS), .threads = THREADS, .shared = sizeof(struct room)};
    if (bug == HOST_READS_DEVICE) return half[3] == 0.0f;
    /* `other` (the younger) makes what s needs: under greedy the other way round */
    struct stream *first = bug == HOST_NO_EVENT ? s : &other, *second = first == s ? &other : s;
    gpu_launch(first, "there", grid, reverse, half, (const float *)from, numbers{}, 0);
    cudaEventRecord(event, (cudaStream_t)first->device);
    if (bug != HOST_NO_EVENT) cudaStreamWaitEvent((cudaStream_t)second->device, event);
    gpu_launch(second, "back", grid, reverse, to, (const float *)half, numbers{}, 0);
    if (bug != HOST_NO_CHECK && stream_check(second) != STATUS_OK) return false;
    for (int i = 0; i < COUNT; i++)
        if (!(to[i] == (float)i)) return false;
    return true;
}

/* A graph of two streams, replayed. */
static bool run_graph(struct stream *s, const struct device *gpu, int bug) {
    struct stream other;
    if (device_open_stream(gpu, &other) != STATUS_OK) return false;
    cudaStream_t main = (cudaStream_t)s->device, side = (cudaStream_t)other.device;
    float *from = pinned_numbers(gpu), *half = device_numbers(gpu), *to = pinned_numbers(gpu);
    cudaEvent_t fork, join;
    cudaEventCreateWithFlags(&fork, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&join, cudaEventDisableTiming);
    struct gpu_grid grid = {
        .blocks = dim3(BLOCKS), .threads = THREADS, .shared = sizeof(struct room)};
    cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal);
    cudaEventRecord(fork, main);
    cudaStreamWaitEvent(side, fork);
    gpu_launch(&other, "there", grid, reverse, half, (const float *)from, numbers{}, 0);
    if (bug == HOST_CAPTURE_ALLOCATES) device_scratch(s, 1000);
    if (bug == HOST_CAPTURE_WAITS && stream_check(s) == STATUS_OK) return true;
    cudaEventRecord(join, side);
    if (bug != HOST_CAPTURE_UNJOINED) cudaStreamWaitEvent(main, join);
    if (bug != HOST_CAPTURE_UNJOINED)
        gpu_launch(s, "back", grid, reverse, to, (const float *)half, numbers{}, 0);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    if (cudaStreamEndCapture(main, &graph) != cudaSuccess) return false;
    if (cudaGraphInstantiate(&exec, graph, 0) != cudaSuccess) return false;
    for (int turn = 0; turn < 3; turn++) {
        for (int i = 0; i < COUNT; i++) from[i] = (float)(i + turn);
        if (cudaGraphLaunch(exec, main) != cudaSuccess) return false;
        if (stream_check(s) != STATUS_OK) return false;
        for (int i = 0; i < COUNT; i++)
            if (!(to[i] == (float)(i + turn))) return false;
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return true;
}

extern "C" bool planted_core_run(struct stream *s, const struct device *gpu, int kind) {
    if (kind < WARP_RIGHT) return run_reverse(s, gpu, kind);
    if (kind < HALVES_RIGHT) return run_warp(s, gpu, kind);
    if (kind < LAST_RIGHT) return run_halves(s, gpu, kind);
    if (kind < HOST_RIGHT) return run_last(s, gpu, kind);
    if (kind < HOST_CAPTURE_ALLOCATES)
        return run_host(s, gpu, kind) && (kind != HOST_RIGHT || run_graph(s, gpu, kind));
    return run_graph(s, gpu, kind);
}
