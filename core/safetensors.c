#define _GNU_SOURCE
/* safetensors, one file or sharded. Source: the safetensors README (format section):
 *
 *     header bytes u64 | JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ...} |
 * data
 *
 * The data is covered exactly: no overlaps, no gaps, nothing after it. */
#include "core/model_file_internal.h"

#include "core/json_util.h"
#include "kernels/base/printable.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX_BYTES = 100 * 1000 * 1000 }; /* the reference implementation's limit */

struct entry {
    const char *name; /* borrowed from the JSON */
    struct file_tensor tensor;
    int64_t begin, end;
};

static bool dtype_of_name(const char *name, enum dtype *dtype) {
    static const enum dtype dtypes[] = {
        DTYPE_F32,     DTYPE_F16,     DTYPE_BF16,    DTYPE_F64,     DTYPE_I8,
        DTYPE_I16,     DTYPE_I32,     DTYPE_I64,     DTYPE_U8,      DTYPE_BOOL,
        DTYPE_U16,     DTYPE_U32,     DTYPE_U64,     DTYPE_C64,     DTYPE_F8_E4M3,
        DTYPE_F8_E5M2, DTYPE_F8_E8M0, DTYPE_F6_E2M3, DTYPE_F6_E3M2, DTYPE_F4,
    };
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtype_info(dtypes[i])->name, name) == 0) {
            *dtype = dtypes[i];
            return true;
        }
    return false;
}

static enum status parse_shape(const json_t *shape, struct file_tensor *tensor) {
    size_t dims = json_array_size(shape);
    if (dims > TENSOR_MAX_DIMS)
        return status_fail(STATUS_UNSUPPORTED, "%zu dimensions, at most %d are read", dims,
                           TENSOR_MAX_DIMS);
    tensor->dims = (int)dims;
    for (size_t i = 0; i < dims; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return status_fail(STATUS_FORMAT, "shape[%zu] is not a whole number", i);
        tensor->shape[i] = json_integer_value(size);
    }
    return STATUS_OK;
}

/* `name` is "tensor " and its printable name. */
static enum status parse_entry(const json_t *object, const char *name, struct entry *entry) {
    const char *dtype;
    json_t *shape, *offsets;
    TRY(json_field_string(object, name, "dtype", JSON_REQUIRED, &dtype));
    TRY(json_field_array(object, name, "shape", JSON_REQUIRED, &shape));
    TRY(json_field_array(object, name, "data_offsets", JSON_REQUIRED, &offsets));
    char text[32];
    if (!dtype_of_name(dtype, &entry->tensor.dtype))
        return status_fail(STATUS_FORMAT, "%s: dtype %s is unknown", name,
                           printable(text, sizeof text, dtype, strlen(dtype)));
    enum status status = parse_shape(shape, &entry->tensor);
    if (status != STATUS_OK) return status_context(status, "%s", name);
    if (!file_tensor_measure(&entry->tensor))
        return status_fail(STATUS_FORMAT, "%s: its shape overflows or is not whole blocks of %s",
                           name, dtype);
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return status_fail(STATUS_FORMAT, "%s: data_offsets must be two integers", name);
    entry->begin = json_integer_value(begin);
    entry->end = json_integer_value(end);
    if (entry->begin < 0 || entry->begin > entry->end)
        return status_fail(STATUS_FORMAT, "%s: data_offsets are reversed or negative", name);
    if ((uint64_t)(entry->end - entry->begin) != entry->tensor.bytes)
        return status_fail(STATUS_FORMAT,
                           "%s: its offsets span %" PRId64 " bytes, its shape needs %zu", name,
                           entry->end - entry->begin, entry->tensor.bytes);
    return STATUS_OK;
}

static enum status add_note(struct model_file *file, const char *key, const char *value) {
    struct model_file_internal *internal = file->internal;
    if (file->note_count == internal->note_capacity) {
        int capacity = internal->note_capacity ? 2 * internal->note_capacity : 16;
        struct file_note *notes = realloc(file->notes, (size_t)capacity * sizeof *notes);
        if (!notes) return status_fail(STATUS_MEMORY, "no memory for %d notes", capacity);
        file->notes = notes;
        internal->note_capacity = capacity;
    }
    struct file_note note = {strdup(key), strdup(value)};
    file->notes[file->note_count++] = note;
    if (!note.key || !note.value) return status_fail(STATUS_MEMORY, "no memory for a note");
    return STATUS_OK;
}

