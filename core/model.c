#include "core/model_build.h"

#include "kernels/base/rng.h"
#include "kernels/base/units.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static enum status push_param(struct model *model, struct arena *arena, enum weight_id id,
                              int layer, enum layout layout) {
    const struct weight_row *row = &weight_table[id];
    struct shard_range rows = shard_range(&model->shard, &model->config, row->rows);
    struct shard_range cols = shard_range(&model->shard, &model->config, row->cols);
    struct param *param = &model->by_layer[layer + 1][id];
    *param = (struct param){.id = id, .layer = layer, .decays = row->decays};
    param->slice = (struct param_slice){.rows = weight_dim_size(&model->config, row->rows),
                                        .cols = weight_dim_size(&model->config, row->cols),
                                        .first_row = rows.first,
                                        .first_col = cols.first};
    param->copies = shard_copies(&model->shard, &model->config, id);
    bool second = id == WEIGHT_EMBED && !model->shard.embedding; /* tied, on the last stage */
    param->primary = model->shard.tp_rank % param->copies == 0 && !second;
    param->w = (struct weight){layout, rows.count, cols.count, NULL};
    weight_name_hf(param->name, id, layer);
    TRY(model_check_blocks(param, &model->shard));
    param->w.data = arena_push(arena, weight_bytes(layout, rows.count, cols.count));
    return STATUS_OK;
}

static enum status push_params(struct model *model, const struct model_request *request, int layer,
                               struct arena *arena) {
    const struct model_config *config = &model->config;
    for (int i = 0; i < WEIGHT_COUNT; i++) {
        enum weight_id id = (enum weight_id)i;
        if (weight_table[id].per_layer != (layer >= 0) || !weight_present(config, id) ||
            !shard_holds(&model->shard, config, id, layer))
            continue;
        TRY(push_param(model, arena, id, layer, model_layout_of(request, id, layer)));
    }
    return STATUS_OK;
}

static enum status lay_out(struct model *model, const struct model_request *request,
                           struct arena *arena) {
    const struct model_config *config = &model->config;
    model->shard = request->shard ? *request->shard : shard_whole(config);
    TRY(shard_check(config, model->shard.tp_size));
    model->shard.ffn_unit = max_i64(model->shard.ffn_unit, model_ffn_unit(request));
    model->local = shard_config(&model->shard, config);
    model->param_count = (config->layers + 1) * WEIGHT_COUNT;
    model->params = calloc((size_t)model->param_count, sizeof *model->params);
    model->inverse_frequency = malloc((size_t)config->head_dim / 2 * sizeof(double));
    if (!model->params || !model->inverse_frequency)
        return status_fail(STATUS_MEMORY, "no memory for the list of parameters");
    for (int layer = -1; layer < config->layers; layer++) {
        model->by_layer[layer + 1] = model->params + (size_t)(layer + 1) * WEIGHT_COUNT;
        TRY(push_params(model, request, layer, arena));
    }
    model->rope_factor =
        rope_frequencies(model->inverse_frequency, &model->config.rope, config->head_dim);
    return STATUS_OK;
}

enum status model_describe_request(struct model *model, const struct model_request *request,
                                   struct arena *arena) {
    *model = (struct model){.config = *request->config};
    enum status status = lay_out(model, request, arena);
    if (status != STATUS_OK) model_free(model);
    return status;
}

enum status model_create_request(struct model *model, const struct model_request *request) {
    struct arena arena;
    arena_count(&arena, "weights");
    TRY(model_describe_request(model, request, &arena));
    model_free(model);
    TRY(arena_create(&arena, "weights", arena.peak));
    enum status status = model_describe_request(model, request, &arena);
    if (status == STATUS_OK) {
        model->arena = arena;
    } else {
        arena_free(&arena);
    }
    return status;
}

enum status model_describe(struct model *model, const struct model_config *config,
                           const struct shard *shard, enum layout matrices, struct arena *arena) {
    const struct model_request request = {config, shard, matrices, NULL};
    return model_describe_request(model, &request, arena);
}

enum status model_create(struct model *model, const struct model_config *config,
                         const struct shard *shard, enum layout matrices) {
    const struct model_request request = {config, shard, matrices, NULL};
    return model_create_request(model, &request);
}

void model_free(struct model *model) {
    arena_free(&model->arena);
    free(model->params);
    free(model->inverse_frequency);
    memset(model, 0, sizeof *model);
}

/* GPT-2's rule: what writes into the residual stream starts smaller the deeper the model. */
static float init_std(const struct model *model, enum weight_id id, float std) {
    bool writes_residual = id == WEIGHT_O || id == WEIGHT_DOWN;
    return writes_residual ? std / sqrtf(2.0f * (float)model->config.layers) : std;
}

static void init_rows(const struct param *param, int64_t first, int64_t count, float *values,
                      uint64_t seed, float std) {
    uint64_t domain = (uint64_t)(param->layer + 1) * WEIGHT_COUNT + (uint64_t)param->id;
    const struct param_slice *slice = &param->slice;
    int64_t cols = param->w.cols;
    for (int64_t i = 0; i < count * cols; i++) {
        int64_t row = slice->first_row + first + i / cols, col = slice->first_col + i % cols;
        uint64_t element = (uint64_t)(row * slice->cols + col);
        struct rng_block block = rng_draw(seed, RNG_INIT, domain, element);
        values[i] = std * rng_normal(block.word[0], block.word[1]);
    }
    weight_pack(&param->w, first, count, values);
}

static void init_vector(const struct param *param) {
    enum weight_when when = weight_table[param->id].when;
    bool norm = when == WHEN_ALWAYS || when == WHEN_QK_NORM;
    for (int64_t j = 0; j < param->w.cols; j++) ((float *)param->w.data)[j] = norm ? 1.0f : 0.0f;
}

void model_init_param(const struct model *model, const struct param *param, uint64_t seed,
                      float std, int threads) {
    if (weight_is_vector(param->id)) {
        init_vector(param);
        return;
    }
    size_t block = (size_t)param->w.cols * PANEL_ROWS;
    float *blocks = malloc((size_t)threads * block * sizeof *blocks);
    if (!blocks) abort(); /* a few hundred kilobytes a thread, after gigabytes were granted */
    float deviation = init_std(model, param->id, std);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < param->w.rows; row += PANEL_ROWS)
        init_rows(param, row, min_i64(param->w.rows - row, PANEL_ROWS),
                  blocks + (size_t)omp_get_thread_num() * block, seed, deviation);
    free(blocks);
}

void model_init_random(struct model *model, uint64_t seed, float std, int threads) {
    for (int i = 0; i < model->param_count; i++)
        if (model->params[i].w.data) model_init_param(model, &model->params[i], seed, std, threads);
}
