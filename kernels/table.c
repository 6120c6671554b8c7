/* The op table of one variant; compiled once per instruction set and activation dtype. */
#include "kernels/table.h"

#include "kernels/matmul_variant.h"
#include "kernels/ops.h"

const struct kernels VARIANT(kernels) = {
    .name = STRATA_VARIANT_NAME,
#if STRATA_ACT_BF16
    .act = DTYPE_BF16,
#else
    .act = DTYPE_F32,
#endif
    .kv_write = VARIANT(kv_write_ref),
    .peak_fma = VARIANT(peak_fma),

#if STRATA_FAST
    .matmul_forward = VARIANT(matmul_forward_cpu),
    .matmul_backward_input = VARIANT(matmul_backward_input_cpu),
    .matmul_backward_weight = VARIANT(matmul_backward_weight_cpu),
    .bias_backward = VARIANT(bias_backward_cpu),
    .rmsnorm_forward = VARIANT(rmsnorm_forward_cpu),
    .rmsnorm_backward = VARIANT(rmsnorm_backward_cpu),
    .rope_table = VARIANT(rope_table_cpu),
    .rope = VARIANT(rope_cpu),
    .attention_forward = VARIANT(attention_forward_cpu),
    .attention_backward = VARIANT(attention_backward_cpu),
    .attention_part_forward = VARIANT(attention_part_forward_cpu),
    .attention_part_backward = VARIANT(attention_part_backward_cpu),
    .add = VARIANT(add_cpu),
    .scale = VARIANT(scale_cpu),
    .accumulate_f32 = VARIANT(accumulate_f32_cpu),
    .round_f32 = VARIANT(round_f32_cpu),
    .swiglu_forward = VARIANT(swiglu_forward_cpu),
    .swiglu_backward = VARIANT(swiglu_backward_cpu),
    .dropout = VARIANT(dropout_cpu),
    .embedding_forward = VARIANT(embedding_forward_cpu),
    .embedding_backward = VARIANT(embedding_backward_cpu),
    .cross_entropy_forward = VARIANT(cross_entropy_forward_cpu),
    .cross_entropy_backward = VARIANT(cross_entropy_backward_cpu),
    .adamw = VARIANT(adamw_cpu),
    .adamw8 = VARIANT(adamw8_cpu),
    .sum_squares = VARIANT(sum_squares_cpu),
    .sample = VARIANT(sample_cpu),
#else
    .matmul_forward = VARIANT(matmul_forward_ref),
    .matmul_backward_input = VARIANT(matmul_backward_input_ref),
    .matmul_backward_weight = VARIANT(matmul_backward_weight_ref),
    .bias_backward = VARIANT(bias_backward_ref),
    .rmsnorm_forward = VARIANT(rmsnorm_forward_ref),
    .rmsnorm_backward = VARIANT(rmsnorm_backward_ref),
    .rope_table = VARIANT(rope_table_ref),
    .rope = VARIANT(rope_ref),
    .attention_forward = VARIANT(attention_forward_ref),
    .attention_backward = VARIANT(attention_backward_ref),
    .attention_part_forward = VARIANT(attention_part_forward_ref),
    .attention_part_backward = VARIANT(attention_part_backward_ref),
    .add = VARIANT(add_ref),
    .scale = VARIANT(scale_ref),
    .accumulate_f32 = VARIANT(accumulate_f32_ref),
    .round_f32 = VARIANT(round_f32_ref),
    .swiglu_forward = VARIANT(swiglu_forward_ref),
    .swiglu_backward = VARIANT(swiglu_backward_ref),
    .dropout = VARIANT(dropout_ref),
    .embedding_forward = VARIANT(embedding_forward_ref),
    .embedding_backward = VARIANT(embedding_backward_ref),
    .cross_entropy_forward = VARIANT(cross_entropy_forward_ref),
    .cross_entropy_backward = VARIANT(cross_entropy_backward_ref),
    .adamw = VARIANT(adamw_ref),
    .adamw8 = VARIANT(adamw8_ref),
    .sum_squares = VARIANT(sum_squares_ref),
    .sample = VARIANT(sample_ref),
#endif
};
