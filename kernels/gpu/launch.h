/* The one way to launch a kernel:
 *     gpu_launch(s, "rmsnorm", gpu_grid{.blocks = dim3(rows), .threads = 256}, kernel<A>, ...);
 * An error of the launch sticks to the stream with the op's name. A grid of no blocks is no
 * launch. */
#ifndef STRATA_KERNELS_GPU_LAUNCH_H
#define STRATA_KERNELS_GPU_LAUNCH_H

#include "kernels/gpu/gpu.h"
#include "kernels/gpu/host.h"

struct gpu_grid {
    dim3 blocks;
    int threads;
    size_t shared = 0;    /* bytes of dynamic shared memory */
    unsigned cluster = 0; /* blocks of a cluster, along x; 0: no clusters */
};

enum { GPU_SHARED_WITHOUT_ASKING = 48 << 10 };

static inline void gpu_note(struct stream *s, const char *op, cudaError_t error) {
    if (error != cudaSuccess)
        stream_fail(s, STATUS_DEVICE, op, "%s: %s", cudaGetErrorName(error),
                    cudaGetErrorString(error));
}

template <class... P, class... Q>
void gpu_launch(struct stream *s, const char *op, struct gpu_grid grid, void (*kernel)(P...),
                Q... arguments) {
    if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
    if (s->status != STATUS_OK) return;
#ifdef STRATA_EMULATION
    emulation_name_op(op);
#endif
    if (grid.shared > GPU_SHARED_WITHOUT_ASKING) {
        cudaError_t error = cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)grid.shared);
        gpu_note(s, op, error);
        if (error != cudaSuccess) return;
    }
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {grid.cluster, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid.blocks;
    config.blockDim = dim3((unsigned)grid.threads);
    config.dynamicSmemBytes = grid.shared;
    config.stream = (cudaStream_t)s->device;
    config.attrs = &attribute;
    config.numAttrs = grid.cluster > 0;
    gpu_note(s, op, cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...));
}

#endif
