/* Adapters in PEFT's format: adapter_config.json beside adapter_model.safetensors. */
#define _GNU_SOURCE
#include "core/adapter.h"

#include "core/atomic_file.h"
#include "core/json_util.h"
#include "core/path_hint.h"
#include "core/safetensors_write.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A key whose value must be absent, null, false, empty or `allowed`: what else it says changes the
 * arithmetic in a way that is not ours. */
static enum status refuse_option(const json_t *root, const char *name, const char *key,
                                 const char *allowed) {
    const json_t *value = json_object_get(root, key);
    if (!value || json_is_null(value) || json_is_false(value)) return STATUS_OK;
    if ((json_is_object(value) && json_object_size(value) == 0) ||
        (json_is_array(value) && json_array_size(value) == 0))
        return STATUS_OK;
    if (allowed && json_is_string(value) && strcmp(json_string_value(value), allowed) == 0)
        return STATUS_OK;
    return status_fail(STATUS_UNSUPPORTED, "%s: '%s' is set to something not supported", name, key);
}

static enum status add_target(struct adapter_config *config, const char *module, const char *name) {
    enum weight_id id = weight_find_module(module);
    if (id == WEIGHT_NONE || !weight_table[id].lora_target)
        return status_fail(STATUS_UNSUPPORTED,
                           "%s: target module '%s' is not one of q_proj, k_proj, v_proj, o_proj, "
                           "gate_proj, up_proj, down_proj",
                           name, module);
    config->targets[id] = true;
    return STATUS_OK;
}

static enum status read_targets(struct adapter_config *config, const json_t *root,
                                const char *name) {
    const json_t *modules = json_object_get(root, "target_modules");
    if (json_is_string(modules)) {
        if (strcmp(json_string_value(modules), "all-linear") != 0)
            return add_target(config, json_string_value(modules), name);
        for (int id = 0; id < WEIGHT_COUNT; id++)
            config->targets[id] = weight_table[id].lora_target;
        return STATUS_OK;
    }
    if (!json_is_array(modules) || json_array_size(modules) == 0)
        return status_fail(STATUS_FORMAT, "%s: 'target_modules' must be a list of names", name);
    size_t i;
    json_t *item;
    json_array_foreach(modules, i, item) {
        if (!json_is_string(item))
            return status_fail(STATUS_FORMAT, "%s: 'target_modules' must be a list of names", name);
        TRY(add_target(config, json_string_value(item), name));
    }
    return STATUS_OK;
}

static enum status read_config_object(struct adapter_config *config, const json_t *root,
                                      const char *name) {
    *config = (struct adapter_config){0};
    const char *type = NULL;
    TRY(json_field_string(root, name, "peft_type", JSON_REQUIRED, &type));
    if (strcmp(type, "LORA") != 0)
        return status_fail(STATUS_UNSUPPORTED, "%s: peft_type '%s' is not LORA", name, type);
    int64_t rank = 0;
    TRY(json_field_i64(root, name, "r", JSON_REQUIRED, 1, 4096, &rank));
    config->rank = (int)rank;
    TRY(json_field_f64(root, name, "lora_alpha", JSON_REQUIRED, &config->alpha));
    TRY(json_field_f64(root, name, "lora_dropout", JSON_OPTIONAL, &config->dropout));
    TRY(json_field_bool(root, name, "use_rslora", JSON_OPTIONAL, &config->rslora));
    TRY(refuse_option(root, name, "use_dora", NULL));
    TRY(refuse_option(root, name, "bias", "none"));
    TRY(refuse_option(root, name, "fan_in_fan_out", NULL));
    TRY(refuse_option(root, name, "modules_to_save", NULL));
    TRY(refuse_option(root, name, "rank_pattern", NULL));
    TRY(refuse_option(root, name, "alpha_pattern", NULL));
    TRY(refuse_option(root, name, "layers_to_transform", NULL));
    return read_targets(config, root, name);
}

enum status adapter_read_config(struct adapter_config *config, const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/adapter_config.json", directory);
    json_t *root;
    enum status status = json_parse_file(&root, path);
    if (status == STATUS_IO) return path_hint_adapter(status, directory);
    TRY(status);
    status = json_is_object(root) ? read_config_object(config, root, path)
                                  : status_fail(STATUS_FORMAT, "%s: not a JSON object", path);
    json_decref(root);
    return status;
}

static enum status find_factor(const struct model_file *file, const struct param *param,
                               const struct file_tensor **found) {
    const struct file_tensor *tensor = *found = model_file_find(file, param->name);
    if (!tensor)
        return status_fail(STATUS_FORMAT, "%s: tensor %s is missing", file->path, param->name);
    const struct param_slice *slice = &param->slice;
    if (tensor->dims == 2 && tensor->shape[0] == slice->rows && tensor->shape[1] == slice->cols)
        return STATUS_OK;
    return status_fail(STATUS_SHAPE, "%s: tensor %s doesn't have the shape [%lld, %lld]",
                       file->path, param->name, (long long)slice->rows, (long long)slice->cols);
}

