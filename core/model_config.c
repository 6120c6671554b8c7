/* Hugging Face's config.json to a model_config, and back. */
#include "core/model_config.h"

#include "core/json_util.h"
#include "core/path_hint.h"
#include "core/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct family {
    const char *name, *architecture;
} families[FAMILY_COUNT] = {
    [FAMILY_LLAMA] = {"llama", "LlamaForCausalLM"},
    [FAMILY_MISTRAL] = {"mistral", "MistralForCausalLM"},
    [FAMILY_QWEN2] = {"qwen2", "Qwen2ForCausalLM"},
    [FAMILY_QWEN3] = {"qwen3", "Qwen3ForCausalLM"},
};

const char *model_family_name(enum model_family family) {
    return families[family].name;
}

/* One object of a configuration file, with the file's name for messages. */
struct reader {
    const char *name;
    const json_t *object;
    enum status status; /* the first failure; later reads keep it */
};

static const json_t *reader_get(const struct reader *reader, const char *key) {
    const json_t *value = json_object_get(reader->object, key);
    return json_is_null(value) ? NULL : value;
}

static void keep_first(struct reader *reader, enum status status) {
    if (reader->status == STATUS_OK) reader->status = status;
}

static int64_t read_integer(struct reader *reader, const char *key, int64_t low, int64_t high,
                            int64_t fallback) {
    keep_first(reader, json_field_i64(reader->object, reader->name, key, JSON_OPTIONAL, low, high,
                                      &fallback));
    return fallback;
}

static double read_number(struct reader *reader, const char *key, double fallback) {
    keep_first(reader, json_field_f64(reader->object, reader->name, key, JSON_OPTIONAL, &fallback));
    return fallback;
}

enum status model_config_check_number(const char *name, const char *key, double value, double low,
                                      double high) {
    if (isfinite(value) && value >= low && value <= high) return STATUS_OK;
    return status_fail(STATUS_FORMAT, "%s: %s is %g, not from %g to %g", name, key, value, low,
                       high);
}

/* A number from the smallest positive one to `high`. */
static double read_positive(struct reader *reader, const char *key, double high, double fallback) {
    double value = read_number(reader, key, fallback);
    if (reader->status == STATUS_OK)
        reader->status =
            model_config_check_number(reader->name, key, value, MODEL_LEAST_NUMBER, high);
    return value;
}

static bool read_bool(struct reader *reader, const char *key, bool fallback) {
    keep_first(reader,
               json_field_bool(reader->object, reader->name, key, JSON_OPTIONAL, &fallback));
    return fallback;
}

static enum status read_family(struct model_config *config, const struct reader *reader) {
    const char *type = json_string_value(reader_get(reader, "model_type"));
    const char *architecture =
        json_string_value(json_array_get(reader_get(reader, "architectures"), 0));
    for (int i = 0; i < FAMILY_COUNT; i++) {
        bool by_architecture = architecture && strcmp(architecture, families[i].architecture) == 0;
        bool by_type = !architecture && type && strcmp(type, families[i].name) == 0;
        if (!by_architecture && !by_type) continue;
        config->family = (enum model_family)i;
        return STATUS_OK;
    }
    return status_fail(STATUS_UNSUPPORTED,
                       "%s: architecture '%s' (model_type '%s') is not one of llama, mistral, "
                       "qwen2, qwen3",
                       reader->name, architecture ? architecture : "?", type ? type : "?");
}

static enum status read_rope_type(struct rope_config *rope, const char *type, const char *name) {
    static const struct {
        const char *name;
        enum rope_scaling scaling;
    } types[] = {{"default", ROPE_SCALING_NONE},
                 {"linear", ROPE_SCALING_LINEAR},
                 {"dynamic", ROPE_SCALING_DYNAMIC},
                 {"llama3", ROPE_SCALING_LLAMA3},
                 {"yarn", ROPE_SCALING_YARN}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(type, types[i].name) == 0) {
            rope->scaling = types[i].scaling;
            return STATUS_OK;
        }
    return status_fail(STATUS_UNSUPPORTED,
                       "%s: rope type '%s' is not one of default, linear, dynamic, llama3, yarn",
                       name, type);
}

