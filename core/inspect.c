#include "core/inspect.h"

#include "core/model_file.h"
#include "kernels/base/printable.h"
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_ELEMENTS = 8, SHOWN_TEXT = 100 };

static const char *const type_names[] = {
    [GGUF_U8] = "u8",         [GGUF_I8] = "i8",       [GGUF_U16] = "u16", [GGUF_I16] = "i16",
    [GGUF_U32] = "u32",       [GGUF_I32] = "i32",     [GGUF_F32] = "f32", [GGUF_BOOL] = "bool",
    [GGUF_STRING] = "string", [GGUF_ARRAY] = "array", [GGUF_U64] = "u64", [GGUF_I64] = "i64",
    [GGUF_F64] = "f64",
};

/* Text of the file as JSON, whatever bytes it is made of; NULL without memory. */
static json_t *json_text(const char *text, size_t bytes) {
    size_t length;
    char *clean = utf8_clean(text, bytes, &length);
    json_t *value = clean ? json_stringn(clean, length) : NULL;
    free(clean);
    return value;
}

/* A number of a value; what JSON can't hold (NaN, u64 beyond i64) becomes a string. */
static json_t *json_number(const struct gguf_value *value, uint64_t index) {
    int64_t integer;
    double real = 0;
    if (gguf_get_i64(value, index, &integer))
        return value->element_type == GGUF_BOOL ? json_boolean(integer) : json_integer(integer);
    if (gguf_get_f64(value, index, &real))
        return isfinite(real) ? json_real(real) : json_sprintf("%f", real);
    uint64_t large;
    memcpy(&large, (const char *)value->data + 8 * index, sizeof large);
    return json_sprintf("%" PRIu64, large);
}

/* A value as JSON; an array gives its first elements. */
static json_t *json_elements(const struct gguf_value *value) {
    struct gguf_string text;
    if (gguf_get_string(value, &text)) return json_text(text.text, text.bytes);
    if (value->type != GGUF_ARRAY) return json_number(value, 0);
    json_t *array = json_array();
    uint64_t shown = value->count < SHOWN_ELEMENTS ? value->count : SHOWN_ELEMENTS;
    struct gguf_value first = *value;
    struct gguf_string strings[SHOWN_ELEMENTS];
    first.count = shown;
    bool is_text = gguf_strings(&first, strings);
    for (uint64_t i = 0; i < shown; i++)
        json_array_append_new(array, is_text ? json_text(strings[i].text, strings[i].bytes)
                                             : json_number(value, i));
    return array;
}

static json_t *json_metadata(const struct model_file *file) {
    json_t *metadata = json_object();
    for (int i = 0; i < file->note_count; i++)
        json_object_set_new(metadata, file->notes[i].key, json_string(file->notes[i].value));
    for (int i = 0; i < file->value_count; i++) {
        const struct gguf_value *value = &file->values[i];
        json_t *entry = json_pack("{s:s}", "type", type_names[value->type]);
        if (value->type == GGUF_ARRAY) {
            json_object_set_new(entry, "of", json_string(type_names[value->element_type]));
            json_object_set_new(entry, "count", json_integer((json_int_t)value->count));
        }
        json_object_set_new(entry, value->type == GGUF_ARRAY ? "first" : "value",
                            json_elements(value));
        size_t length;
        char *key = utf8_clean(value->key.text, value->key.bytes, &length);
        if (key) json_object_set(metadata, key, entry);
        json_decref(entry);
        free(key);
    }
    return metadata;
}

static json_t *json_tensors(const struct model_file *file) {
    json_t *tensors = json_array();
    for (int i = 0; i < file->tensor_count; i++) {
        const struct file_tensor *tensor = &file->tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < tensor->dims; d++)
            json_array_append_new(shape, json_integer(tensor->shape[d]));
        json_array_append_new(tensors, json_pack("{s:o, s:s, s:o, s:I, s:o}", "name",
                                                 json_text(tensor->name, strlen(tensor->name)),
                                                 "dtype", dtype_info(tensor->dtype)->name, "shape",
                                                 shape, "bytes", (json_int_t)tensor->bytes, "file",
                                                 json_text(tensor->file, strlen(tensor->file))));
    }
    return tensors;
}

/* Sums over all tensors. A header without data can claim sizes that no sum holds: they stop at
 * INT64_MAX. */
struct totals {
    int64_t parameters, bytes;
    int of_dtype[DTYPE_COUNT];
};

static void add_saturating(int64_t *sum, int64_t term) {
    if (__builtin_add_overflow(*sum, term, sum)) *sum = INT64_MAX;
}

static struct totals count_totals(const struct model_file *file) {
    struct totals totals = {0};
    for (int i = 0; i < file->tensor_count; i++) {
        add_saturating(&totals.parameters, file->tensors[i].elements);
        add_saturating(&totals.bytes, (int64_t)file->tensors[i].bytes);
        totals.of_dtype[file->tensors[i].dtype]++;
    }
    return totals;
}