static enum status load_factor(const struct model_file *file, const struct param *param) {
    const struct file_tensor *tensor;
    TRY(find_factor(file, param, &tensor));
    const struct param_slice *slice = &param->slice;
    int64_t rows = param->w.rows, cols = param->w.cols;
    float *values = malloc((size_t)(rows * cols) * sizeof *values);
    if (!values) return status_fail(STATUS_MEMORY, "no memory to load %s", param->name);
    enum status status = STATUS_OK;
    for (int64_t r = 0; r < rows && status == STATUS_OK; r++)
        status =
            file_tensor_read_f32(tensor, (slice->first_row + r) * slice->cols + slice->first_col,
                                 cols, values + r * cols);
    for (int64_t i = 0; i < rows * cols && status == STATUS_OK; i++)
        if (!isfinite(values[i]))
            status = status_fail(STATUS_NUMERIC, "%s: tensor %s holds NaN or infinity", file->path,
                                 param->name);
    if (status == STATUS_OK) weight_pack(&param->w, 0, rows, values);
    free(values);
    return status;
}

/* Tensors of a file for all layers, of which this rank may hold some. */
static int expected_tensors(const struct adapter *adapter) {
    int modules = 0;
    for (int id = 0; id < WEIGHT_COUNT; id++) modules += adapter->config.targets[id];
    return 2 * modules * adapter->layers;
}

/* Every factor in turn; `load` also reads what it holds. */
static enum status visit_factors(const struct adapter *adapter, const struct model_file *file,
                                 bool load) {
    int expected = expected_tensors(adapter);
    for (int i = 0; i < adapter->param_count; i++) {
        const struct param *param = &adapter->params[i];
        const struct file_tensor *tensor;
        if (!param->w.data) continue;
        TRY(load ? load_factor(file, param) : find_factor(file, param, &tensor));
    }
    if (expected == file->tensor_count) return STATUS_OK;
    return status_fail(STATUS_FORMAT, "%s: holds %d tensors, of which the model's targets use %d",
                       file->path, file->tensor_count, expected);
}

static enum status open_factors(const struct adapter *adapter, const char *directory, bool load) {
    char path[4096];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", directory);
    struct model_file file;
    TRY(model_file_open(&file, path, false));
    enum status status = visit_factors(adapter, &file, load);
    model_file_close(&file);
    return status;
}

enum status adapter_check_file(const struct adapter *adapter, const char *directory) {
    return open_factors(adapter, directory, false);
}

enum status adapter_load(struct adapter *adapter, const char *name, const struct model *model,
                         const char *directory) {
    struct adapter_config config;
    TRY(adapter_read_config(&config, directory));
    TRY(adapter_create_zero(adapter, name, model, &config));
    enum status status = open_factors(adapter, directory, true);
    if (status != STATUS_OK) adapter_free(adapter);
    return status;
}

static json_t *config_object(const struct adapter *adapter, const char *base) {
    const struct adapter_config *c = &adapter->config;
    json_t *modules = json_array();
    for (int id = 0; id < WEIGHT_COUNT; id++)
        if (c->targets[id]) json_array_append_new(modules, json_string(weight_table[id].module));
    return json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:b, s:s, s:b, s:b, s:n, s:o}", "peft_type",
                     "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", base, "r",
                     c->rank, "lora_alpha", c->alpha, "lora_dropout", c->dropout, "use_rslora",
                     c->rslora, "bias", "none", "fan_in_fan_out", 0, "inference_mode", 1,
                     "modules_to_save", "target_modules", modules);
}

static enum status write_config(const struct adapter *adapter, const char *directory,
                                const char *base) {
    char path[4096];
    snprintf(path, sizeof path, "%s/adapter_config.json", directory);
    json_t *root = config_object(adapter, base);
    char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    enum status status = text ? atomic_file_replace(path, text, strlen(text))
                              : status_fail(STATUS_MEMORY, "no memory to write %s", path);
    free(text);
    json_decref(root);
    return status;
}

static enum status write_factor(struct tensor_sink *sink, const struct param_source *source,
                                const struct param *param) {
    size_t elements = (size_t)(param->w.rows * param->w.cols);
    float *values = malloc(elements * sizeof *values);
    if (!values) return status_fail(STATUS_MEMORY, "no memory to write %s", param->name);
    enum status status = param_read_from(source, values, param, 0, param->w.rows);
    if (status == STATUS_OK) status = tensor_sink_append_f32(sink, values, elements);
    free(values);
    return status;
}

static enum status write_factors(const struct adapter *adapter, const struct param_source *source,
                                 const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", directory);
    struct tensor_spec *specs = calloc((size_t)adapter->param_count, sizeof *specs);
    if (!specs) return status_fail(STATUS_MEMORY, "no memory to write %s", path);
    int count = 0;
    for (int i = 0; i < adapter->param_count; i++) {
        const struct param *param = &adapter->params[i];
        if (param->w.data)
            specs[count++] =
                (struct tensor_spec){param->name, DTYPE_F32, 2, {param->w.rows, param->w.cols}};
    }
    const struct file_note note = {"format", "pt"};
    struct tensor_sink sink = {0};
    enum status status = safetensors_create(&sink, path, specs, count, &note, 1);
    for (int i = 0; i < adapter->param_count && status == STATUS_OK; i++)
        if (adapter->params[i].w.data) status = write_factor(&sink, source, &adapter->params[i]);
    if (status == STATUS_OK) status = tensor_sink_finish(&sink);
    tensor_sink_close(&sink);
    free(specs);
    return status;
}

enum status adapter_save(const struct adapter *adapter, const struct param_source *source,
                         const char *directory, const char *base) {
    if (mkdir(directory, 0777) != 0 && errno != EEXIST)
        return status_fail(STATUS_IO, "%s: %s", directory, strerror(errno));
    TRY(write_factors(adapter, source, directory));
    return write_config(adapter, directory, base);
}
