#include "train/sharded_model.h"

static enum status plan(struct trainer *t, struct arena *weights) {
    sharded_free(&t->sharded);
    return sharded_plan(&t->sharded, &t->model, &t->comms.replicas, &t->ws.stream, weights);
}

static enum status fill_param(struct trainer *t, const struct model_file *file,
                              const struct param *param) {
    const struct run_options *o = t->options;
    if (file) return model_load_param(&t->model, file, param, t->threads);
    model_init_param(&t->model, param, (uint64_t)o->train.seed, (float)o->model.init_std,
                     t->threads);
    return STATUS_OK;
}

static enum status fill(struct trainer *t, const struct model_file *file) {
    struct sharded_weights *sharded = &t->sharded;
    for (int u = 0; u < sharded->unit_count; u++) {
        struct sharded_unit *unit = &sharded->units[u];
        for (int i = unit->first; i < unit->last; i++) TRY(fill_param(t, file, sharded->params[i]));
        sharded_keep(sharded, unit);
    }
    for (int i = 0; i < t->model.param_count; i++) {
        const struct param *param = &t->model.params[i];
        if (param->w.data && weight_is_vector(param->id)) TRY(fill_param(t, file, param));
    }
    return STATUS_OK;
}

/* t->model is described: it has shapes, and no memory. `file` is NULL for random weights. */
static enum status give_memory(struct trainer *t, const struct model_file *file) {
    struct arena counted;
    arena_count(&counted, "weights");
    TRY(plan(t, &counted));
    t->model.arena = (struct arena){0};
    TRY(arena_create(&t->model.arena, "weights", counted.peak));
    TRY(plan(t, &t->model.arena));
    return fill(t, file);
}

enum status sharded_model_open(struct trainer *t, const struct model_config *config,
                               const struct shard *shard, enum layout matrices) {
    const struct run_options *o = t->options;
    struct model_file file;
    struct arena counted;
    arena_count(&counted, "weights");
    if (!*o->model.path) {
        TRY(model_describe(&t->model, config, shard, matrices, &counted));
        return give_memory(t, NULL);
    }
    TRY(model_file_open(&file, o->model.path, false));
    enum status status = model_plan(&t->model, &file, shard, matrices, o->data.sequence_length);
    if (status == STATUS_OK) status = give_memory(t, &file);
    model_file_close(&file);
    return status;
}
