#define _GNU_SOURCE
#include "core/tensor_sink.h"

#include "core/model_file_internal.h"
#include "kernels/base/printable.h"
#include "kernels/dequantize.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ELEMENTS = 16384 }; /* converted at a time; a multiple of every block */

enum status tensor_spec_measure(const struct tensor_spec *spec, struct file_tensor *out) {
    char text[PRINTABLE_SIZE];
    printable(text, sizeof text, spec->name, strlen(spec->name));
    assert(spec->dims >= 0 && spec->dims <= TENSOR_MAX_DIMS);
    *out = (struct file_tensor){.dtype = spec->dtype, .dims = spec->dims};
    memcpy(out->shape, spec->shape, sizeof out->shape);
    const struct dtype_info *info = dtype_info(spec->dtype);
    int64_t row = spec->dims ? spec->shape[spec->dims - 1] : 1;
    if (row % info->block_elements != 0)
        return status_fail(STATUS_SHAPE,
                           "tensor %s: rows of %lld elements can't be stored as %s (blocks of %d)",
                           text, (long long)row, info->name, info->block_elements);
    if (!file_tensor_measure(out))
        return status_fail(STATUS_SHAPE, "tensor %s: its shape is negative or overflows", text);
    return STATUS_OK;
}

struct sink_tensor *sink_tensors_create(const struct tensor_spec *specs, int count) {
    struct sink_tensor *tensors = calloc((size_t)count + 1, sizeof *tensors);
    bool failed = !tensors;
    for (int i = 0; !failed && i < count; i++) {
        tensors[i] = (struct sink_tensor){.name = strdup(specs[i].name), .dtype = specs[i].dtype};
        failed = !tensors[i].name;
    }
    if (!failed) return tensors;
    sink_tensors_free(tensors, count);
    return NULL;
}

void sink_tensors_free(struct sink_tensor *tensors, int count) {
    for (int i = 0; tensors && i < count; i++) free(tensors[i].name);
    free(tensors);
}

/* Steps to the next tensor with bytes to write. */
static void skip_written(struct tensor_sink *sink) {
    while (sink->current < sink->count && sink->done == sink->tensors[sink->current].bytes) {
        sink->current++;
        sink->done = 0;
    }
}

enum status tensor_sink_create(struct tensor_sink *sink, const char *path,
                               struct sink_tensor *tensors, int count, const void *header,
                               size_t header_bytes, uint64_t total) {
    *sink = (struct tensor_sink){.file.descriptor = -1, .tensors = tensors, .count = count};
    enum status status = atomic_file_create(&sink->file, path, total);
    if (status == STATUS_OK) status = atomic_file_write(&sink->file, 0, header, header_bytes);
    if (status != STATUS_OK) tensor_sink_close(sink);
    skip_written(sink);
    return status;
}

const char *tensor_sink_current(const struct tensor_sink *sink) {
    return sink->current < sink->count ? sink->tensors[sink->current].name : NULL;
}

enum status tensor_sink_append(struct tensor_sink *sink, const void *data, size_t bytes) {
    if (bytes == 0) return STATUS_OK;
    assert(sink->current < sink->count);
    const struct sink_tensor *tensor = &sink->tensors[sink->current];
    assert(bytes <= tensor->bytes - sink->done);
    TRY(atomic_file_write(&sink->file, tensor->offset + sink->done, data, bytes));
    sink->done += bytes;
    skip_written(sink);
    return STATUS_OK;
}

enum status tensor_sink_append_f32(struct tensor_sink *sink, const float *data, size_t count) {
    if (count == 0) return STATUS_OK;
    assert(sink->current < sink->count);
    enum dtype dtype = sink->tensors[sink->current].dtype;
    if (dtype == DTYPE_F32) return tensor_sink_append(sink, data, count * sizeof *data);
    unsigned char chunk[CHUNK_ELEMENTS * 2]; /* no type that is converted to takes more */
    while (count > 0) {
        size_t elements = count < CHUNK_ELEMENTS ? count : CHUNK_ELEMENTS;
        char text[PRINTABLE_SIZE];
        const char *name = sink->tensors[sink->current].name;
        if (!quantize(chunk, dtype, data, elements))
            return status_fail(STATUS_UNSUPPORTED, "%s: tensor %s can't be written as %s",
                               sink->file.path, printable(text, sizeof text, name, strlen(name)),
                               dtype_info(dtype)->name);
        TRY(tensor_sink_append(sink, chunk, dtype_bytes(dtype, elements)));
        data += elements;
        count -= elements;
    }
    return STATUS_OK;
}

enum status tensor_sink_finish(struct tensor_sink *sink) {
    assert(sink->current == sink->count);
    return atomic_file_commit(&sink->file);
}

void tensor_sink_close(struct tensor_sink *sink) {
    atomic_file_close(&sink->file);
    sink_tensors_free(sink->tensors, sink->count);
    *sink = (struct tensor_sink){.file.descriptor = -1};
}