/* Some writers put null where they have no metadata. */
static enum status parse_notes(struct model_file *file, json_t *metadata) {
    if (json_is_null(metadata)) return STATUS_OK;
    if (!json_is_object(metadata))
        return status_fail(STATUS_FORMAT, "__metadata__ must be an object");
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value) {
        char text[PRINTABLE_SIZE];
        if (!json_is_string(value))
            return status_fail(STATUS_FORMAT, "__metadata__: %s must be a string",
                               printable(text, sizeof text, key, strlen(key)));
        TRY(add_note(file, key, json_string_value(value)));
    }
    return STATUS_OK;
}

static int compare_entries(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end) return a->end < b->end ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* `entries` sorted by offset; the data must be covered exactly by them. */
static enum status check_coverage(const struct entry *entries, size_t count, uint64_t data_bytes,
                                  bool data_present) {
    int64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        char text[PRINTABLE_SIZE];
        if (entries[i].begin != at)
            return status_fail(
                STATUS_FORMAT, "tensor %s begins at %" PRId64 ", expected %" PRId64 ": the data %s",
                printable(text, sizeof text, entries[i].name, strlen(entries[i].name)),
                entries[i].begin, at, entries[i].begin < at ? "overlaps" : "has a gap");
        at = entries[i].end;
    }
    if (data_present && (uint64_t)at != data_bytes)
        return status_fail(STATUS_FORMAT,
                           "the tensors take %" PRId64 " bytes, the file has %" PRIu64, at,
                           data_bytes);
    return STATUS_OK;
}

/* All entries of the header but its metadata; *out has room for them. */
static enum status parse_entries(struct model_file *file, json_t *header, struct entry *out,
                                 size_t *count) {
    const char *name;
    json_t *object;
    json_object_foreach(header, name, object) {
        if (strcmp(name, "__metadata__") == 0) {
            TRY(parse_notes(file, object));
            continue;
        }
        char text[PRINTABLE_SIZE] = "tensor ";
        printable(text + 7, sizeof text - 7, name, strlen(name));
        if (!json_is_object(object))
            return status_fail(STATUS_FORMAT, "%s must be an object", text);
        struct entry *entry = &out[*count];
        *entry = (struct entry){.name = name};
        TRY(parse_entry(object, text, entry));
        ++*count;
    }
    qsort(out, *count, sizeof *out, compare_entries);
    return STATUS_OK;
}

static enum status add_entries(struct model_file *file, const struct model_source *source,
                               size_t data_start, bool header_only, json_t *header,
                               struct entry *entries, safetensors_keep keep, const void *context) {
    size_t count = 0;
    TRY(parse_entries(file, header, entries, &count));
    size_t data_bytes = source->size - data_start;
    bool present = data_bytes > 0 || count == 0 || entries[count - 1].end == 0;
    if (!present && !header_only)
        return status_fail(STATUS_FORMAT, "only a header: the tensors' data is missing");
    TRY(check_coverage(entries, count, data_bytes, present));
    file->data_present = file->data_present && present;
    for (size_t i = 0; i < count; i++) {
        struct file_tensor *tensor = &entries[i].tensor;
        if (keep && !keep(context, entries[i].name)) continue;
        tensor->file = source->path;
        tensor->data = present ? source->bytes + data_start + entries[i].begin : NULL;
        TRY(model_file_add_tensor(file, tensor, entries[i].name, strlen(entries[i].name)));
    }
    return STATUS_OK;
}

