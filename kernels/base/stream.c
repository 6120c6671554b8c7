#define _GNU_SOURCE
#include "kernels/base/stream.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
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
    (void)stream;
    memcpy(to, from, bytes);
}

enum status stream_check(struct stream *stream) {
    enum status status = stream->status;
    if (status == STATUS_OK) return STATUS_OK;
    stream->status = STATUS_OK;
    return status_fail(status, "op %s: %s", stream->failed_op, stream->reason);
}
