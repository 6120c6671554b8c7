/* Where exports write tensors to: a safetensors or GGUF file whose header is written already (by
 * safetensors_create or gguf_create), into which the tensors' data is streamed. The caller never
 * needs to know which of the two formats it is:
 *
 *     safetensors_create(&sink, path, specs, count, notes, note_count)   or gguf_create(...)
 *     for each tensor, in the order declared:
 *         tensor_sink_append_f32(&sink, rows, elements)                  any number of times
 *     tensor_sink_finish(&sink)
 *     tensor_sink_close(&sink)
 *
 * The file appears under its name when tensor_sink_finish returns STATUS_OK, and not before; any
 * failure leaves no file, and the old one where there was one. */
#ifndef STRATA_CORE_TENSOR_SINK_H
#define STRATA_CORE_TENSOR_SINK_H

#include "core/atomic_file.h"
#include "core/model_file.h"
#include <stdint.h>

/* A tensor to be written; shape outermost first. */
struct tensor_spec {
    const char *name;
    enum dtype dtype;
    int dims;
    int64_t shape[TENSOR_MAX_DIMS];
};

struct sink_tensor {
    char *name;
    enum dtype dtype;
    uint64_t offset; /* of its data in the file */
    uint64_t bytes;
};

struct tensor_sink {
    struct atomic_file file;
    struct sink_tensor *tensors; /* in the order declared */
    int count;
    int current;   /* the tensor being written */
    uint64_t done; /* its bytes written so far */
};

/* More bytes of the current tensor, as its dtype stores them; whole elements or not. Must not run
 * past its end. The next call after its last byte writes the next tensor that has any. */
enum status tensor_sink_append(struct tensor_sink *sink, const void *data, size_t bytes);

/* More elements (whole blocks) of the current tensor from fp32, rounded to its dtype as
 * kernels/dequantize.h says: F32, F16, BF16 or Q8_0, STATUS_UNSUPPORTED for others. */
enum status tensor_sink_append_f32(struct tensor_sink *sink, const float *data, size_t count);

/* The name of the tensor that the next append writes to; NULL when all are written. */
const char *tensor_sink_current(const struct tensor_sink *sink);

/* Puts the file in its place. That every tensor is written whole by then is the caller's part. */
enum status tensor_sink_finish(struct tensor_sink *sink);

/* Gives everything back, and removes what was not finished. May be called twice, and on a zeroed
 * struct. */
void tensor_sink_close(struct tensor_sink *sink);

/* For the formats: computes elements and bytes of a spec and checks what both formats ask of one.
 * STATUS_SHAPE names it. */
enum status tensor_spec_measure(const struct tensor_spec *spec, struct file_tensor *out);

/* For the formats: makes the file of `total` bytes with `header` at its start, and takes over the
 * offsets. `tensors` (allocated, names included) belong to the sink from here on, whatever the
 * status; a failed sink is closed. */
enum status tensor_sink_create(struct tensor_sink *sink, const char *path,
                               struct sink_tensor *tensors, int count, const void *header,
                               size_t header_bytes, uint64_t total);

/* For the formats: `count` zeroed tensors with the specs' names and dtypes, or NULL. */
struct sink_tensor *sink_tensors_create(const struct tensor_spec *specs, int count);
void sink_tensors_free(struct sink_tensor *tensors, int count); /* NULL is fine */

#endif
