/* The matrix products of one variant, for kernels/table.c: plain loops and, where STRATA_FAST, the
 * blocked ones, whose forward has the same bits. Private to kernels/. */
#ifndef STRATA_KERNELS_MATMUL_VARIANT_H
#define STRATA_KERNELS_MATMUL_VARIANT_H

#include "kernels/matmul.h"
#include "kernels/variant.h"

matmul_forward_fn VARIANT(matmul_forward_ref), VARIANT(matmul_forward_cpu);
matmul_backward_input_fn VARIANT(matmul_backward_input_ref), VARIANT(matmul_backward_input_cpu);
matmul_backward_weight_fn VARIANT(matmul_backward_weight_ref), VARIANT(matmul_backward_weight_cpu);
bias_backward_fn VARIANT(bias_backward_ref), VARIANT(bias_backward_cpu);

#endif