static void read_rope_numbers(struct rope_config *rope, struct reader *reader) {
    const struct {
        const char *key;
        double *value;
        double low;
    } rows[] = {{"factor", &rope->factor, MODEL_LEAST_NUMBER},
                {"low_freq_factor", &rope->low_frequency_factor, MODEL_LEAST_NUMBER},
                {"high_freq_factor", &rope->high_frequency_factor, MODEL_LEAST_NUMBER},
                {"beta_fast", &rope->beta_fast, MODEL_LEAST_NUMBER},
                {"beta_slow", &rope->beta_slow, MODEL_LEAST_NUMBER},
                {"attention_factor", &rope->attention_factor, 0.0}, /* 0 is none */
                {"mscale", &rope->mscale, 0.0},
                {"mscale_all_dim", &rope->mscale_all_dim, 0.0}};
    rope->theta = read_positive(reader, "rope_theta", MODEL_MOST_THETA, rope->theta);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        *rows[i].value = read_number(reader, rows[i].key, *rows[i].value);
        if (reader->status == STATUS_OK)
            reader->status = model_config_check_number(reader->name, rows[i].key, *rows[i].value,
                                                       rows[i].low, MODEL_MOST_ROPE_FACTOR);
    }
}

/* transformers 4 writes rope_theta and rope_scaling, 5 writes rope_parameters with both. */
static enum status read_rope(struct model_config *config, struct reader *reader) {
    struct rope_config *rope = &config->rope;
    rope->theta = read_positive(reader, "rope_theta", MODEL_MOST_THETA, 10000.0);
    rope->factor = 1.0;
    rope->original_context = config->max_context;
    rope->context = config->max_context;
    rope->truncate = true;
    rope->low_frequency_factor = 1.0;
    rope->high_frequency_factor = 4.0;
    rope->beta_fast = 32.0;
    rope->beta_slow = 1.0;
    const json_t *object = reader_get(reader, "rope_parameters");
    if (!object) object = reader_get(reader, "rope_scaling");
    if (!object) return STATUS_OK;
    if (!json_is_object(object))
        return status_fail(STATUS_FORMAT, "%s: rope_parameters must be an object", reader->name);
    struct reader inner = {.name = reader->name, .object = object};
    const char *type = json_string_value(reader_get(&inner, "rope_type"));
    if (!type) type = json_string_value(reader_get(&inner, "type"));
    if (type) TRY(read_rope_type(rope, type, reader->name));
    read_rope_numbers(rope, &inner);
    rope->truncate = read_bool(&inner, "truncate", true);
    rope->original_context =
        read_integer(&inner, "original_max_position_embeddings", 1, INT32_MAX, config->max_context);
    if (inner.status != STATUS_OK) return inner.status;
    return STATUS_OK;
}

static enum status read_windows(struct model_config *config, struct reader *reader) {
    bool qwen = config->family == FAMILY_QWEN2 || config->family == FAMILY_QWEN3;
    bool mistral = config->family == FAMILY_MISTRAL;
    bool absent = !json_object_get(reader->object, "sliding_window");
    config->window = read_integer(reader, "sliding_window", 1, INT32_MAX,
                                  mistral && absent ? 4096 : 0); /* transformers' default */
    if (qwen && !read_bool(reader, "use_sliding_window", false)) config->window = 0;
    if (config->family == FAMILY_LLAMA) config->window = 0;
    int64_t first =
        qwen ? read_integer(reader, "max_window_layers", 0, INT32_MAX, config->layers) : 0;
    const json_t *types = reader_get(reader, "layer_types");
    if (types && json_array_size(types) != (size_t)config->layers)
        return status_fail(STATUS_FORMAT, "%s: layer_types has %zu entries for %d layers",
                           reader->name, json_array_size(types), config->layers);
    for (int layer = 0; layer < config->layers; layer++) {
        const char *type = json_string_value(json_array_get(types, (size_t)layer));
        bool sliding = type ? strcmp(type, "sliding_attention") == 0 : layer >= first;
        config->sliding[layer] = config->window > 0 && sliding;
    }
    return STATUS_OK;
}

