/* What the readers and writers of the two formats share; nothing else includes it. A reader fills
 * the tables of a struct model_file from bytes that it doesn't trust; the dispatcher owns the
 * mappings and builds nothing that a reader hasn't checked. */
#ifndef STRATA_CORE_MODEL_FILE_INTERNAL_H
#define STRATA_CORE_MODEL_FILE_INTERNAL_H

#include "core/model_file.h"
#include "core/name_index.h"

/* A file whose bytes are mapped (or borrowed, when `mapped` is false). */
struct model_source {
    char *path;
    const unsigned char *bytes;
    size_t size;
    bool mapped;
};

struct model_file_internal {
    int source_count, source_capacity;
    struct model_source **sources; /* each allocated alone: tensors point at their paths */
    int tensor_capacity, note_capacity;
    struct name_index tensor_names, value_keys;
};

enum { GGUF_MAX_DIMS = 4, GGUF_MAX_NAME = 64, GGUF_DEFAULT_ALIGNMENT = 32 };

/* The dtype with ggml's number. false for those that don't exist, or that ggml retired (4, 5,
 * 31-33, 36-38). */
bool gguf_dtype(uint32_t number, enum dtype *dtype);

/* Bytes of a value of fixed size; 0 for strings and arrays. */
size_t gguf_scalar_bytes(enum gguf_type type);

/* Parses one whole GGUF file. Messages don't name the file; the caller puts its path before. */
enum status gguf_parse(struct model_file *file, const struct model_source *source,
                       bool header_only);

/* Parses one safetensors file and appends its tensors (sorted by offset) and notes. Where `keep`
 * is not NULL, only the tensors it returns true for are appended. */
typedef bool (*safetensors_keep)(const void *context, const char *name);
enum status safetensors_parse(struct model_file *file, const struct model_source *source,
                              bool header_only, safetensors_keep keep, const void *context);

/* Reads path (model.safetensors.index.json or the like) and parses every shard it names. */
enum status safetensors_parse_index(struct model_file *file, const char *path, bool header_only);

/* Maps a regular file. Messages name the path. */
enum status model_file_map(struct model_file *file, const char *path,
                           const struct model_source **source);

/* Copies the tensor and its name (`name_bytes` long, without NUL) into the tables.
 * STATUS_FORMAT for a name that is there already. */
enum status model_file_add_tensor(struct model_file *file, const struct file_tensor *tensor,
                                  const char *name, size_t name_bytes);

/* elements = the product of shape, bytes = what the dtype takes for them.
 * false when a number is negative or the product doesn't fit in int64_t. */
bool file_tensor_measure(struct file_tensor *tensor);

#endif
