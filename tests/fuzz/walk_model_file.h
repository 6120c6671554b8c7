/* What both model file fuzzers do with bytes: open them, then use all that an open file offers.
 * Anything may be refused; nothing may be read outside the bytes. */
#ifndef STRATA_TESTS_FUZZ_WALK_MODEL_FILE_H
#define STRATA_TESTS_FUZZ_WALK_MODEL_FILE_H

#include "core/model_file.h"
#include "kernels/base/printable.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Reads every byte, so that the address sanitizer sees it. */
static inline void read_text(struct gguf_string string) {
    char text[PRINTABLE_SIZE];
    volatile char last = 0;
    for (size_t i = 0; i < string.bytes; i++) last = string.text[i];
    (void)last;
    printable(text, sizeof text, string.text, string.bytes);
    assert(strlen(text) < sizeof text);
}

static inline void walk_value(const struct model_file *file, const struct gguf_value *value) {
    int64_t integer;
    double real;
    struct gguf_string text = {"", 0};
    for (uint64_t i = 0; i < value->count; i++) {
        (void)gguf_get_i64(value, i, &integer);
        (void)gguf_get_f64(value, i, &real);
    }
    if (gguf_get_string(value, &text)) read_text(text);
    if (value->type == GGUF_ARRAY && value->element_type == GGUF_STRING) {
        struct gguf_string *strings = calloc((size_t)value->count + 1, sizeof *strings);
        assert(gguf_strings(value, strings));
        for (uint64_t i = 0; i < value->count; i++) read_text(strings[i]);
        free(strings);
    }
    char *key = strndup(value->key.text, value->key.bytes);
    assert(gguf_find(file, key) == value);
    free(key);
}

static inline void walk_tensor(const struct model_file *file, const struct file_tensor *tensor) {
    assert(model_file_find(file, tensor->name) == tensor);
    assert(tensor->data || tensor->elements == 0 || !file->data_present);
    int64_t block = dtype_info(tensor->dtype)->block_elements;
    float values[1024];
    for (int64_t first = 0; tensor->data && first < tensor->elements; first += 1024) {
        int64_t count = tensor->elements - first < 1024 ? tensor->elements - first : 1024;
        assert(count % block == 0);
        if (file_tensor_read_f32(tensor, first, count, values) != STATUS_OK) break;
    }
}

static inline void walk_model_file(const uint8_t *data, size_t bytes, const char *name,
                                   bool header_only) {
    struct model_file file;
    if (model_file_open_bytes(&file, data, bytes, name, header_only) != STATUS_OK) {
        assert(!strchr(status_message(), '\n'));
        return;
    }
    assert(header_only || file.data_present);
    for (int i = 0; i < file.value_count; i++) walk_value(&file, &file.values[i]);
    for (int i = 0; i < file.tensor_count; i++) walk_tensor(&file, &file.tensors[i]);
    model_file_close(&file);
}

#endif