/* eos_token_id is a number or a list of numbers. */
static void read_eos(struct model_config *config, const json_t *value) {
    if (json_is_integer(value)) {
        config->eos_count = 1;
        config->eos[0] = (int32_t)json_integer_value(value);
    }
    if (!json_is_array(value)) return;
    config->eos_count = 0;
    size_t i;
    json_t *item;
    json_array_foreach(value, i,
                       item) if (json_is_integer(item) && config->eos_count < MODEL_MAX_EOS)
        config->eos[config->eos_count++] = (int32_t)json_integer_value(item);
}

static enum dtype read_dtype(const struct reader *reader) {
    const char *name = json_string_value(reader_get(reader, "dtype"));
    if (!name) name = json_string_value(reader_get(reader, "torch_dtype"));
    if (name && strcmp(name, "bfloat16") == 0) return DTYPE_BF16;
    if (name && strcmp(name, "float16") == 0) return DTYPE_F16;
    return DTYPE_F32;
}

static void read_family_options(struct model_config *config, struct reader *reader) {
    bool attention_bias = read_bool(reader, "attention_bias", false);
    config->qkv_bias = config->family == FAMILY_QWEN2 || attention_bias;
    config->o_bias = config->family != FAMILY_QWEN2 && attention_bias;
    config->mlp_bias = config->family == FAMILY_LLAMA && read_bool(reader, "mlp_bias", false);
    config->qk_norm = config->family == FAMILY_QWEN3;
    config->tied = read_bool(reader, "tie_word_embeddings", false);
}

static enum status check_shape(const struct model_config *config, const struct reader *reader) {
    if (reader->status != STATUS_OK) return reader->status;
    if (!config->vocab || !config->hidden || !config->ffn || !config->layers || !config->heads)
        return status_fail(STATUS_FORMAT,
                           "%s: needs vocab_size, hidden_size, intermediate_size, "
                           "num_hidden_layers and num_attention_heads",
                           reader->name);
    if (config->heads % config->kv_heads != 0)
        return status_fail(STATUS_FORMAT,
                           "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d",
                           reader->name, config->heads, config->kv_heads);
    if (config->head_dim % 2 != 0)
        return status_fail(STATUS_FORMAT, "%s: head_dim %d is odd, which RoPE can't pair",
                           reader->name, config->head_dim);
    const char *activation = json_string_value(reader_get(reader, "hidden_act"));
    if (activation && strcmp(activation, "silu") != 0)
        return status_fail(STATUS_UNSUPPORTED, "%s: hidden_act '%s' is not silu", reader->name,
                           activation);
    if (reader_get(reader, "quantization_config"))
        return status_fail(STATUS_UNSUPPORTED, "%s: quantization_config is not supported",
                           reader->name);
    return STATUS_OK;
}

static enum status read_object(struct model_config *config, struct reader *reader) {
    TRY(read_family(config, reader));
    config->vocab = read_integer(reader, "vocab_size", 1, 1 << 24, 0);
    config->hidden = read_integer(reader, "hidden_size", 1, 1 << 20, 0);
    config->ffn = read_integer(reader, "intermediate_size", 1, 1 << 22, 0);
    config->layers = (int)read_integer(reader, "num_hidden_layers", 1, MODEL_MAX_LAYERS, 0);
    config->heads = (int)read_integer(reader, "num_attention_heads", 1, 4096, 0);
    config->kv_heads = (int)read_integer(reader, "num_key_value_heads", 1, 4096,
                                         config->heads ? config->heads : 1);
    int64_t even_split = config->heads ? config->hidden / config->heads : 0;
    config->head_dim = (int)read_integer(reader, "head_dim", 1, 1024, even_split);
    config->norm_eps = (float)read_positive(reader, "rms_norm_eps", 1.0, 1e-6);
    config->max_context = read_integer(reader, "max_position_embeddings", 1, INT32_MAX, 2048);
    config->bos = (int32_t)read_integer(reader, "bos_token_id", -1, INT32_MAX, -1);
    config->dtype = read_dtype(reader);
    read_eos(config, reader_get(reader, "eos_token_id"));
    read_family_options(config, reader);
    TRY(check_shape(config, reader));
    TRY(read_rope(config, reader));
    return read_windows(config, reader);
}

