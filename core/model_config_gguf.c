/* GGUF metadata to a model_config. Keys: the GGUF specification, "LLM" section. */
#include "core/model_config.h"

#include "core/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Metadata of one architecture: keys are "<architecture>.<rest>". */
struct metadata {
    const struct model_file *file;
    char architecture[64];
};

static const struct gguf_value *find(const struct metadata *metadata, const char *rest) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", metadata->architecture, rest);
    return gguf_find(metadata->file, key);
}

static enum status require_integer(const struct metadata *metadata, const char *rest, int64_t high,
                                   int64_t *out) {
    const struct gguf_value *value = find(metadata, rest);
    if (!value || !gguf_get_i64(value, 0, out))
        return status_fail(STATUS_FORMAT, "%s: key %s.%s is missing or not an integer",
                           metadata->file->path, metadata->architecture, rest);
    if (*out < 1 || *out > high)
        return status_fail(STATUS_FORMAT, "%s: key %s.%s is %lld, not from 1 to %lld",
                           metadata->file->path, metadata->architecture, rest, (long long)*out,
                           (long long)high);
    return STATUS_OK;
}

static int64_t integer_or(const struct metadata *metadata, const char *rest, int64_t fallback) {
    const struct gguf_value *value = find(metadata, rest);
    int64_t number;
    return value && gguf_get_i64(value, 0, &number) ? number : fallback;
}

/* *out stays where the key is missing or no number; what is outside of low..high is refused. */
static enum status read_number(const struct metadata *metadata, const char *rest, double low,
                               double high, double *out) {
    const struct gguf_value *value = find(metadata, rest);
    char key[128];
    if (!value || !gguf_get_f64(value, 0, out)) return STATUS_OK;
    snprintf(key, sizeof key, "%s.%s", metadata->architecture, rest);
    return model_config_check_number(metadata->file->path, key, *out, low, high);
}

static enum status read_architecture(struct model_config *config, struct metadata *metadata) {
    struct gguf_string text;
    const struct gguf_value *value = gguf_find(metadata->file, "general.architecture");
    if (!value || !gguf_get_string(value, &text) || text.bytes >= sizeof metadata->architecture)
        return status_fail(STATUS_FORMAT, "%s: key general.architecture is missing",
                           metadata->file->path);
    memcpy(metadata->architecture, text.text, text.bytes);
    metadata->architecture[text.bytes] = '\0';
    for (int i = 0; i < FAMILY_COUNT; i++)
        if (strcmp(metadata->architecture, model_family_name((enum model_family)i)) == 0) {
            config->family = (enum model_family)i;
            return STATUS_OK;
        }
    return status_fail(STATUS_UNSUPPORTED,
                       "%s: architecture '%s' is not one of llama, mistral, qwen2, qwen3",
                       metadata->file->path, metadata->architecture);
}

static enum status read_rope(struct model_config *config, const struct metadata *metadata) {
    struct rope_config *rope = &config->rope;
    double multiplier = 1.0;
    rope->theta = 10000.0;
    rope->factor = 1.0;
    rope->beta_fast = 32.0;
    rope->beta_slow = 1.0;
    TRY(read_number(metadata, "rope.freq_base", MODEL_LEAST_NUMBER, MODEL_MOST_THETA,
                    &rope->theta));
    TRY(read_number(metadata, "rope.scaling.factor", 0.0, MODEL_MOST_ROPE_FACTOR, &rope->factor));
    if (rope->factor == 0.0) rope->factor = 1.0; /* some writers' word for no scaling */
    TRY(read_number(metadata, "rope.scaling.yarn_beta_fast", MODEL_LEAST_NUMBER,
                    MODEL_MOST_ROPE_FACTOR, &rope->beta_fast));
    TRY(read_number(metadata, "rope.scaling.yarn_beta_slow", MODEL_LEAST_NUMBER,
                    MODEL_MOST_ROPE_FACTOR, &rope->beta_slow));
    TRY(read_number(metadata, "rope.scaling.attn_factor", MODEL_LEAST_NUMBER,
                    MODEL_MOST_ROPE_FACTOR, &multiplier));
    rope->context = config->max_context;
    rope->original_context =
        integer_or(metadata, "rope.scaling.original_context_length", config->max_context);
    rope->truncate = true;
    const struct gguf_value *type = find(metadata, "rope.scaling.type");
    struct gguf_string name = {"none", 4};
    if (type) gguf_get_string(type, &name);
    if (name.bytes == 6 && memcmp(name.text, "linear", 6) == 0) {
        rope->scaling = ROPE_SCALING_LINEAR;
    } else if (name.bytes == 4 && memcmp(name.text, "yarn", 4) == 0) {
        rope->scaling = ROPE_SCALING_YARN; /* whose own factor the file's multiplies */
        rope->attention_factor = multiplier * (0.1 * log(rope->factor) + 1.0);
    } else if (!(name.bytes == 4 && memcmp(name.text, "none", 4) == 0)) {
        return status_fail(STATUS_UNSUPPORTED, "%s: rope scaling '%.*s' is not none, linear, yarn",
                           metadata->file->path, (int)name.bytes, name.text);
    }
    int64_t rotary = integer_or(metadata, "rope.dimension_count", config->head_dim);
    if (rotary != config->head_dim)
        return status_fail(STATUS_UNSUPPORTED,
                           "%s: rope.dimension_count %lld differs from the head dimension %d",
                           metadata->file->path, (long long)rotary, config->head_dim);
    return STATUS_OK;
}

