/* Writing GGUF version 3, little-endian. Source: the GGUF specification (ggml, docs/gguf.md).
 *
 *     struct gguf_metadata metadata = {0};
 *     gguf_put_string(&metadata, "general.architecture", "llama");
 *     gguf_put_u32(&metadata, "llama.block_count", 12);
 *     gguf_create(&sink, path, &metadata, specs, count)
 *     gguf_metadata_free(&metadata);
 *     ... the sink as in core/tensor_sink.h
 *
 * Tensors of any dtype that GGUF has can be declared and their stored bytes appended; what is
 * appended as fp32 is rounded to F32, F16, BF16 or Q8_0. */
#ifndef STRATA_CORE_GGUF_WRITE_H
#define STRATA_CORE_GGUF_WRITE_H

#include "core/tensor_sink.h"

/* Encoded key-value pairs. Start from zero. */
struct gguf_metadata {
    unsigned char *bytes;
    size_t used, capacity;
    uint64_t count;
    enum status status; /* the first failure to add: gguf_create reports it */
};

/* Each key once. What can't be added (no memory) is reported by gguf_create, so these return
 * nothing. Keys and values are copied. */
void gguf_put_string(struct gguf_metadata *metadata, const char *key, const char *text);
void gguf_put_u32(struct gguf_metadata *metadata, const char *key, uint32_t value);
void gguf_put_i32(struct gguf_metadata *metadata, const char *key, int32_t value);
void gguf_put_u64(struct gguf_metadata *metadata, const char *key, uint64_t value);
void gguf_put_f32(struct gguf_metadata *metadata, const char *key, float value);
void gguf_put_bool(struct gguf_metadata *metadata, const char *key, bool value);

/* Arrays; `element` is any type but GGUF_STRING and GGUF_ARRAY, `data` its little-endian values. */
void gguf_put_array(struct gguf_metadata *metadata, const char *key, enum gguf_type element,
                    const void *data, size_t count);
void gguf_put_strings(struct gguf_metadata *metadata, const char *key,
                      const struct gguf_string *strings, size_t count);

/* A pair of another file as it is, unless it is general.alignment: this writer has its own. */
void gguf_put_value(struct gguf_metadata *metadata, const struct gguf_value *value);

/* The pairs of another list. */
void gguf_put_all(struct gguf_metadata *metadata, const struct gguf_metadata *others);

/* May be called twice. */
void gguf_metadata_free(struct gguf_metadata *metadata);

/* Begins `path`, with data aligned to 32 (the default: general.alignment is not written). The
 * header is held against our own reader before it is believed: STATUS_FORMAT names a tensor or key
 * that is there twice, or a name longer than 64 bytes. STATUS_SHAPE names a tensor that can't be
 * stored, STATUS_UNSUPPORTED one whose dtype GGUF doesn't have. On failure the sink needs no close.
 */
enum status gguf_create(struct tensor_sink *sink, const char *path,
                        const struct gguf_metadata *metadata, const struct tensor_spec *specs,
                        int count);

#endif
