/* Writes a 1.1 B Llama shape with random bf16 weights, for benchmarks of the server.
 *     write_random_model DIRECTORY TOKENIZER_DIRECTORY        2.2 GB */
#include "core/export.h"

#include <stdio.h>

static const struct model_config shape = {.family = FAMILY_LLAMA,
                                          .vocab = 32000,
                                          .hidden = 2048,
                                          .ffn = 5632,
                                          .layers = 22,
                                          .heads = 32,
                                          .kv_heads = 4,
                                          .head_dim = 64,
                                          .norm_eps = 1e-5f,
                                          .max_context = 2048,
                                          .dtype = DTYPE_BF16,
                                          .bos = -1,
                                          .rope = {.theta = 10000.0, .factor = 1.0}};

static enum status write_model(const char *directory, const char *tokenizer) {
    struct model model;
    TRY(model_create(&model, &shape, NULL, LAYOUT_PANEL_BF16));
    model_init_random(&model, 1, 0.02f, 1);
    const struct export_request request = {.model = &model,
                                           .format = EXPORT_SAFETENSORS,
                                           .dtype = DTYPE_BF16,
                                           .path = directory,
                                           .companions = tokenizer};
    enum status status = export_model(&request);
    model_free(&model);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: write_random_model DIRECTORY TOKENIZER_DIRECTORY\n");
        return 2;
    }
    if (write_model(argv[1], argv[2]) == STATUS_OK) return 0;
    fprintf(stderr, "write_random_model: %s\n", status_message());
    return 1;
}
