/* make_model_seeds FOLDER writes small valid files for fuzz_gguf and fuzz_safetensors to start
 * from: a file a dtype, then one of everything. */
#include "core/gguf_write.h"
#include "core/safetensors_write.h"

#include <stdio.h>

static enum status write_tensors(struct tensor_sink *sink, const struct tensor_spec *specs,
                                 int count) {
    static const unsigned char zeros[4096];
    for (int i = 0; i < count; i++) {
        struct file_tensor tensor;
        TRY(tensor_spec_measure(&specs[i], &tensor));
        TRY(tensor_sink_append(sink, zeros, tensor.bytes));
    }
    return tensor_sink_finish(sink);
}

static enum status write_gguf(const char *path, const struct tensor_spec *specs, int count) {
    static const struct gguf_string words[2] = {{"one", 3}, {"", 0}};
    static const float floats[3] = {1, 2, 3};
    struct gguf_metadata metadata = {0};
    struct tensor_sink sink;
    gguf_put_string(&metadata, "general.architecture", "llama");
    gguf_put_bool(&metadata, "b", true);
    gguf_put_u64(&metadata, "u", 1);
    gguf_put_i32(&metadata, "i", -1);
    gguf_put_array(&metadata, "f", GGUF_F32, floats, 3);
    gguf_put_strings(&metadata, "w", words, 2);
    enum status status = gguf_create(&sink, path, &metadata, specs, count);
    gguf_metadata_free(&metadata);
    if (status == STATUS_OK) status = write_tensors(&sink, specs, count);
    tensor_sink_close(&sink);
    return status;
}

static enum status write_safetensors(const char *path, const struct tensor_spec *specs, int count) {
    static const struct file_note note = {"format", "pt"};
    struct tensor_sink sink;
    TRY(safetensors_create(&sink, path, specs, count, &note, 1));
    enum status status = write_tensors(&sink, specs, count);
    tensor_sink_close(&sink);
    return status;
}

int main(int argc, char **argv) {
    struct tensor_spec specs[DTYPE_COUNT];
    char path[512];
    if (argc != 2) {
        fprintf(stderr, "usage: make_model_seeds FOLDER\n");
        return 2;
    }
    for (int i = 0; i < DTYPE_COUNT; i++)
        specs[i] =
            (struct tensor_spec){dtype_info((enum dtype)i)->name, (enum dtype)i, 2, {1, 256}};
    for (int i = 0; i < DTYPE_COUNT; i++) { /* each format refuses the other's dtypes: no file */
        snprintf(path, sizeof path, "%s/%s.gguf", argv[1], specs[i].name);
        (void)write_gguf(path, &specs[i], 1);
        snprintf(path, sizeof path, "%s/%s.safetensors", argv[1], specs[i].name);
        (void)write_safetensors(path, &specs[i], 1);
    }
    snprintf(path, sizeof path, "%s/all.gguf", argv[1]);
    enum status status = write_gguf(path, specs, DTYPE_F64 + 1);
    snprintf(path, sizeof path, "%s/all.safetensors", argv[1]);
    if (status == STATUS_OK) status = write_safetensors(path, specs, DTYPE_BOOL + 1);
    if (status != STATUS_OK) fprintf(stderr, "make_model_seeds: %s\n", status_message());
    return status != STATUS_OK;
}
