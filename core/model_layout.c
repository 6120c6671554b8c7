/* Which layout each weight of a model gets. */
#include "core/model_build.h"

#include "kernels/base/units.h"
#include "kernels/dequantize.h"

#include <assert.h>

const struct file_tensor *model_tensor(const struct model_file *file, enum weight_id id,
                                       int layer) {
    char name[WEIGHT_NAME_BYTES];
    if (file->format == MODEL_GGUF) {
        weight_name_gguf(name, id, layer);
    } else {
        weight_name_hf(name, id, layer);
    }
    return model_file_find(file, name);
}

/* Rows of blocks of a type that dequantize() reads can lie as they are. What can't be read at all,
 * or has another shape than the model, is named when it is loaded. */
static bool keeps_blocks(const struct file_tensor *tensor, int64_t cols) {
    float nothing = 0.0f;
    int block = dtype_info(tensor->dtype)->block_elements;
    if (tensor->dims != 2 || tensor->shape[1] != cols || cols % block != 0) return false;
    return tensor->dtype == DTYPE_F16 ||
           (block > 1 && dequantize(&nothing, tensor->dtype, &nothing, 0));
}

static enum layout layout_as_stored(const struct model_request *request, enum weight_id id,
                                    int layer) {
    const struct file_tensor *tensor = model_tensor(request->file, id, layer);
    int64_t cols = weight_dim_size(request->config, weight_table[id].cols);
    if (tensor && keeps_blocks(tensor, cols)) return layout_stored(tensor->dtype);
    return tensor && tensor->dtype == DTYPE_BF16 ? LAYOUT_PANEL_BF16 : LAYOUT_PANEL_F32;
}

/* NF4 is for what LoRA stands beside: embedding and head keep the precision of bf16, as in QLoRA.
 */
static enum layout layout_as_nf4(const struct model_config *config, enum weight_id id) {
    const struct weight_row *row = &weight_table[id];
    return row->lora_target ? layout_nf4(weight_dim_size(config, row->cols)) : LAYOUT_PANEL_BF16;
}

enum layout model_layout_of(const struct model_request *request, enum weight_id id, int layer) {
    if (weight_is_vector(id)) return LAYOUT_ROWS_F32;
    if (request->matrices == LAYOUT_NF4) return layout_as_nf4(request->config, id);
    if (request->matrices != LAYOUT_STORED) return request->matrices;
    assert(request->file);
    return layout_as_stored(request, id, layer);
}

int64_t model_ffn_unit(const struct model_request *request) {
    int64_t unit = 1;
    if (!layout_is_quantized(request->matrices)) return unit;
    for (int layer = 0; layer < request->config->layers; layer++)
        unit = max_i64(unit, layout_block(model_layout_of(request, WEIGHT_DOWN, layer)));
    return unit;
}

/* Where a part begins or ends inside a unit: that place, else 0. */
static int64_t cut_inside(int64_t first, int64_t count, int64_t whole, int64_t unit) {
    if (first % unit != 0) return first;
    return (first + count) % unit != 0 && first + count < whole ? first + count : 0;
}

enum status model_check_blocks(const struct param *param, const struct shard *shard) {
    const struct param_slice *slice = &param->slice;
    enum layout layout = param->w.layout;
    if (!layout_is_quantized(layout)) return STATUS_OK;
    int64_t block = layout_block(layout), rows = layout < LAYOUT_STORED ? PANEL_ROWS : 1;
    int64_t col = cut_inside(slice->first_col, param->w.cols, slice->cols, block);
    int64_t row = cut_inside(slice->first_row, param->w.rows, slice->rows, rows);
    if (param->w.cols == 0 || param->w.rows == 0)
        return status_fail(
            STATUS_CONFIG,
            "tp %d leaves a rank nothing of %s, whose blocks of %lld (%s) stay whole",
            shard->tp_size, param->name, (long long)block, layout_name(layout));
    if (col == 0 && row == 0) return STATUS_OK;
    return status_fail(
        STATUS_CONFIG,
        "tp %d cuts %s at %s %lld, inside a block of %lld that stays quantized (%s): "
        "choose another parallel.tp, or fp32 or bf16 weights",
        shard->tp_size, param->name, col ? "column" : "row", (long long)(col ? col : row),
        (long long)(col ? block : rows), layout_name(layout));
}
