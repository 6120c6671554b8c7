/* A model in memory written as a file that other programs load. */
#ifndef STRATA_CORE_EXPORT_H
#define STRATA_CORE_EXPORT_H

#include "core/gguf_write.h"
#include "core/model.h"

enum export_format { EXPORT_SAFETENSORS, EXPORT_GGUF };

struct export_request {
    const struct model *model;
    const struct param_source *source; /* of its values; NULL: in memory */
    enum export_format format;
    enum dtype dtype;       /* of matrices: F32, F16, BF16, or Q8_0 (GGUF). Vectors have it too in
                               safetensors and stay F32 in GGUF, where a row that blocks of 32 don't fill
                               is F16 instead of Q8_0 */
    const char *path;       /* a directory (safetensors: made when absent) or a .gguf file */
    const char *companions; /* safetensors: the directory whose tokenizer files and generation
                               settings are copied; NULL or "" for none */
    const struct gguf_metadata *metadata; /* GGUF: what is written behind the model's own keys (the
                                             tokenizer: data/tokenizer.h); NULL for none */
};

/* Safetensors: model.safetensors, config.json and the companions. GGUF: one file, q and k rows
 * permuted for the llama family as the format wants, Llama 3's scaling as rope_freqs.weight, a
 * sliding window as attention.sliding_window (which not every program reads for that family). Each
 * file appears whole or not at all. STATUS_UNSUPPORTED names what the format can't say of this
 * model, STATUS_NUMERIC a tensor with values beyond the dtype's range. */
enum status export_model(const struct export_request *request);

#endif
