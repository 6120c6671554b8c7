#define _GNU_SOURCE
#include "core/export_internal.h"

#include "core/atomic_file.h"
#include "core/safetensors_write.h"
#include "kernels/base/units.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { EXPORT_ROWS = 64, COPY_BYTES = 1 << 20 };

/* The largest magnitude that rounds to a finite value of the dtype. */
static float largest_of(enum dtype dtype) {
    if (dtype == DTYPE_F16) return 65519.0f;
    if (dtype == DTYPE_Q8_0) return 127.0f * 65504.0f; /* the scale is F16 */
    return INFINITY;
}

static enum dtype spec_dtype(const struct export_request *request, const struct param *param) {
    if (request->format == EXPORT_SAFETENSORS) return request->dtype;
    if (weight_is_vector(param->id)) return DTYPE_F32;
    bool whole = param->w.cols % dtype_info(request->dtype)->block_elements == 0;
    return whole ? request->dtype : DTYPE_F16;
}

static void list_param(struct export_list *list, const struct export_request *request,
                       const struct param *param) {
    int i = list->count++;
    if (request->format == EXPORT_GGUF)
        weight_name_gguf(list->names[i], param->id, param->layer);
    else
        weight_name_hf(list->names[i], param->id, param->layer);
    list->params[i] = param;
    list->specs[i] = (struct tensor_spec){.name = list->names[i],
                                          .dtype = spec_dtype(request, param),
                                          .dims = 2,
                                          .shape = {param->w.rows, param->w.cols}};
    if (!weight_is_vector(param->id)) return;
    list->specs[i].dims = 1;
    list->specs[i].shape[0] = param->w.cols;
}

enum status export_list_create(struct export_list *list, const struct export_request *request) {
    const struct model *model = request->model;
    size_t room = (size_t)model->param_count + 1;
    *list = (struct export_list){.specs = calloc(room, sizeof *list->specs),
                                 .params = calloc(room, sizeof *list->params),
                                 .names = calloc(room, sizeof *list->names)};
    if (!list->specs || !list->params || !list->names) {
        export_list_free(list);
        return status_fail(STATUS_MEMORY, "no memory for a list of %zu tensors", room);
    }
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i].w.data) list_param(list, request, &model->params[i]);
    return STATUS_OK;
}

void export_list_free(struct export_list *list) {
    free(list->specs);
    free(list->params);
    free(list->names);
    *list = (struct export_list){0};
}

static enum status check_range(const float *values, int64_t count, enum dtype dtype,
                               const char *name) {
    float largest = largest_of(dtype);
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(values[i]) <= largest))
            return status_fail(STATUS_NUMERIC, "tensor %s holds %g, which %s can't", name,
                               (double)values[i], dtype_info(dtype)->name);
    return STATUS_OK;
}

/* Rows [first, first + count) of the file; those that follow each other in memory are read at once.
 */
static enum status read_rows(const struct export_request *request, const struct param *param,
                             int64_t first, int64_t count, float *values) {
    for (int64_t i = 0, run; i < count; i += run) {
        int64_t row = export_source_row(request, param, first + i);
        for (run = 1; i + run < count; run++)
            if (export_source_row(request, param, first + i + run) != row + run) break;
        TRY(param_read_from(request->source, values + i * param->w.cols, param, row, run));
    }
    return STATUS_OK;
}

static enum status append_rows(struct tensor_sink *sink, const struct export_request *request,
                               const struct param *param, float *values) {
    int64_t rows = param->w.rows, cols = param->w.cols;
    enum dtype dtype = spec_dtype(request, param);
    for (int64_t first = 0; first < rows; first += EXPORT_ROWS) {
        int64_t count = min_i64(rows - first, EXPORT_ROWS);
        TRY(read_rows(request, param, first, count, values));
        TRY(check_range(values, count * cols, dtype, param->name));
        TRY(tensor_sink_append_f32(sink, values, (size_t)(count * cols)));
    }
    return STATUS_OK;
}

/* A bias of a permuted projection is permuted like its rows. */
static enum status append_vector(struct tensor_sink *sink, const struct export_request *request,
                                 const struct param *param, float *values) {
    float *source = values + param->w.cols;
    TRY(param_read_from(request->source, source, param, 0, 1));
    for (int64_t i = 0; i < param->w.cols; i++)
        values[i] = source[export_source_row(request, param, i)];
    TRY(check_range(values, param->w.cols, spec_dtype(request, param), param->name));
    return tensor_sink_append_f32(sink, values, (size_t)param->w.cols);
}

enum status export_append(struct tensor_sink *sink, const struct export_request *request,
                          const struct param *param) {
    float *values = malloc((size_t)param->w.cols * EXPORT_ROWS * sizeof *values);
    if (!values) return status_fail(STATUS_MEMORY, "no memory to write %s", param->name);
    enum status status = weight_is_vector(param->id) ? append_vector(sink, request, param, values)
                                                     : append_rows(sink, request, param, values);
    free(values);
    return status;
}

static enum status copy_bytes(FILE *in, struct atomic_file *out, const char *from) {
    char *chunk = malloc(COPY_BYTES);
    if (!chunk) return status_fail(STATUS_MEMORY, "no memory to copy %s", from);
    enum status status = STATUS_OK;
    uint64_t offset = 0;
    size_t bytes;
    while (status == STATUS_OK && (bytes = fread(chunk, 1, COPY_BYTES, in)) > 0) {
        status = atomic_file_write(out, offset, chunk, bytes);
        offset += bytes;
    }
    if (status == STATUS_OK && ferror(in))
        status = status_fail(STATUS_IO, "%s: %s", from, strerror(errno));
    free(chunk);
    return status;
}