static void clear(struct model_config *config) {
    *config = (struct model_config){.bos = -1, .temperature = -1, .top_p = -1, .top_k = -1};
}

static enum status read_root(struct model_config *config, json_t *root, const char *name) {
    clear(config);
    struct reader reader = {.name = name, .object = root};
    enum status status = json_is_object(root)
                             ? read_object(config, &reader)
                             : status_fail(STATUS_FORMAT, "%s: not a JSON object", name);
    json_decref(root);
    return status == STATUS_OK ? reader.status : status;
}

enum status model_config_parse_hf(struct model_config *config, const char *json, size_t bytes,
                                  const char *name) {
    json_t *root;
    TRY(json_parse_bytes(&root, json, bytes, name, JSON_REJECT_DUPLICATES));
    return read_root(config, root, name);
}

/* Defaults of requests; the file is optional, and what it can't say is left alone. */
static void read_generation(struct model_config *config, const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/generation_config.json", directory);
    json_t *root = json_load_file(path, 0, NULL);
    const json_t *eos = json_object_get(root, "eos_token_id");
    if (eos) read_eos(config, eos);
    if (json_is_true(json_object_get(root, "do_sample"))) {
        const json_t *temperature = json_object_get(root, "temperature");
        const json_t *top_p = json_object_get(root, "top_p");
        const json_t *top_k = json_object_get(root, "top_k");
        if (json_is_number(temperature)) config->temperature = json_number_value(temperature);
        if (json_is_number(top_p)) config->top_p = json_number_value(top_p);
        if (json_is_integer(top_k)) config->top_k = (int)json_integer_value(top_k);
    }
    json_decref(root);
}

enum status model_config_read_json(struct model_config *config, const char *path) {
    json_t *root;
    TRY(json_parse_file(&root, path));
    return read_root(config, root, path);
}

enum status model_config_read_hf(struct model_config *config, const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", directory);
    TRY(model_config_read_json(config, path));
    read_generation(config, directory);
    return STATUS_OK;
}

enum status model_config_read(struct model_config *config, const struct model_file *file) {
    if (file->format == MODEL_GGUF) return model_config_read_gguf(config, file);
    enum status status = model_config_read_hf(config, file->directory);
    if (status == STATUS_IO) return path_hint_model(status, file->directory);
    TRY(status);
    char head[WEIGHT_NAME_BYTES];
    weight_name_hf(head, WEIGHT_HEAD, -1);
    if (!model_file_find(file, head)) config->tied = true;
    return STATUS_OK;
}

static json_t *rope_object(const struct model_config *config) {
    const struct rope_config *rope = &config->rope;
    static const char *const names[] = {[ROPE_SCALING_NONE] = "default",
                                        [ROPE_SCALING_LINEAR] = "linear",
                                        [ROPE_SCALING_DYNAMIC] = "dynamic",
                                        [ROPE_SCALING_LLAMA3] = "llama3",
                                        [ROPE_SCALING_YARN] = "yarn"};
    json_t *object = json_pack("{s:s, s:f, s:f}", "rope_type", names[rope->scaling], "rope_theta",
                               rope->theta, "factor", rope->factor);
    /* Hugging Face warns of the key where the scaling has no use for it */
    if (rope->original_context != config->max_context || rope->scaling == ROPE_SCALING_LLAMA3 ||
        rope->scaling == ROPE_SCALING_YARN)
        json_object_set_new(object, "original_max_position_embeddings",
                            json_integer(rope->original_context));
    if (rope->scaling == ROPE_SCALING_LLAMA3) {
        json_object_set_new(object, "low_freq_factor", json_real(rope->low_frequency_factor));
        json_object_set_new(object, "high_freq_factor", json_real(rope->high_frequency_factor));
    }
    if (rope->scaling == ROPE_SCALING_YARN) {
        json_object_set_new(object, "beta_fast", json_real(rope->beta_fast));
        json_object_set_new(object, "beta_slow", json_real(rope->beta_slow));
        json_object_set_new(object, "truncate", json_boolean(rope->truncate));
        if (rope->attention_factor > 0)
            json_object_set_new(object, "attention_factor", json_real(rope->attention_factor));
        if (rope->mscale > 0) json_object_set_new(object, "mscale", json_real(rope->mscale));
        if (rope->mscale_all_dim > 0)
            json_object_set_new(object, "mscale_all_dim", json_real(rope->mscale_all_dim));
    }
    return object;
}

