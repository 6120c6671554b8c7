/* The op table of a GPU. */
#include "kernels/gpu/cuda_ops.h"
#include "kernels/gpu/host.h"

static struct kernels make_table(enum dtype act) {
    struct kernels table = {};
    table.name = "cuda";
    table.act = act;
    cuda_attention_backward(&table);
    cuda_attention_forward(&table);
    cuda_cross_entropy(&table);
    cuda_elementwise(&table);
    cuda_embedding(&table);
    cuda_kv_write(&table);
    cuda_matmul(&table);
    cuda_optimizer(&table);
    cuda_peak(&table);
    cuda_rmsnorm(&table);
    cuda_rope(&table);
    cuda_sample(&table);
    return table;
}

enum status kernels_cuda(const struct kernels **kernels, enum dtype act) {
    static const struct kernels f32 = make_table(DTYPE_F32), bf16 = make_table(DTYPE_BF16);
    assert(act == DTYPE_F32 || act == DTYPE_BF16);
    *kernels = act == DTYPE_F32 ? &f32 : &bf16;
    return STATUS_OK;
}
