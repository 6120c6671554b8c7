#include "core/shard.h"

#include <assert.h>

struct shard shard_whole(const struct model_config *config) {
    return (struct shard){
        .tp_size = 1, .end_layer = config->layers, .embedding = true, .head = true};
}

enum status shard_check(const struct model_config *config, int tp_size) {
    if (config->heads % tp_size != 0)
        return status_fail(STATUS_CONFIG, "tp %d does not divide the model's %d attention heads",
                           tp_size, config->heads);
    if (config->kv_heads % tp_size != 0 && tp_size % config->kv_heads != 0)
        return status_fail(STATUS_CONFIG,
                           "tp %d neither divides the model's %d key/value heads nor is a multiple "
                           "of them",
                           tp_size, config->kv_heads);
    int64_t width = config->ffn < config->vocab ? config->ffn : config->vocab;
    if (width < tp_size)
        return status_fail(STATUS_CONFIG, "tp %d is more than the model's %s of %lld", tp_size,
                           width == config->ffn ? "feed-forward width" : "vocabulary",
                           (long long)width);
    return STATUS_OK;
}

static struct shard_range cut(const struct shard *shard, int64_t total) {
    int64_t first = total * shard->tp_rank / shard->tp_size;
    return (struct shard_range){first, total * (shard->tp_rank + 1) / shard->tp_size - first};
}

static struct shard_range cut_ffn(const struct shard *shard, int64_t width) {
    int64_t unit = shard->ffn_unit > 1 ? shard->ffn_unit : 1;
    struct shard_range units = cut(shard, (width + unit - 1) / unit);
    int64_t first = units.first * unit, end = first + units.count * unit;
    return (struct shard_range){first, (end < width ? end : width) - first};
}

/* Of the key/value heads: neighbours share one where there are fewer than ranks. */
static struct shard_range cut_kv_heads(const struct shard *shard, int64_t heads) {
    if (heads >= shard->tp_size) return cut(shard, heads);
    return (struct shard_range){heads * shard->tp_rank / shard->tp_size, 1};
}

struct shard_range shard_range(const struct shard *shard, const struct model_config *config,
                               enum weight_dim dim) {
    struct shard_range heads;
    switch (dim) {
    case DIM_VOCAB:
        return cut(shard, config->vocab);
    case DIM_FFN:
        return cut_ffn(shard, config->ffn);
    case DIM_Q:
        heads = cut(shard, config->heads);
        break;
    case DIM_KV:
        heads = cut_kv_heads(shard, config->kv_heads);
        break;
    default:
        return (struct shard_range){0, weight_dim_size(config, dim)};
    }
    return (struct shard_range){heads.first * config->head_dim, heads.count * config->head_dim};
}

struct model_config shard_config(const struct shard *shard, const struct model_config *config) {
    struct model_config local = *config;
    local.heads = (int)cut(shard, config->heads).count;
    local.kv_heads = (int)cut_kv_heads(shard, config->kv_heads).count;
    local.ffn = shard_range(shard, config, DIM_FFN).count;
    local.vocab = shard_range(shard, config, DIM_VOCAB).count;
    return local;
}

int shard_copies(const struct shard *shard, const struct model_config *config, enum weight_id id) {
    const struct weight_row *row = &weight_table[id];
    if (row->shard == SHARD_NONE) return shard->tp_size;
    enum weight_dim dim = row->shard == SHARD_ROWS ? row->rows : row->cols;
    if (dim != DIM_KV || config->kv_heads >= shard->tp_size) return 1;
    return shard->tp_size / config->kv_heads;
}

static bool holds_layer(const struct shard *shard, int layer) {
    if (shard->run_count == 0) return layer >= shard->first_layer && layer < shard->end_layer;
    for (int i = 0; i < shard->run_count; i++)
        if (layer >= shard->runs[i].first && layer < shard->runs[i].end) return true;
    return false;
}

bool shard_holds(const struct shard *shard, const struct model_config *config, enum weight_id id,
                 int layer) {
    if (weight_table[id].per_layer) return holds_layer(shard, layer);
    if (id == WEIGHT_EMBED) return shard->embedding || (shard->head && config->tied);
    assert(id == WEIGHT_FINAL_NORM || id == WEIGHT_HEAD);
    return shard->head;
}
