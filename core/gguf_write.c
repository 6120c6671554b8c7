#include "core/gguf_write.h"

#include "core/model_file_internal.h"
#include "kernels/base/printable.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Appends to a growing buffer; after a failure nothing more is added. */
static void put(struct gguf_metadata *out, const void *data, size_t bytes) {
    if (out->status != STATUS_OK || bytes == 0) return;
    if (bytes > out->capacity - out->used) {
        size_t capacity = 2 * (out->used + bytes);
        unsigned char *grown = realloc(out->bytes, capacity);
        if (!grown) {
            out->status = status_fail(STATUS_MEMORY, "no memory for %zu bytes of header", capacity);
            return;
        }
        out->bytes = grown;
        out->capacity = capacity;
    }
    memcpy(out->bytes + out->used, data, bytes);
    out->used += bytes;
}

static void put_number_u32(struct gguf_metadata *out, uint32_t value) {
    put(out, &value, sizeof value);
}

static void put_number_u64(struct gguf_metadata *out, uint64_t value) {
    put(out, &value, sizeof value);
}

static void put_text(struct gguf_metadata *out, const char *text, size_t bytes) {
    put_number_u64(out, bytes);
    put(out, text, bytes);
}

static void put_scalar(struct gguf_metadata *metadata, const char *key, enum gguf_type type,
                       const void *value) {
    put_text(metadata, key, strlen(key));
    put_number_u32(metadata, type);
    put(metadata, value, gguf_scalar_bytes(type));
    metadata->count++;
}

void gguf_put_string(struct gguf_metadata *metadata, const char *key, const char *text) {
    put_text(metadata, key, strlen(key));
    put_number_u32(metadata, GGUF_STRING);
    put_text(metadata, text, strlen(text));
    metadata->count++;
}

void gguf_put_u32(struct gguf_metadata *metadata, const char *key, uint32_t value) {
    put_scalar(metadata, key, GGUF_U32, &value);
}

void gguf_put_i32(struct gguf_metadata *metadata, const char *key, int32_t value) {
    put_scalar(metadata, key, GGUF_I32, &value);
}

void gguf_put_u64(struct gguf_metadata *metadata, const char *key, uint64_t value) {
    put_scalar(metadata, key, GGUF_U64, &value);
}

void gguf_put_f32(struct gguf_metadata *metadata, const char *key, float value) {
    put_scalar(metadata, key, GGUF_F32, &value);
}

void gguf_put_bool(struct gguf_metadata *metadata, const char *key, bool value) {
    uint8_t byte = value;
    put_scalar(metadata, key, GGUF_BOOL, &byte);
}

static void put_array_head(struct gguf_metadata *metadata, const char *key, enum gguf_type element,
                           size_t count) {
    put_text(metadata, key, strlen(key));
    put_number_u32(metadata, GGUF_ARRAY);
    put_number_u32(metadata, element);
    put_number_u64(metadata, count);
    metadata->count++;
}

void gguf_put_array(struct gguf_metadata *metadata, const char *key, enum gguf_type element,
                    const void *data, size_t count) {
    assert(element != GGUF_STRING && element != GGUF_ARRAY);
    put_array_head(metadata, key, element, count);
    put(metadata, data, count * gguf_scalar_bytes(element));
}

void gguf_put_strings(struct gguf_metadata *metadata, const char *key,
                      const struct gguf_string *strings, size_t count) {
    put_array_head(metadata, key, GGUF_STRING, count);
    for (size_t i = 0; i < count; i++) put_text(metadata, strings[i].text, strings[i].bytes);
}

/* Bytes of `count` values as the file stores them. */
static size_t stored_bytes(const struct gguf_value *value) {
    size_t bytes = gguf_scalar_bytes(value->element_type);
    if (bytes > 0) return bytes * (size_t)value->count;
    const char *data = value->data;
    for (uint64_t i = 0; i < value->count; i++) {
        uint64_t text;
        memcpy(&text, data + bytes, sizeof text);
        bytes += sizeof text + (size_t)text;
    }
    return bytes;
}

void gguf_put_value(struct gguf_metadata *metadata, const struct gguf_value *value) {
    static const char alignment[] = "general.alignment";
    if (value->key.bytes == strlen(alignment) &&
        memcmp(value->key.text, alignment, value->key.bytes) == 0)
        return;
    put_text(metadata, value->key.text, value->key.bytes);
    put_number_u32(metadata, value->type);
    if (value->type == GGUF_ARRAY) {
        put_number_u32(metadata, value->element_type);
        put_number_u64(metadata, value->count);
    }
    put(metadata, value->data, stored_bytes(value));
    metadata->count++;
}

void gguf_put_all(struct gguf_metadata *metadata, const struct gguf_metadata *others) {
    if (metadata->status == STATUS_OK) metadata->status = others->status;
    put(metadata, others->bytes, others->used);
    metadata->count += others->count;
}

