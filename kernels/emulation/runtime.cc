#include "kernels/emulation/runtime.h"

#include "kernels/emulation/memory.h"
#include <map>
#include <mutex>
#include <stdio.h>
#include <string.h>
#include <time.h>

namespace emulation {

enum { MOST_QUEUED = 4096 };

static struct runtime {
    std::recursive_mutex mutex;
    std::vector<cudaStream_t> streams;
    std::map<const void *, int> shared_limits; /* of kernels that asked for more */
    struct schedule schedule = {ROUND_ROBIN, 1};
    uint64_t steps; /* seeds each grid anew */
    int created;
    size_t queued;
    cudaError_t error;
} runtime;

static __thread const char *op_name;

std::recursive_mutex &runtime_mutex(void) {
    return runtime.mutex;
}

cudaError_t runtime_failed(cudaError_t error) {
    runtime.error = error;
    return error;
}

enum schedule_kind runtime_schedule(void) {
    return runtime.schedule.kind;
}

uint64_t runtime_draw(uint64_t limit) { /* splitmix64 */
    uint64_t mixed = (runtime.schedule.seed << 32) + ++runtime.steps * 0x9E3779B97F4A7C15ull;
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9ull;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBull;
    return (mixed ^ mixed >> 31) % limit;
}

/* ---- queues ---- */

static bool ready(const struct CUstream_st *stream) {
    if (stream->queue.empty()) return false;
    const struct work *work = &stream->queue.front();
    return !work->event || work->event->done >= work->version;
}

/* Does the first work of one stream that is ready: the oldest's under round_robin, the youngest's
 * under greedy. false: none is. */
static bool step(void) {
    size_t count = runtime.streams.size();
    size_t first = runtime.schedule.kind == SHUFFLED && count ? runtime_draw(count) : 0;
    for (size_t i = 0; i < count; i++) {
        size_t at = runtime.schedule.kind == GREEDY ? count - 1 - i : (first + i) % count;
        struct CUstream_st *stream = runtime.streams[at];
        if (!ready(stream)) continue;
        std::function<void(void)> run = std::move(stream->queue.front().run);
        stream->queue.pop_front();
        runtime.queued--;
        memory_unlock();
        if (run) run();
        return true;
    }
    return false;
}

static void run_until(const std::function<bool(void)> &done, const char *what) {
    while (!done())
        if (!step()) fail("%s: the streams wait for events that nothing records", what);
    memory_lock();
}

void runtime_enqueue(cudaStream_t stream, struct work work) {
    if (stream->capture) {
        capture_add(stream, std::move(work.run));
        return;
    }
    stream->queue.push_back(std::move(work));
    runtime.queued++;
    if (runtime.schedule.kind == GREEDY && runtime.queued < MOST_QUEUED) return;
    if (runtime.schedule.kind == SHUFFLED && runtime.queued < MOST_QUEUED && runtime_draw(4))
        return;
    size_t steps =
        runtime.schedule.kind == SHUFFLED ? 1 + runtime_draw(runtime.queued) : runtime.queued;
    while (steps-- > 0 && step())
        ;
    memory_lock();
}

static void wait_all(void) {
    run_until([] { return runtime.queued == 0; }, "cudaDeviceSynchronize");
}

} // namespace emulation

using namespace emulation;

/* ---- errors and the device ---- */

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
        return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
        return "cudaErrorNotReady";
    case cudaErrorStreamCaptureUnsupported:
        return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
        return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureIsolation:
        return "cudaErrorStreamCaptureIsolation";
    case cudaErrorStreamCaptureUnjoined:
        return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorStreamCaptureWrongThread:
        return "cudaErrorStreamCaptureWrongThread";
    }
    return "an unknown error";
}

const char *cudaGetErrorString(cudaError_t error) {
    return cudaGetErrorName(error);
}

