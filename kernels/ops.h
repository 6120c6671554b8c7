/* Every op of one variant: _ref are the plain loops, _cpu the fast ones where there are any;
 * private to kernels/. kernels/table.c says which of them a table holds. */
#ifndef STRATA_KERNELS_OPS_H
#define STRATA_KERNELS_OPS_H

#include "kernels/kernels.h"
#include "kernels/variant.h"

rmsnorm_forward_fn VARIANT(rmsnorm_forward_ref);
rmsnorm_backward_fn VARIANT(rmsnorm_backward_ref);
rope_table_fn VARIANT(rope_table_ref);
rope_fn VARIANT(rope_ref);
attention_forward_fn VARIANT(attention_forward_ref);
attention_backward_fn VARIANT(attention_backward_ref);
attention_part_forward_fn VARIANT(attention_part_forward_ref);
attention_part_backward_fn VARIANT(attention_part_backward_ref);
kv_write_fn VARIANT(kv_write_ref);
add_fn VARIANT(add_ref);
scale_fn VARIANT(scale_ref);
accumulate_f32_fn VARIANT(accumulate_f32_ref);
round_f32_fn VARIANT(round_f32_ref);
swiglu_forward_fn VARIANT(swiglu_forward_ref);
swiglu_backward_fn VARIANT(swiglu_backward_ref);
dropout_fn VARIANT(dropout_ref);
embedding_forward_fn VARIANT(embedding_forward_ref);
embedding_backward_fn VARIANT(embedding_backward_ref);
cross_entropy_forward_fn VARIANT(cross_entropy_forward_ref);
cross_entropy_backward_fn VARIANT(cross_entropy_backward_ref);
adamw_fn VARIANT(adamw_ref);
adamw8_fn VARIANT(adamw8_ref);
sum_squares_fn VARIANT(sum_squares_ref);
sample_fn VARIANT(sample_ref);
peak_fma_fn VARIANT(peak_fma);
peak_dots_gain_fn VARIANT(peak_dots_gain);

rmsnorm_forward_fn VARIANT(rmsnorm_forward_cpu);
rmsnorm_backward_fn VARIANT(rmsnorm_backward_cpu);
rope_table_fn VARIANT(rope_table_cpu);
rope_fn VARIANT(rope_cpu);
attention_forward_fn VARIANT(attention_forward_cpu);
attention_backward_fn VARIANT(attention_backward_cpu);
attention_part_forward_fn VARIANT(attention_part_forward_cpu);
attention_part_backward_fn VARIANT(attention_part_backward_cpu);
add_fn VARIANT(add_cpu);
scale_fn VARIANT(scale_cpu);
accumulate_f32_fn VARIANT(accumulate_f32_cpu);
round_f32_fn VARIANT(round_f32_cpu);
swiglu_forward_fn VARIANT(swiglu_forward_cpu);
swiglu_backward_fn VARIANT(swiglu_backward_cpu);
dropout_fn VARIANT(dropout_cpu);
embedding_forward_fn VARIANT(embedding_forward_cpu);
embedding_backward_fn VARIANT(embedding_backward_cpu);
cross_entropy_forward_fn VARIANT(cross_entropy_forward_cpu);
cross_entropy_backward_fn VARIANT(cross_entropy_backward_cpu);
adamw_fn VARIANT(adamw_cpu);
adamw8_fn VARIANT(adamw8_cpu);
sum_squares_fn VARIANT(sum_squares_cpu);
sample_fn VARIANT(sample_cpu);

#endif
