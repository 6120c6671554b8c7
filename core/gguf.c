/* GGUF v2 and v3, little-endian. Source: the GGUF specification (ggml, docs/gguf.md):
 *
 *     "GGUF" | version u32 | tensors u64 | values u64
 *     values:  key string, type u32, value (string: u64 bytes + text; array: type, u64 count, ...)
 *     tensors: name string, dims u32, dims x u64 (innermost first), type u32, offset u64
 *     padding to general.alignment | data, each tensor padded to it, in the tensors' order
 *
 * Where the specification leaves room (nested arrays, gaps between tensors, the padding of the
 * last one) this reader asks for what ggml's own reader asks for. */
#include "core/model_file_internal.h"

#include "kernels/base/printable.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    GGUF_MAX_KEY = 65535,
    GGUF_MIN_VALUE_BYTES = 8 + 4 + 1,      /* an empty key, a type, one byte */
    GGUF_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8, /* an empty name, no dims, a type, an offset */
};

struct cursor {
    const unsigned char *bytes;
    size_t size, at;
};

static size_t left(const struct cursor *cursor) {
    return cursor->size - cursor->at;
}

static enum status take(struct cursor *cursor, void *out, size_t bytes, const char *what) {
    if (bytes > left(cursor))
        return status_fail(STATUS_FORMAT, "the file ends inside %s at byte %zu", what,
                           cursor->size);
    memcpy(out, cursor->bytes + cursor->at, bytes);
    cursor->at += bytes;
    return STATUS_OK;
}

static enum status take_string(struct cursor *cursor, struct gguf_string *out, const char *what) {
    uint64_t bytes = 0;
    TRY(take(cursor, &bytes, sizeof bytes, what));
    if (bytes > left(cursor))
        return status_fail(STATUS_FORMAT,
                           "%s at byte %zu claims %" PRIu64 " bytes, the file has %zu left", what,
                           cursor->at, bytes, left(cursor));
    *out = (struct gguf_string){(const char *)cursor->bytes + cursor->at, (size_t)bytes};
    cursor->at += (size_t)bytes;
    return STATUS_OK;
}