enum status safetensors_parse(struct model_file *file, const struct model_source *source,
                              bool header_only, safetensors_keep keep, const void *context) {
    uint64_t bytes;
    file->format = MODEL_SAFETENSORS;
    if (source->size < sizeof bytes)
        return status_fail(STATUS_FORMAT, "%zu bytes are too few for a safetensors file",
                           source->size);
    memcpy(&bytes, source->bytes, sizeof bytes);
    if (bytes > HEADER_MAX_BYTES)
        return status_fail(STATUS_FORMAT,
                           "not a safetensors file: its header would have %" PRIu64
                           " bytes, at most %d are allowed",
                           bytes, HEADER_MAX_BYTES);
    if (bytes > source->size - sizeof bytes)
        return status_fail(STATUS_FORMAT, "the file ends inside its header of %" PRIu64 " bytes",
                           bytes);
    json_t *header;
    TRY(json_parse_bytes(&header, (const char *)source->bytes + sizeof bytes, (size_t)bytes,
                         "header", JSON_REJECT_DUPLICATES));
    struct entry *entries = calloc(json_object_size(header) + 1, sizeof *entries);
    enum status status = STATUS_OK;
    if (!json_is_object(header))
        status = status_fail(STATUS_FORMAT, "the header is not a JSON object");
    else if (!entries)
        status = status_fail(STATUS_MEMORY, "no memory for %zu tensors", json_object_size(header));
    else
        status = add_entries(file, source, sizeof bytes + (size_t)bytes, header_only, header,
                             entries, keep, context);
    free(entries);
    json_decref(header);
    return status;
}

struct shard {
    const json_t *weight_map;
    const char *name;
};

static bool in_shard(const void *context, const char *tensor) {
    const struct shard *shard = context;
    const char *home = json_string_value(json_object_get(shard->weight_map, tensor));
    return home && strcmp(home, shard->name) == 0;
}

/* A shard lies beside its index: a hostile index must not reach other folders. */
static enum status open_shard(struct model_file *file, const struct shard *shard,
                              bool header_only) {
    char text[PRINTABLE_SIZE];
    printable(text, sizeof text, shard->name, strlen(shard->name));
    if (!*shard->name || *shard->name == '.' || strchr(shard->name, '/'))
        return status_fail(STATUS_FORMAT, "weight_map: %s is not the name of a file beside it",
                           text);
    size_t size = strlen(file->directory) + strlen(shard->name) + 2;
    char *path = malloc(size);
    if (!path) return status_fail(STATUS_MEMORY, "no memory for the path of %s", text);
    snprintf(path, size, "%s/%s", file->directory, shard->name);
    const struct model_source *source;
    enum status status = model_file_map(file, path, &source);
    if (status == STATUS_OK) {
        status = safetensors_parse(file, source, header_only, in_shard, shard);
        if (status != STATUS_OK) status_context(status, "shard %s", text);
    }
    free(path);
    return status;
}

/* Each shard once, in the order the index first names it. */
static enum status open_shards(struct model_file *file, json_t *map, struct name_index *opened,
                               bool header_only) {
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value) {
        char text[PRINTABLE_SIZE];
        struct shard shard = {map, json_string_value(value)};
        bool duplicate;
        if (!shard.name)
            return status_fail(STATUS_FORMAT, "weight_map: %s must be a file name",
                               printable(text, sizeof text, tensor, strlen(tensor)));
        TRY(name_index_add(opened, shard.name, strlen(shard.name), 0, &duplicate));
        if (!duplicate) TRY(open_shard(file, &shard, header_only));
    }
    json_object_foreach(map, tensor, value) {
        char text[PRINTABLE_SIZE];
        if (!model_file_find(file, tensor))
            return status_fail(STATUS_FORMAT, "weight_map: tensor %s is not in %s",
                               printable(text, sizeof text, tensor, strlen(tensor)),
                               json_string_value(value));
    }
    return STATUS_OK;
}

enum status safetensors_parse_index(struct model_file *file, const char *path, bool header_only) {
    json_t *index, *map;
    file->format = MODEL_SAFETENSORS;
    TRY(json_parse_file(&index, path));
    struct name_index opened = {0};
    enum status status = json_field_object(index, path, "weight_map", JSON_REQUIRED, &map);
    if (status == STATUS_OK) {
        status = open_shards(file, map, &opened, header_only);
        if (status != STATUS_OK) status_context(status, "%s", path);
    }
    name_index_free(&opened);
    json_decref(index);
    return status;
}
