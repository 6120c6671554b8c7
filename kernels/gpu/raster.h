/* Which tile of a matrix a block computes: bands of 8 tiles of rows, walked column by column, so
 * that blocks which run together read few different tiles of either operand. */
#ifndef STRATA_KERNELS_GPU_RASTER_H
#define STRATA_KERNELS_GPU_RASTER_H

#include "kernels/gpu/gpu.h"
#include "kernels/gpu/layout.h"

static constexpr int GPU_BAND = 8;

/* How many tiles of `side` cover `extent`; on the host too. */
GPU_PURE int64_t gpu_tiles(int64_t extent, int side) {
    return (extent + side - 1) / side;
}

struct gpu_tile {
    int row, col; /* counted in tiles */
};

__device__ __forceinline__ struct gpu_tile gpu_raster(int64_t block, int64_t rows, int64_t cols) {
    const int64_t first = block / (GPU_BAND * cols) * GPU_BAND;
    const int64_t height = rows - first < GPU_BAND ? rows - first : GPU_BAND;
    const int64_t place = block % (GPU_BAND * cols);
    struct gpu_tile tile = {(int)(first + place % height), (int)(place / height)};
    return tile;
}

#endif
