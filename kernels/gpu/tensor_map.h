/* Tensor maps: what a TMA copy of boxes knows of the tensor. Made on the host, passed to a kernel
 * by value as GPU_TENSOR_MAP. */
#ifndef STRATA_KERNELS_GPU_TENSOR_MAP_H
#define STRATA_KERNELS_GPU_TENSOR_MAP_H

#include "kernels/gpu/layout.h"

extern "C" {
#include "kernels/base/status.h"
}

/* The driver's CUtensorMap, or the emulator's record of the shape. */
struct alignas(64) gpu_tensor_map {
    unsigned char bytes[128];
};

/* Fills *map for the tensor at `base` (device memory, which must outlive the map's use).
 * STATUS_SHAPE where the shape breaks a rule (gpu_tensor_shape_wrong), STATUS_DEVICE where the
 * driver refuses. 4-byte elements are f32; 2-byte ones are moved as bits. */
enum status gpu_tensor_map_make(struct gpu_tensor_map *map, const void *base,
                                const struct gpu_tensor_shape *shape);

#endif