cudaError_t cudaGetLastError(void) {
    guard lock(runtime.mutex);
    cudaError_t error = runtime.error;
    runtime.error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) {
    return runtime.error;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : runtime_failed(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    if (device != 0) return runtime_failed(cudaErrorInvalidDevice);
    memset(properties, 0, sizeof *properties);
    snprintf(properties->name, sizeof properties->name, "emulated GPU");
    properties->major = 9;
    properties->multiProcessorCount = 4;
    properties->totalGlobalMem = memory_total();
    properties->sharedMemPerBlockOptin = MAX_SHARED;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *total_bytes = memory_total();
    *free_bytes = memory_total() - memory_used();
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    guard lock(runtime.mutex);
    if (capture_forbids(nullptr)) return runtime_failed(cudaErrorStreamCaptureUnsupported);
    wait_all();
    return runtime.error;
}

/* ---- memory ---- */

static cudaError_t allocate(enum memory_kind kind, void **memory, size_t bytes) {
    guard lock(runtime.mutex);
    *memory = nullptr;
    if (capture_forbids(nullptr)) return runtime_failed(cudaErrorStreamCaptureUnsupported);
    if (bytes == 0) return cudaSuccess;
    *memory = memory_allocate(kind, bytes);
    return *memory ? cudaSuccess : runtime_failed(cudaErrorMemoryAllocation);
}

static cudaError_t release(enum memory_kind kind, void *memory) {
    guard lock(runtime.mutex);
    if (!memory) return cudaSuccess;
    if (capture_forbids(nullptr)) return runtime_failed(cudaErrorStreamCaptureUnsupported);
    wait_all();
    return memory_free(kind, memory) ? cudaSuccess : runtime_failed(cudaErrorInvalidValue);
}

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    return allocate(MEMORY_DEVICE, memory, bytes);
}

cudaError_t cudaFree(void *memory) {
    return release(MEMORY_DEVICE, memory);
}

cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) {
    return allocate(MEMORY_PINNED, memory, bytes);
}

cudaError_t cudaFreeHost(void *memory) {
    return release(MEMORY_PINNED, memory);
}

static bool in_bounds(const void *memory, size_t bytes) {
    struct memory_at at = memory_look(memory);
    return at.kind == MEMORY_HOST || at.bytes >= bytes;
}

/* From the host's own memory a copy takes what is there now; to it, it ends before the call does:
 * so CUDA promises for pageable memory. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind,
                            cudaStream_t stream) {
    guard lock(runtime.mutex);
    if (!stream || !in_bounds(to, bytes) || !in_bounds(from, bytes))
        return runtime_failed(cudaErrorInvalidValue);
    bool staged = memory_look(from).kind == MEMORY_HOST;
    bool waits = memory_look(to).kind == MEMORY_HOST;
    if (stream->capture && (staged || waits)) {
        capture_forbids(stream);
        return runtime_failed(cudaErrorStreamCaptureUnsupported);
    }
    std::vector<char> copy;
    if (staged) copy.assign((const char *)from, (const char *)from + bytes);
    runtime_enqueue(stream, {nullptr, 0, [=, copy = std::move(copy)] {
                                 memcpy(to, staged ? copy.data() : from, bytes);
                             }});
    return waits ? cudaStreamSynchronize(stream) : cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream) {
    guard lock(runtime.mutex);
    if (!stream || memory_look(memory).kind == MEMORY_HOST || !in_bounds(memory, bytes))
        return runtime_failed(cudaErrorInvalidValue);
    runtime_enqueue(stream, {nullptr, 0, [=] { memset(memory, value, bytes); }});
    return cudaSuccess;
}

/* ---- streams and events ---- */

