/* GGUF's side of an export. Keys: the GGUF specification, "LLM" section; yarn_beta_*, file types
 * and the permutation as gguf-py (ggml-org) names them. */
#define _GNU_SOURCE
#include "core/export_internal.h"

#include <math.h>
#include <stdio.h>

enum { KEY_BYTES = 128 };

/* Mistral is of GGUF's llama family. */
static bool is_llama(const struct model_config *config) {
    return config->family == FAMILY_LLAMA || config->family == FAMILY_MISTRAL;
}

static const char *architecture(const struct model_config *config) {
    return model_family_name(is_llama(config) ? FAMILY_LLAMA : config->family);
}

/* Rotation pairs (2i, 2i+1) there and (i, i + D/2) here. */
int64_t export_source_row(const struct export_request *request, const struct param *param,
                          int64_t row) {
    const struct model_config *config = &request->model->config;
    bool permuted = request->format == EXPORT_GGUF && is_llama(config) &&
                    weight_table[param->id].order != ORDER_PLAIN;
    if (!permuted) return row;
    int64_t within = row % config->head_dim;
    return row - within + within % 2 * (config->head_dim / 2) + within / 2;
}

static const char *key_of(char key[KEY_BYTES], const struct model_config *config,
                          const char *rest) {
    snprintf(key, KEY_BYTES, "%s.%s", architecture(config), rest);
    return key;
}

static void put_u32(struct gguf_metadata *metadata, const struct model_config *config,
                    const char *rest, int64_t value) {
    char key[KEY_BYTES];
    gguf_put_u32(metadata, key_of(key, config, rest), (uint32_t)value);
}

static void put_f32(struct gguf_metadata *metadata, const struct model_config *config,
                    const char *rest, double value) {
    char key[KEY_BYTES];
    gguf_put_f32(metadata, key_of(key, config, rest), (float)value);
}

static void put_text(struct gguf_metadata *metadata, const struct model_config *config,
                     const char *rest, const char *text) {
    char key[KEY_BYTES];
    gguf_put_string(metadata, key_of(key, config, rest), text);
}

/* The attention factor is a multiplier of YaRN's own 0.1 ln(factor) + 1. */
static enum status put_yarn(struct gguf_metadata *metadata, const struct model *model) {
    const struct model_config *c = &model->config;
    if (!c->rope.truncate)
        return status_fail(STATUS_UNSUPPORTED, "GGUF can't say YaRN without truncation");
    put_text(metadata, c, "rope.scaling.type", "yarn");
    put_f32(metadata, c, "rope.scaling.factor", c->rope.factor);
    put_u32(metadata, c, "rope.scaling.original_context_length", c->rope.original_context);
    put_f32(metadata, c, "rope.scaling.yarn_beta_fast", c->rope.beta_fast);
    put_f32(metadata, c, "rope.scaling.yarn_beta_slow", c->rope.beta_slow);
    double multiplier = model->rope_factor / (0.1 * log(c->rope.factor) + 1.0);
    if (fabs(multiplier - 1.0) > 1e-6) put_f32(metadata, c, "rope.scaling.attn_factor", multiplier);
    return STATUS_OK;
}

static enum status put_rope(struct gguf_metadata *metadata, const struct model *model) {
    const struct model_config *c = &model->config;
    put_u32(metadata, c, "rope.dimension_count", c->head_dim);
    put_f32(metadata, c, "rope.freq_base", c->rope.theta);
    switch (c->rope.scaling) {
    case ROPE_SCALING_NONE:
    case ROPE_SCALING_LLAMA3: /* rope_freqs.weight */
        return STATUS_OK;
    case ROPE_SCALING_LINEAR:
        put_text(metadata, c, "rope.scaling.type", "linear");
        put_f32(metadata, c, "rope.scaling.factor", c->rope.factor);
        return STATUS_OK;
    case ROPE_SCALING_YARN:
        return put_yarn(metadata, model);
    case ROPE_SCALING_DYNAMIC:
        break;
    }
    return status_fail(STATUS_UNSUPPORTED, "GGUF can't say dynamic RoPE scaling");
}