void gguf_metadata_free(struct gguf_metadata *metadata) {
    free(metadata->bytes);
    *metadata = (struct gguf_metadata){0};
}

/* ggml's number of a dtype. */
static enum status ggml_number(const struct tensor_spec *spec, uint32_t *number) {
    for (*number = 0; *number < 256; ++*number) {
        enum dtype dtype;
        if (gguf_dtype(*number, &dtype) && dtype == spec->dtype) return STATUS_OK;
    }
    char text[PRINTABLE_SIZE];
    return status_fail(STATUS_UNSUPPORTED, "tensor %s: GGUF has no %s",
                       printable(text, sizeof text, spec->name, strlen(spec->name)),
                       dtype_info(spec->dtype)->name);
}

static uint64_t padded(uint64_t bytes) {
    return (bytes + GGUF_DEFAULT_ALIGNMENT - 1) / GGUF_DEFAULT_ALIGNMENT * GGUF_DEFAULT_ALIGNMENT;
}

/* The tensors' part of the header; their offsets and bytes go to `tensors` (offsets still counted
 * from the start of the data), the bytes of all to *total. */
static enum status put_tensors(struct gguf_metadata *header, const struct tensor_spec *specs,
                               struct sink_tensor *tensors, int count, uint64_t *total) {
    for (int i = 0; i < count; i++) {
        const struct tensor_spec *spec = &specs[i];
        struct file_tensor measured;
        uint32_t number;
        TRY(tensor_spec_measure(spec, &measured));
        TRY(ggml_number(spec, &number));
        put_text(header, spec->name, strlen(spec->name));
        put_number_u32(header, (uint32_t)spec->dims);
        for (int d = spec->dims - 1; d >= 0; d--) put_number_u64(header, (uint64_t)spec->shape[d]);
        put_number_u32(header, number);
        put_number_u64(header, *total);
        tensors[i].offset = *total;
        tensors[i].bytes = measured.bytes;
        if (measured.bytes > (uint64_t)INT64_MAX / 2 - *total)
            return status_fail(STATUS_SHAPE, "the tensors take more bytes than a file can have");
        *total += padded(measured.bytes);
    }
    return header->status;
}

/* What our own reader refuses must not be written. */
static enum status check_header(const struct gguf_metadata *header) {
    struct model_file file;
    TRY(model_file_open_bytes(&file, header->bytes, header->used, "header", true));
    uint32_t alignment = file.alignment;
    model_file_close(&file);
    if (alignment == GGUF_DEFAULT_ALIGNMENT) return STATUS_OK;
    return status_fail(STATUS_FORMAT, "general.alignment must not be set");
}

static enum status build_header(struct gguf_metadata *header, const struct gguf_metadata *metadata,
                                const struct tensor_spec *specs, struct sink_tensor *tensors,
                                int count, uint64_t *total) {
    static const unsigned char zeros[GGUF_DEFAULT_ALIGNMENT];
    if (metadata->status != STATUS_OK)
        return status_fail(metadata->status, "its metadata could not be built");
    put(header, "GGUF", 4);
    put_number_u32(header, 3);
    put_number_u64(header, (uint64_t)count);
    put_number_u64(header, metadata->count);
    put(header, metadata->bytes, metadata->used);
    TRY(put_tensors(header, specs, tensors, count, total));
    put(header, zeros, (size_t)(padded(header->used) - header->used));
    TRY(header->status);
    return check_header(header);
}

/* The last tensor's padding is asked for by readers, but nobody appends it. */
static enum status end_padding(struct tensor_sink *sink, uint64_t end, uint64_t total) {
    static const unsigned char zeros[GGUF_DEFAULT_ALIGNMENT];
    enum status status = atomic_file_write(&sink->file, end, zeros, (size_t)(total - end));
    if (status != STATUS_OK) tensor_sink_close(sink);
    return status;
}

enum status gguf_create(struct tensor_sink *sink, const char *path,
                        const struct gguf_metadata *metadata, const struct tensor_spec *specs,
                        int count) {
    *sink = (struct tensor_sink){.file.descriptor = -1};
    struct gguf_metadata header = {0};
    struct sink_tensor *tensors = sink_tensors_create(specs, count);
    uint64_t total = 0, end = 0;
    enum status status = tensors ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for tensors");
    if (status == STATUS_OK)
        status = build_header(&header, metadata, specs, tensors, count, &total);
    if (status != STATUS_OK) {
        status_context(status, "%s", path);
        sink_tensors_free(tensors, count);
        gguf_metadata_free(&header);
        return status;
    }
    for (int i = 0; i < count; i++) {
        tensors[i].offset += header.used;
        end = tensors[i].offset + tensors[i].bytes;
    }
    total += header.used;
    status = tensor_sink_create(sink, path, tensors, count, header.bytes, header.used, total);
    if (status == STATUS_OK && count > 0) status = end_padding(sink, end, total);
    gguf_metadata_free(&header);
    return status;
}
