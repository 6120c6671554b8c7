#define _GNU_SOURCE
#include "train/result.h"

#include "core/export.h"
#include "core/log.h"
#include "parallel/checkpoint_reader.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Where the tokenizer's files lie that go with an exported model; "" when nothing names one. */
static void tokenizer_folder(const struct run_options *o, char folder[4096]) {
    const char *path = *o->model.tokenizer ? o->model.tokenizer : o->model.path;
    struct stat found;
    snprintf(folder, 4096, "%s", path);
    if (!*path || (stat(folder, &found) == 0 && S_ISDIR(found.st_mode))) return;
    char *slash = strrchr(folder, '/');
    if (!slash) snprintf(folder, 4096, ".");
    if (slash) slash[slash == folder] = '\0'; /* a file of the root keeps its slash */
}

/* The values of a run whose ranks hold parts of the model: those of its last checkpoint, which the
 * end of a run writes, as this run's layers compute with them. */
struct checkpoint_source {
    struct checkpoint_reader *reader;
    bool bf16;
};

static enum status read_param(void *context, float *out, const struct param *param, int64_t first,
                              int64_t count) {
    const struct checkpoint_source *source = context;
    char name[CHECKPOINT_NAME_BYTES];
    int64_t cols = param->w.cols;
    snprintf(name, sizeof name, "weights/%s", param->name);
    TRY(checkpoint_reader_rows(source->reader, out, name, param->w.rows, cols, first, count));
    bool rounded = source->bf16 && layout_is_bf16(param->w.layout);
    for (int64_t i = 0; i < count * cols && rounded; i++) out[i] = bf16_to_f32(f32_to_bf16(out[i]));
    return STATUS_OK;
}

static enum status write_adapter(const struct trainer *t, const struct adapter *adapter,
                                 const struct param_source *source, const char *path) {
    return adapter_save(adapter, source, path, t->options->model.path);
}

static enum status write_model(const struct trainer *t, const struct model *model,
                               const struct param_source *source, const char *path) {
    char companions[4096];
    tokenizer_folder(t->options, companions);
    const struct export_request request = {.model = model,
                                           .source = source,
                                           .format = EXPORT_SAFETENSORS,
                                           .dtype = model->config.dtype,
                                           .path = path,
                                           .companions = companions};
    return export_model(&request);
}

/* Writes the whole of what this rank has a part of. */
static enum status write_whole(const struct trainer *t, const struct model *model,
                               const struct param_source *source, const char *path) {
    if (!t->trained) return write_model(t, model, source, path);
    struct adapter adapter;
    struct arena counted;
    arena_count(&counted, "adapter");
    TRY(adapter_describe(&adapter, model, &t->adapter.config, &counted));
    enum status status = write_adapter(t, &adapter, source, path);
    adapter_free(&adapter);
    return status;
}

static enum status write_from_checkpoint(const struct trainer *t, const char *path) {
    struct checkpoint_source from = {.bf16 = t->kernels->act == DTYPE_BF16};
    const struct param_source source = {read_param, &from};
    char directory[4096];
    struct arena counted;
    struct model model;
    snprintf(directory, sizeof directory, "%s/checkpoints", t->options->train.out);
    TRY(checkpoint_reader_open(&from.reader, directory, t->step));
    arena_count(&counted, "weights");
    enum layout matrices = from.bf16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32;
    enum status status = model_describe(&model, &t->model.config, NULL, matrices, &counted);
    if (status == STATUS_OK) {
        memcpy(model.inverse_frequency, t->model.inverse_frequency,
               (size_t)model.config.head_dim / 2 * sizeof *model.inverse_frequency);
        status = write_whole(t, &model, &source, path);
        model_free(&model);
    }
    checkpoint_reader_close(from.reader);
    return status;
}

/* Whether every rank has all of the model. */
static bool is_whole(const struct trainer *t) {
    return t->mesh.size[MESH_TP] == 1 && t->mesh.size[MESH_PP] == 1 && t->sharded.unit_count == 0;
}

enum status result_export(const struct trainer *t) {
    const struct run_options *o = t->options;
    if (!o->train.export_model || t->parallel->world.rank != 0) return STATUS_OK;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", o->train.out, t->trained ? "adapter" : "model");
    if (!is_whole(t))
        TRY(write_from_checkpoint(t, path));
    else if (t->trained)
        TRY(write_adapter(t, t->trained, NULL, path));
    else
        TRY(write_model(t, &t->model, NULL, path));
    log_line(LOG_INFO, "event=exported path=%s", log_value(&(struct log_text){0}, path));
    return STATUS_OK;
}
