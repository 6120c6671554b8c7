#include "core/safetensors_write.h"

#include "kernels/base/printable.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where a tensor's data goes: its place in the layout and its bytes. */
struct placed {
    int index;
    int alignment;
    uint64_t bytes, begin;
};

static int compare_placed(const void *left, const void *right) {
    const struct placed *a = left, *b = right;
    if (a->alignment != b->alignment) return b->alignment - a->alignment;
    return a->index - b->index;
}

/* The layout, in the order of the data, or NULL with a status. */
static enum status place(const struct tensor_spec *specs, int count, struct placed **out,
                         uint64_t *total) {
    struct placed *placed = calloc((size_t)count + 1, sizeof *placed);
    if (!placed) return status_fail(STATUS_MEMORY, "no memory for %d tensors", count);
    *out = placed;
    for (int i = 0; i < count; i++) {
        struct file_tensor tensor;
        TRY(tensor_spec_measure(&specs[i], &tensor));
        const struct dtype_info *info = dtype_info(specs[i].dtype);
        placed[i] = (struct placed){
            .index = i,
            .alignment = info->block_elements == 1 ? info->block_bytes : 1,
            .bytes = tensor.bytes,
        };
    }
    qsort(placed, (size_t)count, sizeof *placed, compare_placed);
    *total = 0;
    for (int i = 0; i < count; i++) {
        placed[i].begin = *total;
        if (__builtin_add_overflow(*total, placed[i].bytes, total) || *total > INT64_MAX)
            return status_fail(STATUS_SHAPE, "the tensors take more bytes than a file can have");
    }
    return STATUS_OK;
}

static enum status bad_name(const char *what, const char *name) {
    char text[PRINTABLE_SIZE];
    return status_fail(STATUS_FORMAT, "%s %s is there twice, is not UTF-8 or can't be one", what,
                       printable(text, sizeof text, name, strlen(name)));
}

static enum status add_notes(json_t *header, const struct file_note *notes, int count) {
    if (count == 0) return STATUS_OK;
    json_t *metadata = json_object();
    if (json_object_set_new(header, "__metadata__", metadata) != 0)
        return status_fail(STATUS_MEMORY, "no memory for metadata");
    for (int i = 0; i < count; i++)
        if (json_object_get(metadata, notes[i].key) ||
            json_object_set_new(metadata, notes[i].key, json_string(notes[i].value)) != 0)
            return bad_name("metadata", notes[i].key);
    return STATUS_OK;
}

static enum status add_tensors(json_t *header, const struct tensor_spec *specs,
                               const struct placed *placed, int count) {
    for (int i = 0; i < count; i++) {
        const struct tensor_spec *spec = &specs[placed[i].index];
        json_t *shape = json_array();
        for (int d = 0; d < spec->dims; d++)
            json_array_append_new(shape, json_integer(spec->shape[d]));
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_info(spec->dtype)->name,
                                  "shape", shape, "data_offsets", (json_int_t)placed[i].begin,
                                  (json_int_t)(placed[i].begin + placed[i].bytes));
        if (json_object_get(header, spec->name) || strcmp(spec->name, "__metadata__") == 0) {
            json_decref(entry);
            return bad_name("tensor", spec->name);
        }
        if (json_object_set_new(header, spec->name, entry) != 0)
            return bad_name("tensor", spec->name);
    }
    return STATUS_OK;
}

/* The header with its length before it, padded to a multiple of 8; the caller frees it. */
static enum status write_header(const json_t *header, char **out, size_t *bytes) {
    char *text = json_dumps(header, JSON_COMPACT);
    size_t length = text ? strlen(text) : 0, padded = (length + 7) / 8 * 8;
    *out = text ? malloc(8 + padded + 1) : NULL;
    if (*out) {
        uint64_t size = padded;
        memcpy(*out, &size, sizeof size);
        memcpy(*out + 8, text, length);
        memset(*out + 8 + length, ' ', padded - length);
        *bytes = 8 + padded;
    }
    free(text);
    return *out ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory for the header");
}

/* What our own reader refuses must not be written: a dtype of GGUF, say. */
static enum status check_header(const char *header, size_t bytes) {
    struct model_file file;
    TRY(model_file_open_bytes(&file, header, bytes, "header", true));
    model_file_close(&file);
    return STATUS_OK;
}

static enum status begin_file(struct tensor_sink *sink, const char *path,
                              const struct tensor_spec *specs, const struct placed *placed,
                              int count, const char *header, size_t header_bytes, uint64_t total) {
    if (total > (uint64_t)INT64_MAX - header_bytes)
        return status_fail(STATUS_SHAPE, "the tensors take more bytes than a file can have");
    struct sink_tensor *tensors = sink_tensors_create(specs, count);
    if (!tensors) return status_fail(STATUS_MEMORY, "no memory for %d tensors", count);
    for (int i = 0; i < count; i++) {
        tensors[placed[i].index].offset = header_bytes + placed[i].begin;
        tensors[placed[i].index].bytes = placed[i].bytes;
    }
    return tensor_sink_create(sink, path, tensors, count, header, header_bytes,
                              header_bytes + total);
}

enum status safetensors_create(struct tensor_sink *sink, const char *path,
                               const struct tensor_spec *specs, int count,
                               const struct file_note *notes, int note_count) {
    *sink = (struct tensor_sink){.file.descriptor = -1};
    struct placed *placed = NULL;
    uint64_t total = 0;
    char *text = NULL;
    size_t bytes = 0;
    json_t *header = json_object();
    enum status status = place(specs, count, &placed, &total);
    if (status == STATUS_OK) status = add_notes(header, notes, note_count);
    if (status == STATUS_OK) status = add_tensors(header, specs, placed, count);
    if (status == STATUS_OK) status = write_header(header, &text, &bytes);
    if (status == STATUS_OK) status = check_header(text, bytes);
    if (status == STATUS_OK)
        status = begin_file(sink, path, specs, placed, count, text, bytes, total);
    else
        status_context(status, "%s", path);
    json_decref(header);
    free(placed);
    free(text);
    return status;
}
