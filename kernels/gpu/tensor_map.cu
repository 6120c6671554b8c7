#include "kernels/gpu/tensor_map.h"

#include <cuda.h>
#include <cuda_runtime.h>
#include <string.h>

static_assert(sizeof(struct gpu_tensor_map) == sizeof(CUtensorMap), "it is the driver's");

typedef CUresult encode_fn(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                           const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                           const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* Asked for at run time: a program that is linked to libcuda doesn't start where there is none. */
static enum status find_encode(encode_fn **encode) {
    void *found = NULL;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                               12000, cudaEnableDefault, &result);
    if (error != cudaSuccess || result != cudaDriverEntryPointSuccess)
        return status_fail(STATUS_DEVICE, "the driver has no cuTensorMapEncodeTiled (CUDA 12.0)");
    *encode = (encode_fn *)found;
    return STATUS_OK;
}

enum status gpu_tensor_map_make(struct gpu_tensor_map *map, const void *base,
                                const struct gpu_tensor_shape *shape) {
    const char *wrong = gpu_tensor_shape_wrong(shape, base);
    if (wrong) return status_fail(STATUS_SHAPE, "a tensor map: %s", wrong);
    encode_fn *encode = NULL;
    TRY(find_encode(&encode));
    const cuuint32_t steps[4] = {1, 1, 1, 1};
    CUtensorMap made;
    const CUresult error =
        encode(&made,
               shape->element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                         : CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
               (cuuint32_t)shape->rank, (void *)base, (const cuuint64_t *)shape->size,
               (const cuuint64_t *)shape->stride_bytes + 1, shape->box, steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE, (CUtensorMapSwizzle)shape->swizzle,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (error != CUDA_SUCCESS)
        return status_fail(STATUS_DEVICE, "cuTensorMapEncodeTiled: error %d", (int)error);
    memcpy(map->bytes, &made, sizeof made);
    return STATUS_OK;
}
