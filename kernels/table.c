/* The op table of one variant; compiled once per instruction set and activation dtype. */
#include "kernels/table.h"

#include "kernels/matmul_variant.h"
#include "kernels/variant.h"

const struct kernels VARIANT(kernels) = {
    .name = STRATA_VARIANT_NAME,
#if STRATA_ACT_BF16
    .act = DTYPE_BF16,
#else
    .act = DTYPE_F32,
#endif

#if STRATA_FAST
    .matmul_forward = VARIANT(matmul_forward_cpu),
    .matmul_backward_input = VARIANT(matmul_backward_input_cpu),
    .matmul_backward_weight = VARIANT(matmul_backward_weight_cpu),
    .bias_backward = VARIANT(bias_backward_cpu),
#else
    .matmul_forward = VARIANT(matmul_forward_ref),
    .matmul_backward_input = VARIANT(matmul_backward_input_ref),
    .matmul_backward_weight = VARIANT(matmul_backward_weight_ref),
    .bias_backward = VARIANT(bias_backward_ref),
#endif
};
