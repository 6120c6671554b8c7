/* Weights of a file into a model: names, shapes, and the conventions that end here. */
#define _GNU_SOURCE
#include "core/model_build.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { LOAD_ROWS = 64 }; /* rows dequantized at a time; a multiple of PANEL_ROWS */

static enum status find_tensor(const struct model_file *file, const struct param *param,
                               const struct file_tensor **tensor) {
    char name[WEIGHT_NAME_BYTES];
    if (file->format == MODEL_GGUF) {
        weight_name_gguf(name, param->id, param->layer);
    } else {
        weight_name_hf(name, param->id, param->layer);
    }
    *tensor = model_tensor(file, param->id, param->layer);
    if (!*tensor) return status_fail(STATUS_FORMAT, "%s: tensor %s is missing", file->path, name);
    const struct param_slice *whole = &param->slice;
    const int64_t *shape = (*tensor)->shape;
    bool vector = weight_is_vector(param->id) && (*tensor)->dims == 1 && shape[0] == whole->cols;
    bool matrix = !weight_is_vector(param->id) && (*tensor)->dims == 2 && shape[0] == whole->rows &&
                  shape[1] == whole->cols;
    if (vector || matrix) return STATUS_OK;
    return status_fail(STATUS_SHAPE, "%s: tensor %s has shape [%lld%s%.0lld], want [%lld, %lld]",
                       file->path, name, (long long)shape[0], (*tensor)->dims > 1 ? ", " : "",
                       (*tensor)->dims > 1 ? (long long)shape[1] : 0LL, (long long)whole->rows,
                       (long long)whole->cols);
}

/* The stored row that holds logical row `row`. GGUF's llama files keep q and k rows of a head as
 * pairs (2i, 2i+1) for interleaved RoPE; Hugging Face's order is halves (i, i + D/2). */
static int64_t stored_row(const struct model_file *file, const struct model_config *config,
                          const struct param *param, int64_t row) {
    bool permuted = file->format == MODEL_GGUF &&
                    (config->family == FAMILY_LLAMA || config->family == FAMILY_MISTRAL) &&
                    weight_table[param->id].order != ORDER_PLAIN;
    if (!permuted) return row;
    int64_t half = config->head_dim / 2, within = row % config->head_dim;
    return row - within + within % half * 2 + within / half;
}

static bool all_finite(const float *values, int64_t count) {
    /* x - x is 0 for finite x and NaN otherwise, so the sum tells without a branch an element */
    float sum = 0.0f;
    for (int64_t i = 0; i < count; i++) sum += values[i] - values[i];
    return sum == 0.0f;
}

/* A buffer for load_rows: the rows, whole where NF4's scales are made of them, and a whole row of
 * the file where a slice of it is kept. */
static size_t buffer_floats(const struct param *param) {
    int64_t cols = layout_is_quantized(param->w.layout) ? param->slice.cols : param->w.cols;
    return (size_t)(cols * LOAD_ROWS + param->slice.cols);
}

static enum status not_finite(const struct file_tensor *tensor, int64_t first, int64_t count) {
    return status_fail(STATUS_NUMERIC, "%s: tensor %s holds NaN or infinity in rows %lld-%lld",
                       tensor->file, tensor->name, (long long)first,
                       (long long)(first + count - 1));
}

/* The same for a weight that stays quantized. */
static enum status load_quantized_rows(const struct model_file *file,
                                       const struct model_config *config, const struct param *param,
                                       const struct file_tensor *tensor, int64_t first,
                                       int64_t count, float *values) {
    int64_t whole = param->slice.cols, begin = param->slice.first_row + first;
    for (int64_t i = 0; i < count; i++) {
        int64_t row = stored_row(file, config, param, begin + i);
        TRY(file_tensor_read_f32(tensor, row * whole, whole, values + i * whole));
        if (!all_finite(values + i * whole, whole)) return not_finite(tensor, begin + i, 1);
        if (param->w.layout < LAYOUT_STORED) continue;
        size_t at = dtype_bytes(tensor->dtype, (size_t)(row * whole + param->slice.first_col));
        weight_pack_stored(&param->w, first + i, (const char *)tensor->data + at);
    }
    if (param->w.layout < LAYOUT_STORED)
        weight_pack_slice(&param->w, first, count, values, whole, param->slice.first_col);
    return STATUS_OK;
}

/* Rows [first, first + count) of the parameter. A row is read whole: blocks of quantized types need
 * not end where a slice does. */
static enum status load_rows(const struct model_file *file, const struct model_config *config,
                             const struct param *param, const struct file_tensor *tensor,
                             int64_t first, int64_t count, float *values) {
    int64_t cols = param->w.cols, whole = param->slice.cols, begin = param->slice.first_row + first;
    if (layout_is_quantized(param->w.layout))
        return load_quantized_rows(file, config, param, tensor, first, count, values);
    for (int64_t i = 0; i < count; i++) {
        float *row = values + i * cols, *target = cols == whole ? row : values + LOAD_ROWS * cols;
        TRY(file_tensor_read_f32(tensor, stored_row(file, config, param, begin + i) * whole, whole,
                                 target));
        if (cols != whole) memcpy(row, target + param->slice.first_col, (size_t)cols * sizeof *row);
    }
    if (!all_finite(values, count * cols)) return not_finite(tensor, begin, count);
    weight_pack(&param->w, first, count, values);
    return STATUS_OK;
}

