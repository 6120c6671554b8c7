#define _GNU_SOURCE
#include "core/adapter.h"

#include "kernels/base/rng.h"
#include "kernels/base/units.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FACTORS = 2 }; /* A and B */

static int factor_index(enum weight_id id, int layer, int factor) {
    return (layer * WEIGHT_COUNT + (int)id) * FACTORS + factor;
}

/* PEFT's name: the weight's own, inside its wrapper, with lora_A or lora_B before .weight. */
static void factor_name(struct param *param, enum weight_id id, int layer, int factor) {
    char name[WEIGHT_NAME_BYTES];
    weight_name_hf(name, id, layer);
    char *suffix = strstr(name, ".weight");
    snprintf(param->name, sizeof param->name, "base_model.model.%.*s.lora_%c.weight",
             (int)(suffix - name), name, factor == 0 ? 'A' : 'B');
}

/* What of a factor is here: its rectangle, and who else holds it. */
struct factor_shape {
    struct param_slice slice;
    int64_t rows, cols;
    int copies;
    bool primary;
};

static void push_factor(struct adapter *adapter, struct arena *arena, enum weight_id id, int layer,
                        int factor, const struct factor_shape *shape) {
    struct param *param = &adapter->params[factor_index(id, layer, factor)];
    *param = (struct param){.id = id,
                            .layer = layer,
                            .decays = true,
                            .slice = shape->slice,
                            .copies = shape->copies,
                            .primary = shape->primary};
    void *data = arena_push(arena, weight_bytes(LAYOUT_PANEL_F32, shape->rows, shape->cols));
    param->w = (struct weight){LAYOUT_PANEL_F32, shape->rows, shape->cols, data};
    factor_name(param, id, layer, factor);
}

/* A (R, in) and B (out, R) beside a weight (out, in). The factor along the axis that the weight is
 * sliced by is sliced as it is, the other is on every rank. */
static void push_pair(struct adapter *adapter, struct arena *arena, const struct shard *shard,
                      const struct param *weight) {
    const struct param_slice *slice = &weight->slice;
    int64_t rank = adapter->config.rank;
    struct factor_shape a = {.slice = {rank, slice->cols, 0, slice->first_col},
                             .rows = rank,
                             .cols = weight->w.cols,
                             .copies = weight->copies,
                             .primary = weight->primary};
    struct factor_shape b = {.slice = {slice->rows, rank, slice->first_row, 0},
                             .rows = weight->w.rows,
                             .cols = rank,
                             .copies = weight->copies,
                             .primary = weight->primary};
    struct factor_shape *whole = weight_table[weight->id].shard == SHARD_ROWS ? &a : &b;
    whole->copies = shard->tp_size;
    whole->primary = shard->tp_rank == 0;
    push_factor(adapter, arena, weight->id, weight->layer, 0, &a);
    push_factor(adapter, arena, weight->id, weight->layer, 1, &b);
}

enum status adapter_describe(struct adapter *adapter, const struct model *model,
                             const struct adapter_config *config, struct arena *arena) {
    int layers = model->config.layers;
    double divisor = config->rslora ? sqrt((double)config->rank) : (double)config->rank;
    *adapter = (struct adapter){.config = *config,
                                .scale = (float)(config->alpha / divisor),
                                .layers = layers,
                                .param_count = layers * WEIGHT_COUNT * FACTORS};
    adapter->params = calloc((size_t)adapter->param_count, sizeof *adapter->params);
    if (!adapter->params) return status_fail(STATUS_MEMORY, "no memory for an adapter's list");
    for (int layer = 0; layer < layers; layer++)
        for (int id = 0; id < WEIGHT_COUNT; id++) {
            const struct param *weight = model_param(model, (enum weight_id)id, layer);
            if (config->targets[id] && weight) push_pair(adapter, arena, &model->shard, weight);
        }
    return STATUS_OK;
}

static enum status allocate(struct adapter *adapter, const char *name, const struct model *model,
                            const struct adapter_config *config) {
    struct arena arena;
    arena_count(&arena, "adapter");
    TRY(adapter_describe(adapter, model, config, &arena));
    adapter_free(adapter);
    TRY(arena_create(&arena, "adapter", arena.peak));
    enum status status = adapter_describe(adapter, model, config, &arena);
    adapter->arena = arena;
    adapter->name = strdup(name);
    if (status == STATUS_OK && !adapter->name)
        status = status_fail(STATUS_MEMORY, "no memory for an adapter's name");
    if (status != STATUS_OK) adapter_free(adapter);
    return status;
}

