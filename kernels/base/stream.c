#define _GNU_SOURCE
#include "kernels/base/device.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void stream_open_cpu(struct stream *stream, int threads) {
    memset(stream, 0, sizeof *stream);
    if (threads <= 0) {
        cpu_set_t allowed;
        threads = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
    }
    stream->threads = threads < 1 ? 1 : threads;
}

void stream_fail(struct stream *stream, enum status status, const char *op, const char *format,
                 ...) {
    if (stream->status != STATUS_OK) return;
    stream->status = status;
    stream->failed_op = op;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(stream->reason, sizeof stream->reason, format, arguments);
    va_end(arguments);
}

void stream_copy(struct stream *stream, void *to, const void *from, size_t bytes) {
    if (bytes == 0) return;
    if (stream->calls)
        stream->calls->copy(stream, to, from, bytes);
    else
        memcpy(to, from, bytes);
}

void stream_fill(struct stream *stream, void *memory, int byte, size_t bytes) {
    if (bytes == 0) return;
    if (stream->calls)
        stream->calls->fill(stream, memory, byte, bytes);
    else
        memset(memory, byte, bytes);
}

void *device_scratch(struct stream *stream, size_t bytes) {
    if (stream->calls) return stream->calls->scratch(stream, bytes);
    if (bytes <= stream->scratch_bytes) return stream->scratch;
    free(stream->scratch);
    stream->scratch_bytes = 0;
    if (posix_memalign(&stream->scratch, 256, bytes) != 0) {
        stream->scratch = NULL;
        stream_fail(stream, STATUS_MEMORY, "device_scratch", "no memory for %zu bytes", bytes);
        return NULL;
    }
    stream->scratch_bytes = bytes;
    return stream->scratch;
}

void stream_close(struct stream *stream) {
    if (stream->calls)
        stream->calls->close(stream);
    else
        free(stream->scratch);
    memset(stream, 0, sizeof *stream);
}

enum status stream_check(struct stream *stream) {
    if (stream->calls) stream->calls->synchronize(stream);
    enum status status = stream->status;
    if (status == STATUS_OK) return STATUS_OK;
    stream->status = STATUS_OK;
    return status_fail(status, "op %s: %s", stream->failed_op, stream->reason);
}