size_t gguf_scalar_bytes(enum gguf_type type) {
    static const unsigned char bytes[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2,  [GGUF_I16] = 2,    [GGUF_U32] = 4,
        [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_STRING] = 0, [GGUF_ARRAY] = 0,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    return bytes[type];
}

static enum status take_type(struct cursor *cursor, enum gguf_type *type) {
    uint32_t number = 0;
    TRY(take(cursor, &number, sizeof number, "a value's type"));
    if (number > GGUF_F64)
        return status_fail(STATUS_FORMAT, "value type %" PRIu32 " does not exist", number);
    *type = (enum gguf_type)number;
    return STATUS_OK;
}

/* Steps over `count` values of one type. */
static enum status skip_values(struct cursor *cursor, enum gguf_type type, uint64_t count) {
    size_t bytes = type == GGUF_STRING ? sizeof(uint64_t) : gguf_scalar_bytes(type);
    if (count > left(cursor) / bytes)
        return status_fail(STATUS_FORMAT, "%" PRIu64 " elements don't fit in the %zu bytes left",
                           count, left(cursor));
    if (type == GGUF_STRING) {
        struct gguf_string string;
        for (uint64_t i = 0; i < count; i++) TRY(take_string(cursor, &string, "a string"));
        return STATUS_OK;
    }
    cursor->at += (size_t)count * bytes;
    return STATUS_OK;
}

static enum status parse_value(struct cursor *cursor, struct gguf_value *value) {
    TRY(take_type(cursor, &value->type));
    value->count = 1;
    value->element_type = value->type;
    if (value->type == GGUF_ARRAY) {
        TRY(take_type(cursor, &value->element_type));
        if (value->element_type == GGUF_ARRAY)
            return status_fail(STATUS_FORMAT, "an array of arrays is not supported");
        TRY(take(cursor, &value->count, sizeof value->count, "an array's count"));
    }
    value->data = cursor->bytes + cursor->at;
    return skip_values(cursor, value->element_type, value->count);
}

static enum status parse_key(struct cursor *cursor, struct gguf_string *key) {
    TRY(take_string(cursor, key, "a key"));
    if (key->bytes == 0 || key->bytes > GGUF_MAX_KEY)
        return status_fail(STATUS_FORMAT, "a key of %zu bytes", key->bytes);
    if (memchr(key->text, '\0', key->bytes))
        return status_fail(STATUS_FORMAT, "a key holds a NUL character");
    return STATUS_OK;
}

static enum status parse_values(struct model_file *file, struct cursor *cursor, uint64_t count) {
    if (count > left(cursor) / GGUF_MIN_VALUE_BYTES || count > INT32_MAX)
        return status_fail(STATUS_FORMAT,
                           "%" PRIu64 " metadata values don't fit in a file of %zu bytes", count,
                           cursor->size);
    file->values = calloc((size_t)count + 1, sizeof *file->values);
    if (!file->values) return status_fail(STATUS_MEMORY, "no memory for %" PRIu64 " values", count);
    for (uint64_t i = 0; i < count; i++) {
        struct gguf_value *value = &file->values[i];
        char name[PRINTABLE_SIZE];
        enum status status = parse_key(cursor, &value->key);
        if (status != STATUS_OK) return status_context(status, "metadata value %" PRIu64, i);
        printable(name, sizeof name, value->key.text, value->key.bytes);
        status = parse_value(cursor, value);
        if (status != STATUS_OK) return status_context(status, "metadata key %s", name);
        bool duplicate;
        TRY(name_index_add(&file->internal->value_keys, value->key.text, value->key.bytes,
                           (int32_t)i, &duplicate));
        if (duplicate) return status_fail(STATUS_FORMAT, "metadata key %s is there twice", name);
        file->value_count++;
    }
    return STATUS_OK;
}

static enum status parse_alignment(struct model_file *file) {
    file->alignment = GGUF_DEFAULT_ALIGNMENT;
    const struct gguf_value *value = gguf_find(file, "general.alignment");
    if (!value) return STATUS_OK;
    if (value->type != GGUF_U32)
        return status_fail(STATUS_FORMAT, "general.alignment is not a u32");
    memcpy(&file->alignment, value->data, sizeof file->alignment);
    if (file->alignment == 0 || (file->alignment & (file->alignment - 1)) != 0)
        return status_fail(STATUS_FORMAT, "general.alignment is %" PRIu32 ", not a power of two",
                           file->alignment);
    return STATUS_OK;
}

bool gguf_dtype(uint32_t number, enum dtype *dtype) {
    static const signed char table[] = {
        [0] = DTYPE_F32,
        [1] = DTYPE_F16,
        [2] = DTYPE_Q4_0,
        [3] = DTYPE_Q4_1,
        [4] = -1,
        [5] = -1,
        [6] = DTYPE_Q5_0,
        [7] = DTYPE_Q5_1,
        [8] = DTYPE_Q8_0,
        [9] = DTYPE_Q8_1,
        [10] = DTYPE_Q2_K,
        [11] = DTYPE_Q3_K,
        [12] = DTYPE_Q4_K,
        [13] = DTYPE_Q5_K,
        [14] = DTYPE_Q6_K,
        [15] = DTYPE_Q8_K,
        [16] = DTYPE_IQ2_XXS,
        [17] = DTYPE_IQ2_XS,
        [18] = DTYPE_IQ3_XXS,
        [19] = DTYPE_IQ1_S,
        [20] = DTYPE_IQ4_NL,
        [21] = DTYPE_IQ3_S,
        [22] = DTYPE_IQ2_S,
        [23] = DTYPE_IQ4_XS,
        [24] = DTYPE_I8,
        [25] = DTYPE_I16,
        [26] = DTYPE_I32,
        [27] = DTYPE_I64,
        [28] = DTYPE_F64,
        [29] = DTYPE_IQ1_M,
        [30] = DTYPE_BF16,
        [31] = -1,
        [32] = -1,
        [33] = -1,
        [34] = DTYPE_TQ1_0,
        [35] = DTYPE_TQ2_0,
        [36] = -1,
        [37] = -1,
        [38] = -1,
        [39] = DTYPE_MXFP4,
    };
    if (number >= sizeof table || table[number] < 0) return false;
    *dtype = (enum dtype)table[number];
    return true;
}

/* Dims, type and offset; `name` is printable. */
static enum status parse_layout(struct cursor *cursor, struct file_tensor *tensor,
                                uint64_t *offset) {
    uint32_t dims = 0, type = 0;
    TRY(take(cursor, &dims, sizeof dims, "a tensor's dimension count"));
    if (dims > GGUF_MAX_DIMS)
        return status_fail(STATUS_FORMAT, "%" PRIu32 " dimensions, at most %d are allowed", dims,
                           GGUF_MAX_DIMS);
    tensor->dims = (int)dims;
    for (uint32_t i = 0; i < dims; i++) {
        uint64_t size = 0;
        TRY(take(cursor, &size, sizeof size, "a tensor's dimensions"));
        if (size > INT64_MAX)
            return status_fail(STATUS_FORMAT, "dimension %" PRIu32 " is %" PRIu64, i, size);
        tensor->shape[dims - 1 - i] = (int64_t)size;
    }
    TRY(take(cursor, &type, sizeof type, "a tensor's type"));
    TRY(take(cursor, offset, sizeof *offset, "a tensor's offset"));
    if (!gguf_dtype(type, &tensor->dtype))
        return status_fail(STATUS_FORMAT, "tensor type %" PRIu32 " is unknown", type);
    const struct dtype_info *info = dtype_info(tensor->dtype);
    int64_t row = dims ? tensor->shape[dims - 1] : 1;
    if (row % info->block_elements != 0)
        return status_fail(STATUS_FORMAT, "rows of %" PRId64 " are not whole blocks of %s (%d)",
                           row, info->name, info->block_elements);
    if (!file_tensor_measure(tensor))
        return status_fail(STATUS_FORMAT, "the product of its dimensions overflows");
    return STATUS_OK;
}

/* Every tensor starts where the one before it ended, padded; *total is their sum so far. */
static enum status parse_tensor(struct model_file *file, struct cursor *cursor,
                                const struct model_source *source, uint64_t index,
                                uint64_t *total) {
    struct gguf_string name;
    struct file_tensor tensor = {.file = source->path};
    enum status status = take_string(cursor, &name, "a tensor's name");
    if (status == STATUS_OK && (name.bytes > GGUF_MAX_NAME || memchr(name.text, '\0', name.bytes)))
        status = status_fail(STATUS_FORMAT, "its name has %zu bytes (at most %d) or a NUL in it",
                             name.bytes, GGUF_MAX_NAME);
    if (status != STATUS_OK) return status_context(status, "tensor %" PRIu64, index);
    char text[PRINTABLE_SIZE];
    printable(text, sizeof text, name.text, name.bytes);
    uint64_t offset = 0, end;
    status = parse_layout(cursor, &tensor, &offset);
    if (status != STATUS_OK) return status_context(status, "tensor %s", text);
    if (offset != *total)
        return status_fail(STATUS_FORMAT,
                           "tensor %s: its offset is %" PRIu64 ", expected %" PRIu64
                           " (alignment %" PRIu32 ")",
                           text, offset, *total, file->alignment);
    if (__builtin_add_overflow(*total, (uint64_t)tensor.bytes + file->alignment - 1, &end) ||
        end > INT64_MAX)
        return status_fail(STATUS_FORMAT, "tensor %s: its end overflows", text);
    *total = end & ~(uint64_t)(file->alignment - 1);
    return model_file_add_tensor(file, &tensor, name.text, name.bytes);
}

/* Gives the tensors their pointers once it is known that the data is there. */
static enum status place_data(struct model_file *file, const struct cursor *cursor, uint64_t total,
                              bool header_only) {
    uint64_t mask = file->alignment - 1;
    uint64_t start = ((uint64_t)cursor->at + mask) & ~mask;
    file->data_present = total == 0 || cursor->size > start;
    if (!file->data_present && !header_only)
        return status_fail(STATUS_FORMAT, "only a header: the tensors' data is missing");
    if (!file->data_present || total == 0) return STATUS_OK;
    if (total > cursor->size - start)
        return status_fail(STATUS_FORMAT,
                           "the data is cut off: %" PRIu64 " bytes are needed, %" PRIu64
                           " are there",
                           total, cursor->size - start);
    const unsigned char *data = cursor->bytes + start;
    for (int i = 0; i < file->tensor_count; i++) {
        file->tensors[i].data = data;
        data += (file->tensors[i].bytes + mask) & ~mask;
    }
    return STATUS_OK;
}

static enum status parse_header(struct model_file *file, struct cursor *cursor,
                                uint64_t *tensor_count, uint64_t *value_count) {
    char magic[4] = {0};
    TRY(take(cursor, magic, sizeof magic, "the magic"));
    if (memcmp(magic, "GGUF", 4) != 0)
        return status_fail(STATUS_FORMAT, "not a GGUF file: its first bytes are not GGUF");
    TRY(take(cursor, &file->gguf_version, sizeof file->gguf_version, "the version"));
    if (file->gguf_version == __builtin_bswap32(2) || file->gguf_version == __builtin_bswap32(3))
        return status_fail(STATUS_UNSUPPORTED, "a big-endian GGUF file");
    if (file->gguf_version != 2 && file->gguf_version != 3)
        return status_fail(STATUS_UNSUPPORTED, "GGUF version %" PRIu32 ", only 2 and 3 are read",
                           file->gguf_version);
    TRY(take(cursor, tensor_count, sizeof *tensor_count, "the tensor count"));
    return take(cursor, value_count, sizeof *value_count, "the metadata count");
}

/* One part of a model split over several files can be looked at, not used. */
static enum status refuse_part(const struct model_file *file) {
    const struct gguf_value *value = gguf_find(file, "split.count");
    int64_t parts;
    if (value && gguf_get_i64(value, 0, &parts) && parts > 1)
        return status_fail(STATUS_UNSUPPORTED,
                           "one of the %" PRId64 " parts of a split model; merge them first",
                           parts);
    return STATUS_OK;
}

enum status gguf_parse(struct model_file *file, const struct model_source *source,
                       bool header_only) {
    struct cursor cursor = {.bytes = source->bytes, .size = source->size};
    uint64_t tensor_count = 0, value_count = 0, total = 0;
    file->format = MODEL_GGUF;
    TRY(parse_header(file, &cursor, &tensor_count, &value_count));
    TRY(parse_values(file, &cursor, value_count));
    TRY(parse_alignment(file));
    if (tensor_count > left(&cursor) / GGUF_MIN_TENSOR_BYTES || tensor_count > INT32_MAX)
        return status_fail(STATUS_FORMAT,
                           "%" PRIu64 " tensors don't fit in the %zu bytes after the metadata",
                           tensor_count, left(&cursor));
    for (uint64_t i = 0; i < tensor_count; i++) TRY(parse_tensor(file, &cursor, source, i, &total));
    TRY(place_data(file, &cursor, total, header_only));
    return header_only ? STATUS_OK : refuse_part(file);
}

const struct gguf_value *gguf_find(const struct model_file *file, const char *key) {
    if (!file->internal) return NULL;
    int32_t index = name_index_find(&file->internal->value_keys, key, strlen(key));
    return index < 0 ? NULL : &file->values[index];
}

bool gguf_get_i64(const struct gguf_value *value, uint64_t index, int64_t *out) {
    size_t bytes = gguf_scalar_bytes(value->element_type);
    if (bytes == 0 || index >= value->count) return false;
    union {
        uint64_t u64;
        int64_t i64;
        uint32_t u32;
        int32_t i32;
        uint16_t u16;
        int16_t i16;
        uint8_t u8;
        int8_t i8;
    } number = {0};
    memcpy(&number, (const char *)value->data + index * bytes, bytes);
    switch (value->element_type) {
    case GGUF_U8:
        *out = number.u8;
        return true;
    case GGUF_BOOL:
        *out = number.u8 != 0;
        return true;
    case GGUF_I8:
        *out = number.i8;
        return true;
    case GGUF_U16:
        *out = number.u16;
        return true;
    case GGUF_I16:
        *out = number.i16;
        return true;
    case GGUF_U32:
        *out = number.u32;
        return true;
    case GGUF_I32:
        *out = number.i32;
        return true;
    case GGUF_I64:
        *out = number.i64;
        return true;
    case GGUF_U64:
        *out = number.i64;
        return number.u64 <= INT64_MAX;
    default:
        return false;
    }
}

bool gguf_get_f64(const struct gguf_value *value, uint64_t index, double *out) {
    size_t bytes = gguf_scalar_bytes(value->element_type);
    if (bytes == 0 || index >= value->count) return false;
    const char *data = (const char *)value->data + index * bytes;
    if (value->element_type == GGUF_F64) {
        memcpy(out, data, sizeof *out);
        return true;
    }
    if (value->element_type == GGUF_F32) {
        float number;
        memcpy(&number, data, sizeof number);
        *out = (double)number;
        return true;
    }
    int64_t integer;
    if (!gguf_get_i64(value, index, &integer)) return false;
    *out = (double)integer;
    return true;
}

static const char *string_at(const char *data, struct gguf_string *out) {
    uint64_t bytes = 0;
    memcpy(&bytes, data, sizeof bytes);
    *out = (struct gguf_string){data + sizeof bytes, (size_t)bytes};
    return out->text + out->bytes;
}

bool gguf_get_string(const struct gguf_value *value, struct gguf_string *out) {
    if (value->type != GGUF_STRING) return false;
    string_at(value->data, out);
    return true;
}

bool gguf_strings(const struct gguf_value *value, struct gguf_string *out) {
    if (value->type != GGUF_ARRAY || value->element_type != GGUF_STRING) return false;
    const char *data = value->data;
    for (uint64_t i = 0; i < value->count; i++) data = string_at(data, &out[i]);
    return true;
}
