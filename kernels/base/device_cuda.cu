/* A GPU as a device: memory and streams through CUDA's runtime. */
#include "kernels/gpu/launch.h"
#include "kernels/product_cuda.h"

#include <cuda_runtime.h>

static enum status failed(const char *what, cudaError_t error) {
    enum status status = error == cudaErrorMemoryAllocation ? STATUS_MEMORY : STATUS_DEVICE;
    cudaGetLastError(); /* told: it need not stick to the next call */
    return status_fail(status, "%s: %s (%s)", what, cudaGetErrorName(error),
                       cudaGetErrorString(error));
}

#define CUDA_TRY(what, call)                                                                       \
    do {                                                                                           \
        cudaError_t error_ = (call);                                                               \
        if (error_ != cudaSuccess) return failed(what, error_);                                    \
    } while (0)

/* ---- streams ---- */

static void copy(struct stream *stream, void *to, const void *from, size_t bytes) {
    gpu_note(stream, "copy",
             cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, (cudaStream_t)stream->device));
}

static void fill(struct stream *stream, void *memory, int byte, size_t bytes) {
    gpu_note(stream, "fill", cudaMemsetAsync(memory, byte, bytes, (cudaStream_t)stream->device));
}

static void synchronize(struct stream *stream) {
    gpu_note(stream, "stream_check", cudaStreamSynchronize((cudaStream_t)stream->device));
}

static void *scratch(struct stream *stream, size_t bytes) {
    if (bytes <= stream->scratch_bytes) return stream->scratch;
    synchronize(stream);
    cudaFree(stream->scratch);
    stream->scratch = NULL;
    stream->scratch_bytes = 0;
    cudaError_t error = cudaMalloc(&stream->scratch, bytes);
    gpu_note(stream, "device_scratch", error);
    if (error == cudaSuccess) stream->scratch_bytes = bytes;
    return stream->scratch;
}

static void close_stream(struct stream *stream) {
    product_library_close(stream->products);
    cudaFree(stream->scratch);
    cudaStreamDestroy((cudaStream_t)stream->device);
}

static const struct stream_calls stream_calls = {copy, fill, synchronize, scratch, close_stream};

static enum status open_stream(const struct device *device, struct stream *stream) {
    memset(stream, 0, sizeof *stream);
    stream->threads = 1;
    CUDA_TRY("cudaSetDevice", cudaSetDevice(device->ordinal));
    cudaStream_t handle;
    CUDA_TRY("cudaStreamCreate", cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking));
    stream->device = handle;
    stream->calls = &stream_calls;
    return STATUS_OK;
}

/* ---- memory ---- */

static enum status allocate(const struct device *device, void **memory, size_t bytes, bool shared) {
    CUDA_TRY("cudaSetDevice", cudaSetDevice(device->ordinal));
    cudaError_t error =
        shared ? cudaHostAlloc(memory, bytes, cudaHostAllocMapped | cudaHostAllocPortable)
               : cudaMalloc(memory, bytes);
    if (error == cudaSuccess) return STATUS_OK;
    *memory = NULL;
    cudaGetLastError();
    return status_fail(error == cudaErrorMemoryAllocation ? STATUS_MEMORY : STATUS_DEVICE,
                       "%zu bytes of %s memory on GPU %d: %s", bytes, shared ? "pinned" : "device",
                       device->ordinal, cudaGetErrorString(error));
}

static void release(const struct device *device, void *memory, bool shared) {
    cudaSetDevice(device->ordinal);
    if (shared)
        cudaFreeHost(memory);
    else
        cudaFree(memory);
}

static enum status memory(const struct device *device, size_t *free_bytes, size_t *total_bytes) {
    CUDA_TRY("cudaSetDevice", cudaSetDevice(device->ordinal));
    CUDA_TRY("cudaMemGetInfo", cudaMemGetInfo(free_bytes, total_bytes));
    return STATUS_OK;
}

static const struct device_calls device_calls = {allocate, release, open_stream, memory};

enum status device_open_cuda(struct device *device, int ordinal) {
    int count = 0;
    CUDA_TRY("no GPU can be used", cudaGetDeviceCount(&count));
    if (ordinal < 0 || ordinal >= count)
        return status_fail(STATUS_DEVICE, "there is no GPU %d: this process sees %d", ordinal,
                           count);
    struct cudaDeviceProp properties;
    CUDA_TRY("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, ordinal));
    memset(device, 0, sizeof *device);
    device->calls = &device_calls;
    snprintf(device->name, sizeof device->name, "%.63s", properties.name);
    device->ordinal = ordinal;
    device->capability = 10 * properties.major + properties.minor;
    device->processors = properties.multiProcessorCount;
#ifdef STRATA_EMULATION
    device->is_emulated = true;
#endif
    return STATUS_OK;
}