/* One window for all layers is all that the key can say. */
static enum status put_window(struct gguf_metadata *metadata, const struct model_config *c) {
    int sliding = 0;
    for (int layer = 0; layer < c->layers; layer++) sliding += c->sliding[layer];
    if (sliding == 0) return STATUS_OK;
    if (sliding < c->layers)
        return status_fail(STATUS_UNSUPPORTED,
                           "GGUF can't say that %d of %d layers have a sliding window", sliding,
                           c->layers);
    put_u32(metadata, c, "attention.sliding_window", c->window);
    return STATUS_OK;
}

/* llama.cpp's numbers of "what most tensors are". */
static uint32_t file_type(enum dtype dtype) {
    switch (dtype) {
    case DTYPE_F16:
        return 1;
    case DTYPE_Q8_0:
        return 7;
    case DTYPE_BF16:
        return 32;
    default:
        return 0;
    }
}

static enum status put_model(struct gguf_metadata *metadata, const struct export_request *request) {
    const struct model_config *c = &request->model->config;
    gguf_put_string(metadata, "general.architecture", architecture(c));
    gguf_put_u32(metadata, "general.file_type", file_type(request->dtype));
    if (request->dtype == DTYPE_Q8_0) gguf_put_u32(metadata, "general.quantization_version", 2);
    put_u32(metadata, c, "block_count", c->layers);
    put_u32(metadata, c, "context_length", c->max_context);
    put_u32(metadata, c, "embedding_length", c->hidden);
    put_u32(metadata, c, "feed_forward_length", c->ffn);
    put_u32(metadata, c, "vocab_size", c->vocab);
    put_u32(metadata, c, "attention.head_count", c->heads);
    put_u32(metadata, c, "attention.head_count_kv", c->kv_heads);
    put_u32(metadata, c, "attention.key_length", c->head_dim);
    put_u32(metadata, c, "attention.value_length", c->head_dim);
    put_f32(metadata, c, "attention.layer_norm_rms_epsilon", (double)c->norm_eps);
    TRY(put_window(metadata, c));
    TRY(put_rope(metadata, request->model));
    if (request->metadata) gguf_put_all(metadata, request->metadata);
    return STATUS_OK;
}

/* Llama 3's divisors, or those that a GGUF file brought along; false where all are 1. */
static bool read_divisors(const struct model *model, float *divisors) {
    double exact[512];
    enum rope_scaling scaling = model->config.rope.scaling;
    bool any = false;
    if (scaling != ROPE_SCALING_NONE && scaling != ROPE_SCALING_LLAMA3) return false;
    export_rope_divisors(model, exact);
    for (int i = 0; i < model->config.head_dim / 2; i++) {
        divisors[i] = (float)exact[i];
        any = any || fabs(exact[i] - 1.0) > 1e-6;
    }
    return any;
}

static enum status write_tensors(struct tensor_sink *sink, const struct export_request *request,
                                 const struct export_list *list, const float *divisors) {
    for (int i = 0; i < list->count; i++)
        TRY(list->params[i]
                ? export_append(sink, request, list->params[i])
                : tensor_sink_append_f32(sink, divisors, (size_t)list->specs[i].shape[0]));
    return tensor_sink_finish(sink);
}

static enum status write_file(const struct export_request *request, struct export_list *list,
                              const struct gguf_metadata *metadata) {
    float divisors[512];
    if (read_divisors(request->model, divisors))
        list->specs[list->count++] = (struct tensor_spec){
            "rope_freqs.weight", DTYPE_F32, 1, {request->model->config.head_dim / 2}};
    struct tensor_sink sink;
    TRY(gguf_create(&sink, request->path, metadata, list->specs, list->count));
    enum status status = write_tensors(&sink, request, list, divisors);
    tensor_sink_close(&sink);
    return status;
}

enum status export_gguf(const struct export_request *request) {
    struct gguf_metadata metadata = {0};
    struct export_list list = {0};
    enum status status = put_model(&metadata, request);
    if (status == STATUS_OK) status = export_list_create(&list, request);
    if (status == STATUS_OK) status = write_file(request, &list, &metadata);
    export_list_free(&list);
    gguf_metadata_free(&metadata);
    return status;
}
