/* A model as it lies on disk: a directory or file of safetensors (single, or sharded by
 * model.safetensors.index.json), or a GGUF file. Memory-mapped and validated when opened: every
 * offset, shape and size is checked against the file before any of it is believed. Nothing of the
 * tensors' data is read until asked for; so a file must not be cut short while it is open (the
 * system answers with SIGBUS). Writers rename a new file over the old one instead.
 *
 * Sources: safetensors README (format section); GGUF specification (ggml docs/gguf.md). */
#ifndef STRATA_CORE_MODEL_FILE_H
#define STRATA_CORE_MODEL_FILE_H

#include "kernels/base/dtype.h"
#include "kernels/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TENSOR_MAX_DIMS = 8 };

enum model_format { MODEL_SAFETENSORS, MODEL_GGUF };

/* A tensor of the file. Shape is outermost first (row-major), as safetensors writes it: GGUF's
 * dimensions are reversed on reading. Data is mapped, read-only, not necessarily aligned. */
struct file_tensor {
    const char *name;
    enum dtype dtype;
    int dims;
    int64_t shape[TENSOR_MAX_DIMS];
    int64_t elements;
    size_t bytes;
    const void *data; /* NULL where the file ends before the data (header-only files) */
    const char *file; /* path of the file that holds it */
};

/* A GGUF metadata value. Strings are (pointer, length) into the mapping, not terminated. */
enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

struct gguf_string {
    const char *text;
    size_t bytes;
};

struct gguf_value {
    struct gguf_string key;
    enum gguf_type type;
    enum gguf_type element_type; /* of an array */
    uint64_t count;              /* elements of an array, 1 otherwise */
    const void *data;            /* the (first) value in the mapping, unaligned, little-endian */
};

/* A line of a safetensors header's __metadata__. */
struct file_note {
    const char *key, *value;
};

struct model_file {
    enum model_format format;
    char *path;      /* as given */
    char *directory; /* where companions (config.json, tokenizer.json) are looked for */
    int tensor_count;
    struct file_tensor *tensors; /* in file order, shards in index order */
    int value_count;
    struct gguf_value *values; /* GGUF metadata; 0 for safetensors */
    int note_count;
    struct file_note *notes; /* safetensors __metadata__, of all shards; 0 for GGUF */
    bool data_present;       /* false for a header without data, which only inspection opens */
    uint32_t gguf_version;
    uint32_t alignment;
    struct model_file_internal *internal; /* mappings, names and their index */
};

/* Opens a .gguf, a .safetensors, an index .json, or a directory holding one of these. With
 * `header_only` (inspection) a file that ends with its header is accepted too; one that holds a
 * part of its data never is. A directory is searched for model.safetensors, then
 * model.safetensors.index.json, adapter_model.safetensors, then the only file with such an ending.
 * On failure the message is one line that names the file and the field, and `file` is zeroed. */
enum status model_file_open(struct model_file *file, const char *path, bool header_only);

/* The same for a single file whose bytes are in memory already and outlive `file`; `name` stands
 * for the path in messages. Bytes that start as a GGUF file are one, all others are safetensors. */
enum status model_file_open_bytes(struct model_file *file, const void *bytes, size_t size,
                                  const char *name, bool header_only);

/* May be called twice, and on a zeroed struct. */
void model_file_close(struct model_file *file);

/* NULL when absent. O(1). */
const struct file_tensor *model_file_find(const struct model_file *file, const char *name);

/* GGUF metadata by key; NULL when absent. O(1). */
const struct gguf_value *gguf_find(const struct model_file *file, const char *key);

/* Scalars and strings of a value; `index` picks an array's element. Integers of any width and
 * sign convert when they fit; false when the type doesn't fit the question. String access is
 * sequential inside arrays: use gguf_strings for whole arrays. A boolean reads as 0 or 1. */
bool gguf_get_i64(const struct gguf_value *value, uint64_t index, int64_t *out);
bool gguf_get_f64(const struct gguf_value *value, uint64_t index, double *out);
bool gguf_get_string(const struct gguf_value *value, struct gguf_string *out);

/* All strings of a string array, in order; `out` has room for value->count. */
bool gguf_strings(const struct gguf_value *value, struct gguf_string *out);

/* `count` elements from element `first` of a tensor, as fp32, whatever its dtype. first and count
 * must be multiples of the dtype's block. STATUS_UNSUPPORTED names tensor and dtype. */
enum status file_tensor_read_f32(const struct file_tensor *tensor, int64_t first, int64_t count,
                                 float *out);

#endif
