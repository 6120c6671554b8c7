/* The model and the adapter of a run: loaded or made, or only their shapes. */
#include "core/log.h"
#include "kernels/base/units.h"
#include "train/sharded_model.h"
#include "train/stages.h"
#include "train/trainer_parts.h"

#include <stdlib.h>

static bool in_bf16(const struct trainer *t) {
    return t->options->model.dtype == OPTION_BF16;
}

enum dtype trainer_dtype(const struct trainer *t) {
    return in_bf16(t) ? DTYPE_BF16 : DTYPE_F32;
}

static enum layout matrix_layout(const struct trainer *t) {
    static const enum layout layouts[] = {[WEIGHTS_FP32] = LAYOUT_PANEL_F32,
                                          [WEIGHTS_BF16] = LAYOUT_PANEL_BF16,
                                          [WEIGHTS_NF4] = LAYOUT_NF4,
                                          [WEIGHTS_STORED] = LAYOUT_STORED};
    int weights = t->options->model.weights;
    if (weights == WEIGHTS_AUTO) weights = in_bf16(t) ? WEIGHTS_BF16 : WEIGHTS_FP32;
    return layouts[weights];
}

int trainer_zero(const struct trainer *t) {
    return run_options_zero(t->options, mesh_ranks(&t->mesh));
}

bool trainer_splits_sequence(const struct trainer *t) {
    return t->options->parallel.sequence && t->mesh.size[MESH_TP] > 1;
}

enum status trainer_read_config(const struct run_options *o, struct model_config *config) {
    if (*o->model.path) {
        struct model_file file;
        TRY(model_file_open(&file, o->model.path, false));
        enum status status = model_config_read(config, &file);
        model_file_close(&file);
        TRY(status);
    } else {
        TRY(model_config_read_json(config, o->model.config));
    }
    config->rope.context = o->data.sequence_length;
    return STATUS_OK;
}

enum status trainer_open_tensor_parallel(struct trainer *t) {
    struct model_config config;
    TRY(parallel_agree(&t->parallel->world, trainer_read_config(t->options, &config)));
    TRY(shard_check(&config, t->mesh.size[MESH_TP])); /* the same on all ranks */
    return tensor_parallel_open(&t->tensor, &t->comms.comm[MESH_TP], &config);
}

enum status trainer_open_model(struct trainer *t) {
    const struct run_options *o = t->options;
    struct model_config config;
    struct shard shard;
    TRY(trainer_read_config(t->options, &config));
    TRY(stages_shard(o, &t->mesh, &t->place, &config, &shard));
    if (trainer_zero(t) == 3) return sharded_model_open(t, &config, &shard, matrix_layout(t));
    if (!*o->model.path) {
        TRY(model_create(&t->model, &config, &shard, matrix_layout(t)));
        model_init_random(&t->model, (uint64_t)o->train.seed, (float)o->model.init_std, t->threads);
        return STATUS_OK;
    }
    struct model_file file;
    TRY(model_file_open(&file, o->model.path, false));
    enum status status =
        model_load(&t->model, &file, &shard, matrix_layout(t), o->data.sequence_length, t->threads);
    model_file_close(&file);
    return status;
}

enum status trainer_describe_model(struct trainer *t, struct arena *weights) {
    struct model_config config;
    TRY(trainer_read_config(t->options, &config));
    struct shard shard;
    TRY(stages_shard(t->options, &t->mesh, &t->place, &config, &shard));
    if (!*t->options->model.path)
        return model_describe(&t->model, &config, &shard, matrix_layout(t), weights);
    struct model_file file; /* whose types say how large weights are that stay as stored */
    TRY(model_file_open(&file, t->options->model.path, false));
    enum status status =
        model_plan(&t->model, &file, &shard, matrix_layout(t), config.rope.context);
    model_file_close(&file);
    if (status == STATUS_OK) *weights = t->model.arena;
    return status;
}

static enum status make_adapter(struct trainer *t) {
    const struct run_options *o = t->options;
    if (*o->lora.init_from)
        return adapter_load(&t->adapter, "adapter", &t->model, o->lora.init_from);
    struct adapter_config config;
    TRY(run_options_adapter(&o->lora, &config));
    return adapter_create(&t->adapter, "adapter", &t->model, &config, (uint64_t)o->train.seed);
}

enum status trainer_open_adapter(struct trainer *t) {
    if (t->options->train.mode != TRAIN_LORA) return STATUS_OK;
    t->trained = &t->adapter;
    return make_adapter(t);
}

enum status trainer_describe_adapter(struct trainer *t, struct arena *factors) {
    const struct run_options *o = t->options;
    struct adapter_config config;
    if (o->train.mode != TRAIN_LORA) return STATUS_OK;
    if (*o->lora.init_from)
        TRY(adapter_read_config(&config, o->lora.init_from));
    else
        TRY(run_options_adapter(&o->lora, &config));
    t->trained = &t->adapter;
    return adapter_describe(&t->adapter, &t->model, &config, factors);
}

enum status trainer_list_trained(struct trainer *t) {
    struct param *params = t->trained ? t->adapter.params : t->model.params;
    int count = t->trained ? t->adapter.param_count : t->model.param_count;
    t->params = calloc((size_t)count, sizeof *t->params);
    if (!t->params) return status_fail(STATUS_MEMORY, "no memory for the list of parameters");
    for (int i = 0; i < count; i++)
        if (params[i].w.data) t->params[t->param_count++] = &params[i];
    return STATUS_OK;
}
