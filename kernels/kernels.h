/* The op table: every op of one device, chosen once at start.
 *
 * "act" in the ops' contracts is the table's activation dtype: F32, or BF16 where every activation
 * that is written to memory is rounded to bf16 (matmul inputs and outputs, the residual stream),
 * while sums, norms and softmax stay fp32 inside an op. */
#ifndef STRATA_KERNELS_KERNELS_H
#define STRATA_KERNELS_KERNELS_H

#include "kernels/attention.h"
#include "kernels/base/dtype.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/optimizer.h"
#include "kernels/peak.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/sample.h"

struct kernels {
    const char *name; /* "reference", "avx2", "avx512", "avx512_bf16", "cuda" */
    enum dtype act;   /* DTYPE_F32 or DTYPE_BF16 */

    matmul_forward_fn *matmul_forward;
    matmul_backward_input_fn *matmul_backward_input;
    matmul_backward_weight_fn *matmul_backward_weight;
    bias_backward_fn *bias_backward;
    rmsnorm_forward_fn *rmsnorm_forward;
    rmsnorm_backward_fn *rmsnorm_backward;
    rope_table_fn *rope_table;
    rope_fn *rope;
    attention_forward_fn *attention_forward;
    attention_backward_fn *attention_backward;
    attention_part_forward_fn *attention_part_forward;
    attention_part_backward_fn *attention_part_backward;
    kv_write_fn *kv_write;
    add_fn *add;
    scale_fn *scale;
    accumulate_f32_fn *accumulate_f32;
    round_f32_fn *round_f32;
    swiglu_forward_fn *swiglu_forward;
    swiglu_backward_fn *swiglu_backward;
    dropout_fn *dropout;
    embedding_forward_fn *embedding_forward;
    embedding_backward_fn *embedding_backward;
    cross_entropy_forward_fn *cross_entropy_forward;
    cross_entropy_backward_fn *cross_entropy_backward;
    adamw_fn *adamw;
    adamw8_fn *adamw8;
    sum_squares_fn *sum_squares;
    sample_fn *sample;
    peak_fma_fn *peak_fma;
};

/* The table called `name` ("reference", "avx2", "avx512", "avx512_bf16": the last is avx512 where
 * activations are fp32), or the best of this machine, by cpuid and measurement, when name is NULL
 * or "auto". STATUS_CONFIG when the name is unknown or the machine lacks the instructions. act is
 * DTYPE_F32 or DTYPE_BF16. The table is constant and lives for ever. */
enum status kernels_cpu(const struct kernels **kernels, const char *name, enum dtype act);

/* The table of a GPU: its ops run on streams of device_open_cuda's devices, on memory of theirs
 * (kernels/base/device.h). STATUS_UNSUPPORTED where this program is built without CUDA. */
enum status kernels_cuda(const struct kernels **kernels, enum dtype act);

/* The name of the first op that the table lacks; NULL when it is whole. Who runs a model on a table
 * asks first. */
const char *kernels_missing(const struct kernels *kernels);

/* A table whose ops do nothing: to run layout code on counting arenas. */
const struct kernels *kernels_nothing(enum dtype act);

/* How good the best table of this machine is: 0 = reference, higher is better. Ranks of a job take
 * the lowest among them, so that all compute with one instruction set. */
int kernels_cpu_level(void);

/* The name of a level that some machine reported. */
const char *kernels_cpu_level_name(int level);

#endif
