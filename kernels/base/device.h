/* Where tensors and streams live: a CPU, or one GPU. Two kinds of memory:
 *   device memory   activations, weights, gradients, optimizer state, KV pages. On a GPU the host
 *                   must not touch it: stream_copy, stream_fill and ops do.
 *   shared memory   small arrays that the host fills and ops read, or the other way round (tokens,
 *                   positions, page tables, losses): pinned, one address for both. What an op wrote
 *                   may be read after stream_check.
 * On a CPU both are plain memory. Fresh memory is not initialised; it is aligned to 256 bytes. */
#ifndef STRATA_KERNELS_BASE_DEVICE_H
#define STRATA_KERNELS_BASE_DEVICE_H

#include "kernels/base/status.h"
#include "kernels/base/stream.h"
#include <stdbool.h>
#include <stddef.h>

struct device;

/* What a kind of device can do; the functions below say what each means. */
struct device_calls {
    enum status (*allocate)(const struct device *device, void **memory, size_t bytes, bool shared);
    void (*release)(const struct device *device, void *memory, bool shared);
    enum status (*open_stream)(const struct device *device, struct stream *stream);
    enum status (*memory)(const struct device *device, size_t *free_bytes, size_t *total_bytes);
};

struct device {
    const struct device_calls *calls;
    char name[64];    /* "CPU", "NVIDIA H100 80GB HBM3", "emulated GPU" */
    int ordinal;      /* of the GPUs that this process sees */
    int capability;   /* 10 * major + minor of a GPU's compute capability; 0: a CPU */
    int processors;   /* streaming multiprocessors; a CPU: threads of a stream that is opened */
    bool is_emulated; /* a GPU's kernels run on the CPU */
};

/* threads as stream_open_cpu's. */
void device_open_cpu(struct device *device, int threads);

/* GPU number `ordinal`. STATUS_UNSUPPORTED where this program is built without CUDA, STATUS_DEVICE
 * where there is no such GPU or no driver. */
enum status device_open_cuda(struct device *device, int ordinal);

/* STATUS_MEMORY when the bytes are not there. bytes = 0 gives NULL. */
enum status device_allocate(const struct device *device, void **memory, size_t bytes);
enum status device_allocate_shared(const struct device *device, void **memory, size_t bytes);

/* Waits for the device first. NULL is nothing. */
void device_free(const struct device *device, void *memory);
void device_free_shared(const struct device *device, void *memory);

/* A stream of its own order; stream_close ends it. A stream of a GPU is used by one thread. */
enum status device_open_stream(const struct device *device, struct stream *stream);

/* Bytes that are free and all bytes of the device's memory; a CPU's: of the machine. */
enum status device_memory(const struct device *device, size_t *free_bytes, size_t *total_bytes);

/* Workspace of the stream, for one op: what the last op left there is gone, and ops on the stream
 * take turns. It grows when asked for more than ever before (and then waits for the stream), so
 * never in a captured graph. NULL, and the stream failed, when there is no memory. */
void *device_scratch(struct stream *stream, size_t bytes);

#endif