enum status adapter_plan(struct adapter *adapter, const struct model *model,
                         const char *directory) {
    struct adapter_config config;
    struct arena counted;
    arena_count(&counted, "adapter");
    TRY(adapter_read_config(&config, directory));
    TRY(adapter_describe(adapter, model, &config, &counted));
    adapter->arena = counted;
    enum status status = adapter_check_file(adapter, directory);
    if (status != STATUS_OK) adapter_free(adapter);
    return status;
}

/* PEFT draws A from kaiming_uniform(a = sqrt(5)): uniform within 1 / sqrt(fan in). */
static enum status init_a(const struct param *a, uint64_t seed) {
    int64_t rows = a->w.rows, cols = a->w.cols, whole = a->slice.cols;
    float *values = malloc((size_t)(rows * cols) * sizeof *values);
    if (!values) return status_fail(STATUS_MEMORY, "no memory to initialise %s", a->name);
    float bound = 1.0f / sqrtf((float)whole);
    uint64_t domain = ((uint64_t)1 << 32) + (uint64_t)factor_index(a->id, a->layer, 0);
    for (int64_t i = 0; i < rows * cols; i++) {
        uint64_t element = (uint64_t)(i / cols * whole + a->slice.first_col + i % cols);
        struct rng_block block = rng_draw(seed, RNG_INIT, domain, element);
        values[i] = bound * (2.0f * rng_unit(block.word[0]) - 1.0f);
    }
    weight_pack(&a->w, 0, rows, values);
    free(values);
    return STATUS_OK;
}

enum status adapter_create(struct adapter *adapter, const char *name, const struct model *model,
                           const struct adapter_config *config, uint64_t seed) {
    TRY(allocate(adapter, name, model, config));
    enum status status = STATUS_OK;
    for (int i = 0; i < adapter->param_count && status == STATUS_OK; i += FACTORS)
        if (adapter->params[i].w.data) status = init_a(&adapter->params[i], seed);
    if (status != STATUS_OK) adapter_free(adapter);
    return status;
}

enum status adapter_create_zero(struct adapter *adapter, const char *name,
                                const struct model *model, const struct adapter_config *config) {
    return allocate(adapter, name, model, config);
}

void adapter_free(struct adapter *adapter) {
    arena_free(&adapter->arena);
    free(adapter->params);
    free(adapter->name);
    memset(adapter, 0, sizeof *adapter);
}

struct lora_pair adapter_pair(const struct adapter *adapter, enum weight_id id, int layer) {
    if (!adapter->config.targets[id]) return (struct lora_pair){NULL, NULL};
    struct param *a = &adapter->params[factor_index(id, layer, 0)];
    return a->w.data ? (struct lora_pair){a, a + 1} : (struct lora_pair){NULL, NULL};
}

/* rows (count, in) += scale * B[first .. first + count) A, in double: a merge happens once. */
static void add_product(float *rows, const float *a, const float *b, int64_t count, int64_t in,
                        int64_t rank, double scale) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < in; j++) {
            double sum = 0.0;
            for (int64_t r = 0; r < rank; r++)
                sum += (double)b[i * rank + r] * (double)a[r * in + j];
            rows[i * in + j] += (float)(scale * sum);
        }
}

static enum status merge_pair(const struct adapter *adapter, const struct param *param,
                              const struct lora_pair *pair) {
    int64_t in = param->w.cols, rank = pair->a->w.rows;
    float *a = malloc((size_t)(rank * in + PANEL_ROWS * (in + rank)) * sizeof *a);
    if (!a) return status_fail(STATUS_MEMORY, "no memory to merge %s", param->name);
    float *rows = a + rank * in, *b = rows + PANEL_ROWS * in;
    param_read(a, pair->a, 0, rank);
    for (int64_t first = 0; first < param->w.rows; first += PANEL_ROWS) {
        int64_t left = param->w.rows - first, count = min_i64(left, PANEL_ROWS);
        param_read(rows, param, first, count);
        param_read(b, pair->b, first, count);
        add_product(rows, a, b, count, in, rank, (double)adapter->scale);
        weight_pack(&param->w, first, count, rows);
    }
    free(a);
    return STATUS_OK;
}

enum status adapter_merge(const struct adapter *adapter, struct model *model) {
    for (int layer = 0; layer < adapter->layers; layer++)
        for (int id = 0; id < WEIGHT_COUNT; id++) {
            struct lora_pair pair = adapter_pair(adapter, (enum weight_id)id, layer);
            if (pair.a)
                TRY(merge_pair(adapter, model_param(model, (enum weight_id)id, layer), &pair));
        }
    return STATUS_OK;
}
