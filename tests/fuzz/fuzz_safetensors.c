/* safetensors files, as inspection and as loading open them. */
#define _GNU_SOURCE
#include "tests/fuzz/walk_model_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    walk_model_file(data, bytes, "x.safetensors", true);
    walk_model_file(data, bytes, "x.safetensors", false);
    return 0;
}