/* The schedule is read when the first of the streams opens, and when all are idle. */
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    guard lock(runtime.mutex);
    if (runtime.queued == 0) runtime.schedule = schedule_from_environment();
    *stream = new CUstream_st{runtime.created++, {}, nullptr, {}};
    runtime.streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    guard lock(runtime.mutex);
    if (!stream) return runtime_failed(cudaErrorInvalidResourceHandle);
    run_until([=] { return stream->queue.empty(); }, "cudaStreamDestroy");
    for (size_t i = 0; i < runtime.streams.size(); i++)
        if (runtime.streams[i] == stream) runtime.streams.erase(runtime.streams.begin() + (long)i);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    guard lock(runtime.mutex);
    if (stream && capture_forbids(stream)) return runtime_failed(cudaErrorStreamCaptureUnsupported);
    if (!stream) return runtime_failed(cudaErrorInvalidResourceHandle);
    run_until([=] { return stream->queue.empty(); }, "cudaStreamSynchronize");
    return runtime.error;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    guard lock(runtime.mutex);
    if (stream && capture_forbids(stream)) return runtime_failed(cudaErrorStreamCaptureUnsupported);
    if (stream->queue.empty()) return cudaSuccess;
    step();
    memory_lock();
    return cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    guard lock(runtime.mutex);
    if (!stream || !event) return runtime_failed(cudaErrorInvalidResourceHandle);
    if (event->capture || stream->capture) return capture_wait(stream, event);
    runtime_enqueue(stream, {event, event->recorded, nullptr});
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new CUevent_st{0, 0, 0.0, nullptr, {}};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    guard lock(runtime.mutex);
    if (!event) return runtime_failed(cudaErrorInvalidResourceHandle);
    wait_all(); /* streams still name it */
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    guard lock(runtime.mutex);
    if (!stream || !event) return runtime_failed(cudaErrorInvalidResourceHandle);
    capture_record(event, stream);
    if (stream->capture) return cudaSuccess;
    uint64_t version = ++event->recorded;
    runtime_enqueue(stream, {nullptr, 0, [=] {
                                 struct timespec now;
                                 clock_gettime(CLOCK_MONOTONIC, &now);
                                 event->seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
                                 if (event->done < version) event->done = version;
                             }});
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    guard lock(runtime.mutex);
    if (event->done >= event->recorded) return cudaSuccess;
    step();
    memory_lock();
    return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    guard lock(runtime.mutex);
    uint64_t version = event->recorded;
    run_until([=] { return event->done >= version; }, "cudaEventSynchronize");
    return runtime.error;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    if (start->done < start->recorded || end->done < end->recorded)
        return runtime_failed(cudaErrorNotReady);
    *milliseconds = (float)(1e3 * (end->seconds - start->seconds));
    return cudaSuccess;
}

/* ---- launches ---- */

void emulation_name_op(const char *op) {
    op_name = op;
}

void emulation_check_argument(int number, const void *pointer) {
    if (pointer && memory_look(pointer).kind == MEMORY_HOST)
        fail("op %s: argument %d points to the host's own memory", op_name, number);
}

cudaError_t emulation_function_attribute(const void *function, enum cudaFuncAttribute, int value) {
    guard lock(runtime.mutex);
    if (value > MAX_SHARED) return runtime_failed(cudaErrorInvalidValue);
    runtime.shared_limits[function] = value;
    return cudaSuccess;
}

static bool fits(const struct launch *launch, int limit) {
    const dim3 *grid = &launch->grid;
    return grid->x >= 1 && grid->y >= 1 && grid->z >= 1 && grid->x <= 0x7fffffff &&
           grid->y <= 65535 && grid->z <= 65535 && launch->threads >= 1 &&
           launch->threads <= MAX_THREADS && launch->dynamic_bytes <= (size_t)limit &&
           launch->cluster >= 1 && launch->cluster <= 16 &&
           grid->x % (unsigned)launch->cluster == 0;
}

cudaError_t emulation_launch(const struct cudaLaunchConfig_t *config, const void *function,
                             struct emulation_call call) {
    guard lock(runtime.mutex);
    struct launch launch = {};
    launch.op = op_name;
    launch.grid = config->gridDim;
    launch.threads = (int)config->blockDim.x;
    launch.dynamic_bytes = config->dynamicSmemBytes;
    launch.cluster = 1;
    launch.invoke = call.invoke;
    launch.held = call.arguments;
    launch.arguments = call.arguments.get();
    launch.argument_bytes = call.bytes;
    for (unsigned i = 0; i < config->numAttrs; i++)
        if (config->attrs[i].id == cudaLaunchAttributeClusterDimension)
            launch.cluster = (int)config->attrs[i].val.clusterDim.x;
    auto asked = runtime.shared_limits.find(function);
    int limit = asked == runtime.shared_limits.end() ? DEFAULT_SHARED + 0 : asked->second;
    if (!config->stream) return runtime_failed(cudaErrorInvalidResourceHandle);
    if (config->blockDim.y != 1 || config->blockDim.z != 1 || !fits(&launch, limit))
        return runtime_failed(cudaErrorInvalidConfiguration);
    runtime_enqueue(config->stream, {nullptr, 0, [launch = std::move(launch)]() mutable {
                                         struct schedule schedule = runtime.schedule;
                                         schedule.seed += runtime.steps++;
                                         run_grid(&launch, schedule);
                                         memory_check();
                                     }});
    return cudaSuccess;
}
