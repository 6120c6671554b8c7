/* Every group of ops on a GPU: each function sets its ops in a table whose act is set, F32 or BF16.
 * kernels/cuda_table.cu calls them all. */
#ifndef STRATA_KERNELS_GPU_CUDA_OPS_H
#define STRATA_KERNELS_GPU_CUDA_OPS_H

struct kernels;

void cuda_attention_backward(struct kernels *table);
void cuda_attention_forward(struct kernels *table);
void cuda_cross_entropy(struct kernels *table);
void cuda_elementwise(struct kernels *table);
void cuda_embedding(struct kernels *table);
void cuda_kv_write(struct kernels *table);
void cuda_matmul(struct kernels *table);
void cuda_optimizer(struct kernels *table);
void cuda_peak(struct kernels *table);
void cuda_rmsnorm(struct kernels *table);
void cuda_rope(struct kernels *table);
void cuda_sample(struct kernels *table);

#endif
