/* The shape and constants of a model, read from Hugging Face's config.json (as transformers 4 and 5
 * write it) or GGUF metadata.
 *
 * Letters used everywhere:
 *   B sequences   T or N packed tokens   C hidden width   F feed-forward width   V vocabulary
 *   H query heads   Hkv key/value heads   D head dimension   L layers   R LoRA rank */
#ifndef STRATA_CORE_MODEL_CONFIG_H
#define STRATA_CORE_MODEL_CONFIG_H

#include "core/model_file.h"
#include "kernels/rope.h"

enum { MODEL_MAX_LAYERS = 512, MODEL_MAX_EOS = 8 };

enum model_family { FAMILY_LLAMA, FAMILY_MISTRAL, FAMILY_QWEN2, FAMILY_QWEN3, FAMILY_COUNT };

struct model_config {
    enum model_family family;
    int64_t vocab, hidden, ffn;
    int layers, heads, kv_heads, head_dim;
    float norm_eps;
    int64_t max_context;            /* max_position_embeddings */
    int64_t window;                 /* sliding window in tokens; 0 = none */
    bool sliding[MODEL_MAX_LAYERS]; /* which layers use it */
    struct rope_config rope;
    bool tied;     /* the head is the embedding */
    bool qkv_bias; /* biases on q, k, v */
    bool o_bias, mlp_bias;
    bool qk_norm;
    enum dtype dtype; /* what the weights were saved in; F32 where nothing says */
    int32_t bos;      /* -1 when none */
    int32_t eos[MODEL_MAX_EOS];
    int eos_count;
    /* generation_config.json: defaults of requests; negative when absent */
    double temperature, top_p;
    int top_k;
};

/* "llama", "mistral", "qwen2", "qwen3" */
const char *model_family_name(enum model_family family);

/* What a configuration's numbers may be. Outside of it a model computes NaN or nonsense. */
#define MODEL_LEAST_NUMBER 1e-30 /* of what must be positive; as float it is still no zero */
#define MODEL_MOST_THETA 1e30
#define MODEL_MOST_ROPE_FACTOR 1e6

/* STATUS_FORMAT, naming file, key and value, unless low <= value <= high; NaN never is. */
enum status model_config_check_number(const char *name, const char *key, double value, double low,
                                      double high);

/* From a directory's config.json and, when there, generation_config.json. */
enum status model_config_read_hf(struct model_config *config, const char *directory);

/* From one config.json. */
enum status model_config_read_json(struct model_config *config, const char *path);

/* From JSON text; `name` is for messages. */
enum status model_config_parse_hf(struct model_config *config, const char *json, size_t bytes,
                                  const char *name);

enum status model_config_read_gguf(struct model_config *config, const struct model_file *file);

/* Whichever of the two belongs to the file, and `tied` settled by whether a head tensor is there.
 */
enum status model_config_read(struct model_config *config, const struct model_file *file);

/* config.json text that transformers reads; the caller frees it. */
enum status model_config_write_hf(const struct model_config *config, char **json);

/* Parameters in all, embeddings included once when tied. */
int64_t model_config_parameters(const struct model_config *config);

/* FLOPs of training on a token of sequences of `length`: 6 N' + 12 L H D length / 2 where all
 * weights are trained, 4 N' + ... where they are `frozen` beside an adapter (no gradients of their
 * own; the adapter's FLOPs aren't counted). N' = parameters without the embedding look-up, whose
 * matrix counts where it is the head too; half the length is the mean reach of causal attention.
 * Recomputation isn't counted. */
double model_config_training_flops(const struct model_config *config, int64_t length, bool frozen);

#endif
