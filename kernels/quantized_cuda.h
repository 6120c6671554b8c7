/* Products of quantized weights on a GPU, for matmul.cu. Private to kernels/. */
#ifndef STRATA_KERNELS_QUANTIZED_CUDA_H
#define STRATA_KERNELS_QUANTIZED_CUDA_H

#include "kernels/pack.h"
#include "kernels/product_cuda.h"

/* out (count rows, last_col - first_col) row-major, f32 or bf16: a part of the weight's values.
 * first_row is a multiple of 16, first_col of 256. */
struct dequantize_part {
    void *out;
    bool bf16;
    int64_t first_row, rows, first_col, cols;
};
void dequantize_cuda(struct stream *s, const struct weight *w, const struct dequantize_part *part);

/* Rows of A that the fused product takes. */
static constexpr int FUSED_ROWS = 16;

/* C = [C +] A W^T [+ bias] without a workspace: W's chunks become bf16 tiles in shared memory. The
 * bits are those of product_tensor_cuda on W's values rounded to bf16. A is bf16, by rows, at most
 * FUSED_ROWS; p->b is not read. */
void product_quantized_cuda(struct stream *s, const char *op, const struct cuda_product *p,
                            const struct weight *w);

#endif
