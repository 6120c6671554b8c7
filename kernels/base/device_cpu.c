#define _GNU_SOURCE
#include "kernels/base/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

enum { ALIGNMENT = 256 };

static enum status allocate(const struct device *device, void **memory, size_t bytes, bool shared) {
    (void)device, (void)shared;
    if (posix_memalign(memory, ALIGNMENT, bytes) == 0) return STATUS_OK;
    *memory = NULL;
    return status_fail(STATUS_MEMORY, "no memory for %zu bytes", bytes);
}

static void release(const struct device *device, void *memory, bool shared) {
    (void)device, (void)shared;
    free(memory);
}

static enum status open_stream(const struct device *device, struct stream *stream) {
    stream_open_cpu(stream, device->processors);
    return STATUS_OK;
}

static enum status memory(const struct device *device, size_t *free_bytes, size_t *total_bytes) {
    (void)device;
    struct sysinfo info;
    if (sysinfo(&info) != 0) return status_fail(STATUS_IO, "sysinfo failed");
    *free_bytes = (size_t)info.freeram * info.mem_unit;
    *total_bytes = (size_t)info.totalram * info.mem_unit;
    return STATUS_OK;
}

static const struct device_calls cpu = {allocate, release, open_stream, memory};

void device_open_cpu(struct device *device, int threads) {
    struct stream stream;
    stream_open_cpu(&stream, threads);
    *device = (struct device){.calls = &cpu, .name = "CPU", .processors = stream.threads};
}

enum status device_allocate(const struct device *device, void **memory, size_t bytes) {
    *memory = NULL;
    return bytes ? device->calls->allocate(device, memory, bytes, false) : STATUS_OK;
}

enum status device_allocate_shared(const struct device *device, void **memory, size_t bytes) {
    *memory = NULL;
    return bytes ? device->calls->allocate(device, memory, bytes, true) : STATUS_OK;
}

void device_free(const struct device *device, void *memory) {
    if (memory) device->calls->release(device, memory, false);
}

void device_free_shared(const struct device *device, void *memory) {
    if (memory) device->calls->release(device, memory, true);
}

enum status device_open_stream(const struct device *device, struct stream *stream) {
    return device->calls->open_stream(device, stream);
}

enum status device_memory(const struct device *device, size_t *free_bytes, size_t *total_bytes) {
    return device->calls->memory(device, free_bytes, total_bytes);
}