/* A bias of a permuted projection is permuted like its rows. */
static enum status load_vector(const struct model_file *file, const struct model_config *config,
                               const struct param *param, const struct file_tensor *tensor,
                               float *values) {
    float *out = param->w.data;
    int64_t first = param->slice.first_col;
    TRY(file_tensor_read_f32(tensor, 0, param->slice.cols, values));
    for (int64_t i = 0; i < param->w.cols; i++)
        out[i] = values[stored_row(file, config, param, first + i)];
    if (!all_finite(out, param->w.cols))
        return status_fail(STATUS_NUMERIC, "%s: tensor %s holds NaN or infinity", tensor->file,
                           tensor->name);
    return STATUS_OK;
}

enum status model_load_param(const struct model *model, const struct model_file *file,
                             const struct param *param, int threads) {
    const struct model_config *config = &model->config;
    const struct file_tensor *tensor;
    TRY(find_tensor(file, param, &tensor));
    int64_t chunks = (param->w.rows + LOAD_ROWS - 1) / LOAD_ROWS;
    bool vector = weight_is_vector(param->id);
    if (vector) chunks = 1;
    enum status failed = STATUS_OK;
    char message[1024];
#pragma omp parallel num_threads(threads)
    {
        float *values = malloc(buffer_floats(param) * sizeof *values);
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            int64_t first = chunk * LOAD_ROWS;
            int64_t count = param->w.rows - first < LOAD_ROWS ? param->w.rows - first : LOAD_ROWS;
            enum status status =
                !values  ? status_fail(STATUS_MEMORY, "no memory to load %s", tensor->name)
                : vector ? load_vector(file, config, param, tensor, values)
                         : load_rows(file, config, param, tensor, first, count, values);
            if (status == STATUS_OK) continue;
#pragma omp critical(strata_load_failure)
            if (failed == STATUS_OK) {
                failed = status;
                strcpy(message, status_message()); /* the message belongs to this thread */
            }
        }
        free(values);
    }
    model_file_forget(file, tensor); /* else weights would be in memory twice by the end */
    return failed == STATUS_OK ? STATUS_OK : status_fail(failed, "%s", message);
}

/* GGUF stores Llama 3's frequency scaling as divisors of the frequencies. */
static enum status load_frequency_divisors(struct model *model, const struct model_file *file) {
    const struct file_tensor *tensor =
        file->format == MODEL_GGUF ? model_file_find(file, "rope_freqs.weight") : NULL;
    if (!tensor) return STATUS_OK;
    int64_t half = model->config.head_dim / 2;
    float divisors[512];
    if (tensor->elements != half)
        return status_fail(STATUS_SHAPE, "%s: rope_freqs.weight has %lld elements, want %lld",
                           file->path, (long long)tensor->elements, (long long)half);
    TRY(file_tensor_read_f32(tensor, 0, half, divisors));
    for (int64_t i = 0; i < half; i++) {
        if (!(divisors[i] > 0.0f))
            return status_fail(STATUS_NUMERIC, "%s: rope_freqs.weight[%lld] is not positive",
                               file->path, (long long)i);
        model->inverse_frequency[i] /= (double)divisors[i];
    }
    return STATUS_OK;
}

enum layout model_layout_auto(const struct model_config *config, const struct model_file *file) {
    const struct file_tensor *tensor = model_tensor(file, WEIGHT_Q, 0);
    bool bf16 = tensor ? tensor->dtype == DTYPE_BF16 : config->dtype == DTYPE_BF16;
    return bf16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32;
}

static struct model_request request_of(const struct model_config *config,
                                       const struct model_file *file, const struct shard *shard,
                                       enum layout matrices) {
    if (matrices == LAYOUT_COUNT) matrices = model_layout_auto(config, file);
    return (struct model_request){config, shard, matrices, file};
}

static enum status read_config(struct model_config *config, const struct model_file *file,
                               int64_t context) {
    TRY(model_config_read(config, file));
    if (context > 0) config->rope.context = context;
    return STATUS_OK;
}

enum status model_plan(struct model *model, const struct model_file *file,
                       const struct shard *shard, enum layout matrices, int64_t context) {
    struct model_config config;
    struct arena counted;
    arena_count(&counted, "weights");
    TRY(read_config(&config, file, context));
    const struct model_request request = request_of(&config, file, shard, matrices);
    TRY(model_describe_request(model, &request, &counted));
    model->arena = counted;
    enum status status = load_frequency_divisors(model, file);
    if (status != STATUS_OK) model_free(model);
    return status;
}

enum status model_load(struct model *model, const struct model_file *file,
                       const struct shard *shard, enum layout matrices, int64_t context,
                       int threads) {
    struct model_config config;
    TRY(read_config(&config, file, context));
    const struct model_request request = request_of(&config, file, shard, matrices);
    TRY(model_create_request(model, &request));
    enum status status = load_frequency_divisors(model, file);
    for (int i = 0; i < model->param_count && status == STATUS_OK; i++)
        if (model->params[i].w.data)
            status = model_load_param(model, file, &model->params[i], threads);
    if (status != STATUS_OK) model_free(model);
    return status;
}