static bool has_tensor(const struct metadata *metadata, enum weight_id id) {
    char name[WEIGHT_NAME_BYTES];
    weight_name_gguf(name, id, 0);
    return model_file_find(metadata->file, name) != NULL;
}

static enum status read_vocab(struct model_config *config, const struct metadata *metadata) {
    char name[WEIGHT_NAME_BYTES];
    weight_name_gguf(name, WEIGHT_EMBED, -1);
    const struct file_tensor *embedding = model_file_find(metadata->file, name);
    if (!embedding || embedding->dims != 2)
        return status_fail(STATUS_FORMAT, "%s: tensor %s is missing or not a matrix",
                           metadata->file->path, name);
    config->vocab = embedding->shape[0];
    const struct gguf_value *bos = gguf_find(metadata->file, "tokenizer.ggml.bos_token_id");
    int64_t id;
    if (bos && gguf_get_i64(bos, 0, &id)) config->bos = (int32_t)id;
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        const struct gguf_value *value = gguf_find(metadata->file, ends[i]);
        if (value && gguf_get_i64(value, 0, &id) &&
            (config->eos_count == 0 || config->eos[0] != (int32_t)id))
            config->eos[config->eos_count++] = (int32_t)id;
    }
    return STATUS_OK;
}

static enum status read_shape(struct model_config *config, const struct metadata *metadata) {
    int64_t layers, heads, kv_heads;
    TRY(require_integer(metadata, "block_count", MODEL_MAX_LAYERS, &layers));
    TRY(require_integer(metadata, "embedding_length", 1 << 20, &config->hidden));
    TRY(require_integer(metadata, "feed_forward_length", 1 << 22, &config->ffn));
    TRY(require_integer(metadata, "attention.head_count", 4096, &heads));
    TRY(require_integer(metadata, "context_length", INT32_MAX, &config->max_context));
    kv_heads = integer_or(metadata, "attention.head_count_kv", heads);
    if (kv_heads < 1 || heads % kv_heads != 0)
        return status_fail(STATUS_FORMAT, "%s: %lld heads are not a multiple of %lld KV heads",
                           metadata->file->path, (long long)heads, (long long)kv_heads);
    config->layers = (int)layers;
    config->heads = (int)heads;
    config->kv_heads = (int)kv_heads;
    int64_t head_dim = integer_or(metadata, "attention.key_length", config->hidden / heads);
    if (head_dim < 2 || head_dim > 1024 || head_dim % 2 != 0)
        return status_fail(STATUS_FORMAT, "%s: head dimension %lld is not an even number to 1024",
                           metadata->file->path, (long long)head_dim);
    config->head_dim = (int)head_dim;
    double eps = 1e-5;
    TRY(read_number(metadata, "attention.layer_norm_rms_epsilon", MODEL_LEAST_NUMBER, 1.0, &eps));
    config->norm_eps = (float)eps;
    return STATUS_OK;
}

enum status model_config_read_gguf(struct model_config *config, const struct model_file *file) {
    *config = (struct model_config){.bos = -1, .temperature = -1, .top_p = -1, .top_k = -1};
    struct metadata metadata = {.file = file};
    TRY(read_architecture(config, &metadata));
    TRY(read_shape(config, &metadata));
    TRY(read_vocab(config, &metadata));
    TRY(read_rope(config, &metadata));
    config->window = integer_or(&metadata, "attention.sliding_window", 0);
    for (int layer = 0; layer < config->layers; layer++)
        config->sliding[layer] = config->window > 0;
    if (config->family == FAMILY_LLAMA && config->window > 0) config->family = FAMILY_MISTRAL;
    config->tied = !has_tensor(&metadata, WEIGHT_HEAD);
    config->qkv_bias = has_tensor(&metadata, WEIGHT_Q_BIAS);
    config->o_bias = has_tensor(&metadata, WEIGHT_O_BIAS);
    config->mlp_bias = has_tensor(&metadata, WEIGHT_GATE_BIAS);
    config->qk_norm = has_tensor(&metadata, WEIGHT_Q_NORM);
    config->dtype = DTYPE_F32;
    return STATUS_OK;
}
