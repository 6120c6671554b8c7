/* How a model is laid out, for the files model*.c alone. */
#ifndef STRATA_CORE_MODEL_BUILD_H
#define STRATA_CORE_MODEL_BUILD_H

#include "core/model.h"

struct model_request {
    const struct model_config *config;
    const struct shard *shard; /* NULL: the whole model */
    enum layout matrices;
    const struct model_file *file; /* whose types LAYOUT_STORED keeps; else it may be NULL */
};

/* model_describe and model_create (core/model.h). */
enum status model_describe_request(struct model *model, const struct model_request *request,
                                   struct arena *arena);
enum status model_create_request(struct model *model, const struct model_request *request);

/* The layout of a parameter that the model has. */
enum layout model_layout_of(const struct model_request *request, enum weight_id id, int layer);

/* What feed-forward widths are cut at, so that no block of w_down is cut (core/shard.h). */
int64_t model_ffn_unit(const struct model_request *request);

/* STATUS_CONFIG where the shard cuts a block that stays quantized. */
enum status model_check_blocks(const struct param *param, const struct shard *shard);

#endif
