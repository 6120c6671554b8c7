/* GGUF files, as inspection and as loading open them. */
#define _GNU_SOURCE
#include "tests/fuzz/walk_model_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    walk_model_file(data, bytes, "x.gguf", true);
    walk_model_file(data, bytes, "x.gguf", false);
    return 0;
}
