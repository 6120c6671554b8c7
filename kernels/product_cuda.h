/* The two kernels under every matrix product of the GPU, for matmul.cu:
 *
 *     C (m, n) = [C +] A (m, k) B (n, k)^T [+ bias (n)]
 *
 * chain   fp32 fused multiply-adds over k = 0, 1, 2 ... : the bits of the reference, any operands
 * tensor  bf16 tensor cores: m16n8k16 products of k = 0, 16, 32 ... added to one fp32 accumulator,
 *         which begins as 0, or as C when accumulating; the bias is added last. A step of 16 that
 *         reaches beyond k is filled with zeros, and steps are made in fours
 *
 * In both an element's order of operations is fixed by k alone: not by m, n, or which tile computes
 * it. Private to kernels/. */
#ifndef STRATA_KERNELS_PRODUCT_CUDA_H
#define STRATA_KERNELS_PRODUCT_CUDA_H

#include "kernels/base/stream.h"
#include <stdbool.h>
#include <stdint.h>

/* A or B in device memory: rows of `stride` elements. Its rows are those of the matrix, (m, k), or,
 * where by_depth, those of its transpose, (k, m). */
struct cuda_operand {
    const void *data;
    int64_t stride;
    bool by_depth, bf16;
};

struct cuda_product {
    struct cuda_operand a, b;
    void *c;           /* rows of c_stride elements; bf16 where c_bf16, else f32 */
    const float *bias; /* or NULL */
    int64_t m, n, k, c_stride;
    bool accumulate, c_bf16;
};

/* Whether product_tensor_cuda takes these operands: both bf16, and not (A by depth, B by rows). */
bool product_tensor_takes(const struct cuda_product *p);

void product_tensor_cuda(struct stream *s, const char *op, const struct cuda_product *p);
void product_chain_cuda(struct stream *s, const char *op, const struct cuda_product *p);

/* cuBLASLt, for gradients: its sums may run in any order, the same from run to run with one version
 * of the library on one kind of GPU. An algorithm is chosen when a shape is met first, by the
 * library's own estimate, never one that adds by atomics. open() returns NULL when memory is out,
 * and where there is no library, or no room for its workspace, one that takes nothing. */
struct product_library *product_library_open(void);
void product_library_close(struct product_library *library);

/* False, and nothing is done, where the library can't compute it; bf16 operands, no bias. Uses what
 * s->products holds. */
bool product_library_cuda(struct stream *s, const char *op, const struct cuda_product *p);

/* Where large tiles begin to pay: enough of them for every multiprocessor; and how much of a
 * quantized weight is widened at once. The emulator takes small ones, so that its small matrices
 * meet every tile and several pieces. */
#ifdef STRATA_EMULATION
static constexpr int PRODUCT_LARGE_TILES = 4, PRODUCT_PIECE_BYTES = 16 << 10;
#else
static constexpr int PRODUCT_LARGE_TILES = 128, PRODUCT_PIECE_BYTES = 128 << 20;
#endif

#endif
