#include "train/plan_time.h"

static void add_product(struct plan_model *model, const struct model_config *config,
                        enum weight_id id, const struct adapter_config *adapter) {
    const struct weight_row *row = &weight_table[id];
    bool heads = row->rows == DIM_Q || row->rows == DIM_KV;
    model->products[model->product_count++] =
        (struct plan_product){.rows = (double)weight_dim_size(config, row->rows),
                              .cols = (double)weight_dim_size(config, row->cols),
                              .row_unit = heads ? (double)config->head_dim : 1.0,
                              .shard = row->shard,
                              .adapted = adapter && adapter->targets[id],
                              .cheap = id == WEIGHT_GATE || id == WEIGHT_UP};
}

struct plan_model plan_model_of(const struct model_config *config,
                                const struct adapter_config *adapter) {
    struct plan_model model = {.layers = config->layers,
                               .hidden = (double)config->hidden,
                               .ffn = (double)config->ffn,
                               .vocab = (double)config->vocab,
                               .q = (double)config->heads * config->head_dim,
                               .kv = (double)config->kv_heads * config->head_dim,
                               .heads = config->heads,
                               .gated = true,
                               .tied = config->tied,
                               .window = (double)config->window,
                               .lora_rank = adapter ? adapter->rank : 0.0};
    for (int id = 0; id < WEIGHT_COUNT; id++)
        if (weight_table[id].per_layer && !weight_is_vector((enum weight_id)id) &&
            weight_present(config, (enum weight_id)id))
            add_product(&model, config, (enum weight_id)id, adapter);
    for (int i = 0; i < config->layers && config->window > 0; i++)
        model.sliding += (config->sliding[i] ? 1.0 : 0.0) / config->layers;
    return model;
}

double plan_layer_parameters(const struct plan_model *model) {
    double sum = 0.0;
    for (int i = 0; i < model->product_count; i++)
        sum += model->products[i].rows * model->products[i].cols;
    return sum;
}

double plan_training_flops(const struct plan_model *model, double length) {
    double matrices = model->layers * plan_layer_parameters(model) + model->hidden * model->vocab;
    return (model->lora_rank > 0.0 ? 4.0 : 6.0) * matrices +
           6.0 * model->layers * model->q * length;
}

struct plan_habits plan_habits_of_strata(bool bf16) {
    return (struct plan_habits){.bf16 = bf16,
                                .gradient_bytes = 4.0,
                                .gathered_bytes = 4.0,
                                .optimizer_bytes = bf16 ? 34.0 : 32.0,
                                .clearing_bytes = 4.0};
}
