/* A model in memory written as a file that other programs load. */
#ifndef STRATA_CORE_EXPORT_H
#define STRATA_CORE_EXPORT_H

#include "core/model.h"

enum export_format { EXPORT_SAFETENSORS, EXPORT_GGUF };

struct export_request {
    const struct model *model;
    enum export_format format;
    enum dtype dtype; /* of matrices: F32, F16, BF16, or Q8_0 (GGUF); vectors stay F32 in GGUF */
    const char *path; /* a directory (safetensors: made when absent) or a .gguf file */
    const char *companions; /* where the tokenizer's files are: copied beside safetensors, written
                               into GGUF's metadata; NULL or "" for none */
};

/* Safetensors: model.safetensors, config.json and the tokenizer's files. GGUF: one file, q and k
 * rows permuted for the llama family as the format wants. Files appear whole or not at all. */
enum status export_model(const struct export_request *request);

#endif