static json_t *layer_types(const struct model_config *config) {
    json_t *types = json_array();
    for (int layer = 0; layer < config->layers; layer++)
        json_array_append_new(
            types, json_string(config->sliding[layer] ? "sliding_attention" : "full_attention"));
    return types;
}

static void write_family_options(json_t *root, const struct model_config *config) {
    bool qwen = config->family == FAMILY_QWEN2 || config->family == FAMILY_QWEN3;
    if (config->family != FAMILY_QWEN2)
        json_object_set_new(root, "attention_bias", json_boolean(config->qkv_bias));
    if (config->family == FAMILY_LLAMA)
        json_object_set_new(root, "mlp_bias", json_boolean(config->mlp_bias));
    if (config->family != FAMILY_LLAMA)
        json_object_set_new(root, "sliding_window",
                            config->window ? json_integer(config->window) : json_null());
    if (qwen) {
        json_object_set_new(root, "use_sliding_window", json_boolean(config->window > 0));
        json_object_set_new(root, "layer_types", layer_types(config));
    }
}

enum status model_config_write_hf(const struct model_config *config, char **json) {
    json_t *root = json_pack(
        "{s:[s], s:s, s:I, s:I, s:I, s:i, s:i, s:i, s:i, s:f, s:I, s:s, s:b, s:f, s:s, s:s}",
        "architectures", families[config->family].architecture, "model_type",
        families[config->family].name, "vocab_size", (json_int_t)config->vocab, "hidden_size",
        (json_int_t)config->hidden, "intermediate_size", (json_int_t)config->ffn,
        "num_hidden_layers", config->layers, "num_attention_heads", config->heads,
        "num_key_value_heads", config->kv_heads, "head_dim", config->head_dim, "rms_norm_eps",
        (double)config->norm_eps, "max_position_embeddings", (json_int_t)config->max_context,
        "hidden_act", "silu", "tie_word_embeddings", config->tied, "rope_theta", config->rope.theta,
        "torch_dtype",
        config->dtype == DTYPE_BF16  ? "bfloat16"
        : config->dtype == DTYPE_F16 ? "float16"
                                     : "float32",
        "transformers_version", "4.56.0");
    json_object_set_new(root, "bos_token_id",
                        config->bos >= 0 ? json_integer(config->bos) : json_null());
    json_t *eos = json_array();
    for (int i = 0; i < config->eos_count; i++)
        json_array_append_new(eos, json_integer(config->eos[i]));
    if (config->eos_count == 0) json_object_set_new(root, "eos_token_id", json_null());
    if (config->eos_count > 0) json_object_set(root, "eos_token_id", eos);
    json_decref(eos);
    json_object_set_new(root, "rope_scaling",
                        config->rope.scaling == ROPE_SCALING_NONE ? json_null()
                                                                  : rope_object(config));
    write_family_options(root, config);
    *json = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(root);
    return *json ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory to write config.json");
}

int64_t model_config_parameters(const struct model_config *config) {
    int64_t total = 0;
    for (int id = 0; id < WEIGHT_COUNT; id++) {
        if (!weight_present(config, (enum weight_id)id)) continue;
        const struct weight_row *row = &weight_table[id];
        int64_t elements = weight_dim_size(config, row->rows) * weight_dim_size(config, row->cols);
        total += elements * (row->per_layer ? config->layers : 1);
    }
    return total;
}

double model_config_training_flops(const struct model_config *config, int64_t length, bool frozen) {
    double matrices = (double)model_config_parameters(config);
    if (!config->tied) matrices -= (double)(config->vocab * config->hidden);
    double attention = 6.0 * config->layers * config->heads * config->head_dim * (double)length;
    return (frozen ? 4.0 : 6.0) * matrices + attention;
}
