#include "kernels/kernels.h"

const char *kernels_missing(const struct kernels *kernels) {
    const struct {
        const char *name;
        bool is_there;
    } ops[] = {
        {"matmul_forward", kernels->matmul_forward != NULL},
        {"matmul_backward_input", kernels->matmul_backward_input != NULL},
        {"matmul_backward_weight", kernels->matmul_backward_weight != NULL},
        {"bias_backward", kernels->bias_backward != NULL},
        {"rmsnorm_forward", kernels->rmsnorm_forward != NULL},
        {"rmsnorm_backward", kernels->rmsnorm_backward != NULL},
        {"rope_table", kernels->rope_table != NULL},
        {"rope", kernels->rope != NULL},
        {"attention_forward", kernels->attention_forward != NULL},
        {"attention_backward", kernels->attention_backward != NULL},
        {"attention_part_forward", kernels->attention_part_forward != NULL},
        {"attention_part_backward", kernels->attention_part_backward != NULL},
        {"kv_write", kernels->kv_write != NULL},
        {"add", kernels->add != NULL},
        {"scale", kernels->scale != NULL},
        {"accumulate_f32", kernels->accumulate_f32 != NULL},
        {"round_f32", kernels->round_f32 != NULL},
        {"swiglu_forward", kernels->swiglu_forward != NULL},
        {"swiglu_backward", kernels->swiglu_backward != NULL},
        {"dropout", kernels->dropout != NULL},
        {"embedding_forward", kernels->embedding_forward != NULL},
        {"embedding_backward", kernels->embedding_backward != NULL},
        {"cross_entropy_forward", kernels->cross_entropy_forward != NULL},
        {"cross_entropy_backward", kernels->cross_entropy_backward != NULL},
        {"adamw", kernels->adamw != NULL},
        {"adamw8", kernels->adamw8 != NULL},
        {"sum_squares", kernels->sum_squares != NULL},
        {"sample", kernels->sample != NULL},
        {"peak_fma", kernels->peak_fma != NULL},
    };
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (!ops[i].is_there) return ops[i].name;
    return NULL;
}
