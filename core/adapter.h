/* LoRA adapters (Hu et al., arXiv:2106.09685): y = W x + scale * B (A dropout(x)), with A (R, in),
 * B (out, R), scale = alpha / R, or alpha / sqrt(R) for rsLoRA (arXiv:2312.03732). Stored in PEFT's
 * format: adapter_config.json and adapter_model.safetensors. */
#ifndef STRATA_CORE_ADAPTER_H
#define STRATA_CORE_ADAPTER_H

#include "core/model.h"

struct adapter_config {
    int rank;
    double alpha;
    double dropout;
    bool rslora;
    bool targets[WEIGHT_COUNT]; /* which modules carry a pair */
};

struct lora_pair {
    struct param *a, *b; /* NULL where the module has none */
};

struct adapter {
    char *name; /* as served; owned */
    struct adapter_config config;
    float scale;
    int layers;
    int param_count; /* A and B of every target, layer by layer */
    struct param *params;
    struct arena arena;
};

/* Lays out the factors of the layers that `model` holds in `arena`, which may be counting. A factor
 * is sliced where its weight is: A by columns beside a weight sliced by columns, B by rows beside
 * one sliced by rows; the other factor is on every rank. */
enum status adapter_describe(struct adapter *adapter, const struct model *model,
                             const struct adapter_config *config, struct arena *arena);

/* A = Kaiming uniform(a = sqrt(5)) as PEFT draws it in distribution, B = 0; values depend on seed
 * and element of the logical tensor alone. */
enum status adapter_create(struct adapter *adapter, const char *name, const struct model *model,
                           const struct adapter_config *config, uint64_t seed);

/* Both factors zero: to be filled by a loader. */
enum status adapter_create_zero(struct adapter *adapter, const char *name,
                                const struct model *model, const struct adapter_config *config);

/* What adapter_load would lay out, counted: adapter->arena says the bytes. Names and shapes of the
 * tensors are checked as adapter_load does, their values are not read. adapter_free ends it. */
enum status adapter_plan(struct adapter *adapter, const struct model *model, const char *directory);

/* adapter_config.json of a PEFT directory. STATUS_UNSUPPORTED names an option that changes the
 * arithmetic in a way that is not ours. */
enum status adapter_read_config(struct adapter_config *config, const char *directory);

/* Are the tensors of a PEFT directory those of an adapter that adapter_describe laid out, by name
 * and shape? Only the header of its file is read. */
enum status adapter_check_file(const struct adapter *adapter, const char *directory);

/* Reads a PEFT directory; names and shapes are checked against the model. */
enum status adapter_load(struct adapter *adapter, const char *name, const struct model *model,
                         const char *directory);

/* Writes adapter_config.json and adapter_model.safetensors with the values of `source` (NULL: those
 * in memory); `base` is recorded as base_model_name_or_path. Each file appears whole or not at all,
 * the tensors first. */
enum status adapter_save(const struct adapter *adapter, const struct param_source *source,
                         const char *directory, const char *base);

/* May be called twice, and on a zeroed struct. */
void adapter_free(struct adapter *adapter);

/* The pair beside a weight; {NULL, NULL} where there is none. */
struct lora_pair adapter_pair(const struct adapter *adapter, enum weight_id id, int layer);

/* W += scale * B A for every pair, in the weight's own layout (rounded to it). */
enum status adapter_merge(const struct adapter *adapter, struct model *model);

#endif