static int print_json(const struct model_file *file) {
    struct totals totals = count_totals(file);
    bool gguf = file->format == MODEL_GGUF;
    json_t *root = json_pack("{s:o, s:s}", "file", json_text(file->path, strlen(file->path)),
                             "format", gguf ? "gguf" : "safetensors");
    if (gguf) {
        json_object_set_new(root, "version", json_integer(file->gguf_version));
        json_object_set_new(root, "alignment", json_integer(file->alignment));
    }
    json_object_set_new(root, "data_present", json_boolean(file->data_present));
    json_object_set_new(root, "metadata", json_metadata(file));
    json_object_set_new(root, "tensors", json_tensors(file));
    json_object_set_new(root, "parameters", json_integer(totals.parameters));
    json_object_set_new(root, "bytes", json_integer(totals.bytes));
    int failed = json_dumpf(root, stdout, JSON_INDENT(1) | JSON_PRESERVE_ORDER) != 0;
    putchar('\n');
    json_decref(root);
    return failed;
}

static void print_text(const char *text, size_t bytes) {
    char clean[SHOWN_TEXT];
    printf("\"%s\"", printable(clean, sizeof clean, text, bytes));
}

static void print_number(const struct gguf_value *value, uint64_t index) {
    int64_t integer;
    double real = 0;
    uint64_t large;
    if (gguf_get_i64(value, index, &integer)) {
        if (value->element_type == GGUF_BOOL)
            printf("%s", integer ? "true" : "false");
        else
            printf("%" PRId64, integer);
    } else if (gguf_get_f64(value, index, &real)) {
        printf("%.9g", real);
    } else {
        memcpy(&large, (const char *)value->data + 8 * index, sizeof large);
        printf("%" PRIu64, large);
    }
}

static void print_array(const struct gguf_value *value) {
    struct gguf_value first = *value;
    struct gguf_string strings[SHOWN_ELEMENTS];
    if (first.count > SHOWN_ELEMENTS) first.count = SHOWN_ELEMENTS;
    bool is_text = gguf_strings(&first, strings);
    for (uint64_t i = 0; i < first.count; i++) {
        if (i) printf(", ");
        if (is_text)
            print_text(strings[i].text, strings[i].bytes);
        else
            print_number(value, i);
    }
    if (value->count > first.count) printf(", ... (%" PRIu64 " in all)", value->count);
}

static void print_metadata(const struct model_file *file) {
    char key[PRINTABLE_SIZE];
    for (int i = 0; i < file->note_count; i++) {
        const struct file_note *note = &file->notes[i];
        printf("  %-44s ", printable(key, sizeof key, note->key, strlen(note->key)));
        print_text(note->value, strlen(note->value));
        putchar('\n');
    }
    for (int i = 0; i < file->value_count; i++) {
        const struct gguf_value *value = &file->values[i];
        struct gguf_string text;
        printf("  %-44s ", printable(key, sizeof key, value->key.text, value->key.bytes));
        if (value->type == GGUF_ARRAY) {
            printf("%s[%" PRIu64 "] ", type_names[value->element_type], value->count);
            print_array(value);
        } else {
            printf("%s ", type_names[value->type]);
            if (gguf_get_string(value, &text))
                print_text(text.text, text.bytes);
            else
                print_number(value, 0);
        }
        putchar('\n');
    }
}

static void print_tensors(const struct model_file *file) {
    for (int i = 0; i < file->tensor_count; i++) {
        const struct file_tensor *tensor = &file->tensors[i];
        char name[PRINTABLE_SIZE], shape[TENSOR_MAX_DIMS * 24] = "[";
        size_t used = 1;
        for (int d = 0; d < tensor->dims; d++)
            used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%" PRId64, d ? ", " : "",
                                     tensor->shape[d]);
        snprintf(shape + used, sizeof shape - used, "]");
        printf("  %-44s %-7s %-20s %zu\n",
               printable(name, sizeof name, tensor->name, strlen(tensor->name)),
               dtype_info(tensor->dtype)->name, shape, tensor->bytes);
    }
}

static void print_plain(const struct model_file *file) {
    struct totals totals = count_totals(file);
    printf("file: %s\n", file->path);
    if (file->format == MODEL_GGUF)
        printf("format: GGUF version %" PRIu32 ", alignment %" PRIu32 "\n", file->gguf_version,
               file->alignment);
    else
        printf("format: safetensors\n");
    printf("metadata: %d\n", file->value_count + file->note_count);
    print_metadata(file);
    printf("tensors: %d (name, dtype, shape, bytes)\n", file->tensor_count);
    print_tensors(file);
    printf("dtypes:");
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (totals.of_dtype[i])
            printf(" %s %d", dtype_info((enum dtype)i)->name, totals.of_dtype[i]);
    printf("\nparameters: %" PRId64 "\nbytes: %" PRId64 "\n", totals.parameters, totals.bytes);
    if (!file->data_present) printf("data: missing, the file is only a header\n");
}

enum status inspect_model_file(const char *path, bool json) {
    struct model_file file;
    TRY(model_file_open(&file, path, true));
    int failed = 0;
    if (json)
        failed = print_json(&file);
    else
        print_plain(&file);
    model_file_close(&file);
    return failed ? status_fail(STATUS_MEMORY, "%s: no memory to describe it", path) : STATUS_OK;
}