static enum status copy_file(const char *from, const char *to) {
    FILE *in = fopen(from, "rb");
    if (!in) return status_fail(STATUS_IO, "%s: %s", from, strerror(errno));
    struct atomic_file out = {0};
    enum status status = atomic_file_create(&out, to, 0);
    if (status == STATUS_OK) status = copy_bytes(in, &out, from);
    if (status == STATUS_OK) status = atomic_file_commit(&out);
    atomic_file_close(&out);
    fclose(in);
    return status;
}

static bool is_companion(const char *name) {
    static const char *const names[] = {"tokenizer.json",     "tokenizer_config.json",
                                        "tokenizer.model",    "special_tokens_map.json",
                                        "added_tokens.json",  "vocab.json",
                                        "merges.txt",         "chat_template.jinja",
                                        "chat_template.json", "generation_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    const char *ending = strrchr(name, '.');
    return ending && strcmp(ending, ".tiktoken") == 0;
}

static enum status copy_companions(const char *from, const char *to) {
    struct stat source, target;
    bool same = stat(from, &source) == 0 && stat(to, &target) == 0 &&
                source.st_dev == target.st_dev && source.st_ino == target.st_ino;
    if (same) return STATUS_OK;
    DIR *directory = opendir(from);
    if (!directory) return status_fail(STATUS_IO, "%s: %s", from, strerror(errno));
    enum status status = STATUS_OK;
    for (const struct dirent *entry; status == STATUS_OK && (entry = readdir(directory));) {
        char old_path[4096], new_path[4096];
        if (!is_companion(entry->d_name)) continue;
        snprintf(old_path, sizeof old_path, "%s/%s", from, entry->d_name);
        snprintf(new_path, sizeof new_path, "%s/%s", to, entry->d_name);
        status = copy_file(old_path, new_path);
    }
    closedir(directory);
    return status;
}

void export_rope_divisors(const struct model *model, double *divisors) {
    const struct model_config *c = &model->config;
    struct rope_config plain = c->rope;
    plain.scaling = ROPE_SCALING_NONE;
    rope_frequencies(divisors, &plain, c->head_dim);
    for (int i = 0; i < c->head_dim / 2; i++) divisors[i] /= model->inverse_frequency[i];
}

/* A model from GGUF has its frequencies' divisors, not their rule. All models that have them are
 * Llama 3.1 and later, whose rule differs in its factor alone; config.json gets that rule where it
 * gives the divisors. */
static enum status name_divisors(struct model_config *config, const struct model *model) {
    if (config->rope.scaling != ROPE_SCALING_NONE) return STATUS_OK;
    double divisors[512], wanted[512], largest = 1.0;
    int half = config->head_dim / 2;
    export_rope_divisors(model, divisors);
    for (int i = 0; i < half; i++) largest = fmax(largest, divisors[i]);
    if (largest < 1.0 + 1e-6) return STATUS_OK;
    struct rope_config *rope = &config->rope;
    rope->scaling = ROPE_SCALING_LLAMA3;
    rope->factor = round(largest * 1e4) / 1e4;
    rope->low_frequency_factor = 1.0;
    rope->high_frequency_factor = 4.0;
    rope->original_context = 8192;
    rope_frequencies(wanted, rope, config->head_dim);
    for (int i = 0; i < half; i++)
        if (!(fabs(model->inverse_frequency[i] / wanted[i] - 1.0) < 1e-5))
            return status_fail(STATUS_UNSUPPORTED,
                               "the rotation's frequency divisors are not those of Llama 3, so "
                               "config.json can't say them");
    return STATUS_OK;
}

static enum status write_config(const struct export_request *request) {
    char path[4096], *json;
    struct model_config config = request->model->config;
    config.dtype = request->dtype;
    TRY(name_divisors(&config, request->model));
    snprintf(path, sizeof path, "%s/config.json", request->path);
    TRY(model_config_write_hf(&config, &json));
    enum status status = atomic_file_replace(path, json, strlen(json));
    free(json);
    return status;
}

static enum status write_tensors(const struct export_request *request) {
    char path[4096];
    struct export_list list;
    struct tensor_sink sink;
    const struct file_note note = {"format", "pt"};
    snprintf(path, sizeof path, "%s/model.safetensors", request->path);
    TRY(export_list_create(&list, request));
    enum status status = safetensors_create(&sink, path, list.specs, list.count, &note, 1);
    if (status == STATUS_OK) {
        for (int i = 0; i < list.count && status == STATUS_OK; i++)
            status = export_append(&sink, request, list.params[i]);
        if (status == STATUS_OK) status = tensor_sink_finish(&sink);
        tensor_sink_close(&sink);
    }
    export_list_free(&list);
    return status;
}

static enum status export_safetensors(const struct export_request *request) {
    if (request->dtype == DTYPE_Q8_0)
        return status_fail(STATUS_UNSUPPORTED, "safetensors has no Q8_0; GGUF does");
    if (mkdir(request->path, 0777) != 0 && errno != EEXIST)
        return status_fail(STATUS_IO, "%s: %s", request->path, strerror(errno));
    TRY(write_tensors(request));
    if (request->companions && *request->companions)
        TRY(copy_companions(request->companions, request->path));
    return write_config(request);
}

enum status export_model(const struct export_request *request) {
    enum status status =
        request->format == EXPORT_GGUF ? export_gguf(request) : export_safetensors(request);
    /* what the system refuses names its file already */
    if (status == STATUS_OK || status == STATUS_IO) return status;
    return status_context(status, "%s", request->path);
}
