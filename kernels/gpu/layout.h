/* Which lane, register or shared byte holds which element: the layouts of ldmatrix, mma.sync, wgmma
 * and TMA as plain arithmetic, for C, C++ and CUDA. Kernels compute addresses with it, the emulator
 * computes results with it, and tests/gpu_conformance.cu asks a GPU whether it is true.
 *
 * Source: PTX ISA 9.0, chapters "Matrix fragments" of mma and wgmma, "Matrix descriptor format",
 * "Swizzling modes" of tensors. Elements are 16 bits wide unless a name says tf32. */
#ifndef STRATA_KERNELS_GPU_LAYOUT_H
#define STRATA_KERNELS_GPU_LAYOUT_H

#include "kernels/base/pure.h"
#include <stddef.h>
#include <stdint.h>

struct gpu_place {
    int row, column;
};

/* A fragment of mma.m16n8k16, the 16 x 16 (m, k) operand: element 0..7 of a lane; register
 * element / 2, its low half first. wgmma's A from registers is the same, a warp 16 rows. */
GPU_PURE struct gpu_place gpu_place_a(int lane, int element) {
    struct gpu_place place = {lane / 4 + 8 * (element / 2 % 2),
                              lane % 4 * 2 + element % 2 + 8 * (element / 4)};
    return place;
}

/* The 16 x 8 (k, n) operand: element 0..3 of a lane. */
GPU_PURE struct gpu_place gpu_place_b(int lane, int element) {
    struct gpu_place place = {lane % 4 * 2 + element % 2 + 8 * (element / 2), lane / 4};
    return place;
}

/* The 16 x 8 (m, n) accumulator: float 0..3 of a lane. */
GPU_PURE struct gpu_place gpu_place_d(int lane, int element) {
    struct gpu_place place = {lane / 4 + 8 * (element / 2), lane % 4 * 2 + element % 2};
    return place;
}

/* tf32, mma.m16n8k8: register 0..3 of the (m, k) operand, 0..1 of the (k, n) one. */
GPU_PURE struct gpu_place gpu_place_a_tf32(int lane, int element) {
    struct gpu_place place = {lane / 4 + 8 * (element % 2), lane % 4 + 4 * (element / 2)};
    return place;
}
GPU_PURE struct gpu_place gpu_place_b_tf32(int lane, int element) {
    struct gpu_place place = {lane % 4 + 4 * element, lane / 4};
    return place;
}

/* The 64 x N accumulator of wgmma: thread 0..127 of the warpgroup, float 0..N/2-1. */
GPU_PURE struct gpu_place gpu_place_wgmma(int thread, int element) {
    struct gpu_place place = {thread / 32 * 16 + thread % 32 / 4 + 8 * (element / 2 % 2),
                              element / 4 * 8 + thread % 4 * 2 + element % 2};
    return place;
}

/* How a tile's rows are laid in shared memory: its span is the row's width in bytes. In a tile
 * whose base is aligned to gpu_swizzle_period, bytes keep their 16-byte chunks, and chunks of a row
 * trade places by the number of the 128-byte line. The values are those of a tensor map. */
enum gpu_swizzle {
    GPU_SWIZZLE_NONE = 0,
    GPU_SWIZZLE_32 = 1,
    GPU_SWIZZLE_64 = 2,
    GPU_SWIZZLE_128 = 3
};

/* Bytes of a row; 0 for none. */
GPU_PURE uint32_t gpu_swizzle_span(enum gpu_swizzle swizzle) {
    return swizzle == GPU_SWIZZLE_NONE ? 0 : 16u << swizzle;
}

/* Bytes after which the pattern repeats, which a tile's base must be a multiple of. */
GPU_PURE uint32_t gpu_swizzle_period(enum gpu_swizzle swizzle) {
    return swizzle == GPU_SWIZZLE_NONE ? 128 : 128u << swizzle;
}

/* Where the byte at `offset` of the tile (row * span + column) really lies. It is its own inverse.
 */
GPU_PURE uint32_t gpu_swizzle_offset(enum gpu_swizzle swizzle, uint32_t offset) {
    const uint32_t lines = (1u << swizzle) - 1; /* of 128 bytes in a period, less one */
    return offset ^ ((offset >> 7 & lines) << 4);
}

/* wgmma's operands in shared memory. K-major: consecutive k are consecutive in memory, rows of the
 * swizzle's span (64 k at 128 bytes), 8 rows a group, groups `group_bytes` apart. MN-major:
 * consecutive m (or n) are consecutive, rows of k of the swizzle's span, 8 k a group; beyond a span
 * of m the next chunk lies `chunk_bytes` on. */
enum gpu_major { GPU_K_MAJOR = 0, GPU_MN_MAJOR = 1 };

struct gpu_operand {
    uint32_t address;     /* in shared memory, bytes, a multiple of 16 */
    uint32_t chunk_bytes; /* "leading dimension byte offset": used by MN-major alone */
    uint32_t group_bytes; /* "stride dimension byte offset": from 8 rows to the next 8 */
    uint32_t base;        /* the descriptor's base offset; 0 where tiles are aligned */
    enum gpu_swizzle swizzle;
};

GPU_PURE uint64_t gpu_descriptor(struct gpu_operand operand) {
    /* The descriptor counts modes the other way round: 1 = 128 bytes, 2 = 64, 3 = 32. */
    const uint64_t mode = operand.swizzle == GPU_SWIZZLE_NONE ? 0 : 4 - (uint64_t)operand.swizzle;
    return (uint64_t)(operand.address >> 4 & 0x3fff) |
           (uint64_t)(operand.chunk_bytes >> 4 & 0x3fff) << 16 |
           (uint64_t)(operand.group_bytes >> 4 & 0x3fff) << 32 |
           (uint64_t)(operand.base & 7) << 49 | mode << 62;
}

GPU_PURE struct gpu_operand gpu_descriptor_operand(uint64_t descriptor) {
    const uint32_t mode = (uint32_t)(descriptor >> 62);
    struct gpu_operand operand;
    operand.address = (uint32_t)(descriptor & 0x3fff) << 4;
    operand.chunk_bytes = (uint32_t)(descriptor >> 16 & 0x3fff) << 4;
    operand.group_bytes = (uint32_t)(descriptor >> 32 & 0x3fff) << 4;
    operand.base = (uint32_t)(descriptor >> 49 & 7);
    operand.swizzle = (enum gpu_swizzle)(mode == 0 ? 0 : 4 - mode);
    return operand;
}

/* The shared address of element (mn, k), k < 16, that a wgmma with this operand reads. The XOR
 * works on address bits, so an operand may start inside a row of its tile (the next 16 k). */
GPU_PURE uint32_t gpu_operand_address(struct gpu_operand operand, enum gpu_major major, int mn,
                                      int k) {
    const uint32_t span = gpu_swizzle_span(operand.swizzle);
    const uint32_t x = (uint32_t)(major == GPU_K_MAJOR ? k : mn); /* along the row */
    const uint32_t y = (uint32_t)(major == GPU_K_MAJOR ? mn : k); /* across rows */
    const uint32_t chunk = major == GPU_K_MAJOR ? 0 : x * 2 / span;
    const uint32_t linear = operand.address + chunk * operand.chunk_bytes +
                            y / 8 * operand.group_bytes + y % 8 * span + x * 2 - chunk * span;
    return gpu_swizzle_offset(operand.swizzle, linear);
}

/* The operand of a tile that TMA loaded densely with this swizzle, rows of one span.
 *   K-major:  rows of m (or n), a span of k. The next 16 k: gpu_descriptor_next(d, 32).
 *   MN-major: rows of k, a span of m (or n); further spans `chunk_bytes` apart, each loaded by a
 * box of its own. The next 16 k: gpu_descriptor_next(d, 16 * span). `chunk_bytes` is read by
 * MN-major alone. */
GPU_PURE uint64_t gpu_tile_descriptor(uint32_t address, enum gpu_swizzle swizzle,
                                      uint32_t chunk_bytes) {
    struct gpu_operand operand;
    operand.address = address;
    operand.chunk_bytes = chunk_bytes;
    operand.group_bytes = 8 * gpu_swizzle_span(swizzle);
    operand.base = 0;
    operand.swizzle = swizzle;
    return gpu_descriptor(operand);
}

/* The descriptor of the same tile `bytes` further on (a multiple of 16 that stays in shared memory:
 * the addition never carries out of the address). */
GPU_PURE uint64_t gpu_descriptor_next(uint64_t descriptor, uint32_t bytes) {
    return descriptor + (bytes >> 4);
}

/* What a tensor map describes: a tensor of 1 to 4 dimensions in device memory, and the box that one
 * copy moves. Innermost dimension first; the innermost is contiguous. */
struct gpu_tensor_shape {
    int rank;
    int element_bytes;        /* 2: bf16 or f16; 4: f32 */
    uint64_t size[4];         /* elements */
    uint64_t stride_bytes[4]; /* of dimension i; [0] is not read */
    uint32_t box[4];          /* elements, at most 256 each */
    enum gpu_swizzle swizzle; /* unless none, box[0] fills its row */
};

/* NULL, or which rule of cuTensorMapEncodeTiled the shape or the base breaks. */
GPU_PURE const char *gpu_tensor_shape_wrong(const struct gpu_tensor_shape *shape,
                                            const void *base) {
    const uint32_t span = gpu_swizzle_span(shape->swizzle);
    const uint32_t inner = shape->box[0] * (uint32_t)shape->element_bytes;
    if (shape->rank < 1 || shape->rank > 4) return "the rank is not 1 to 4";
    if (shape->element_bytes != 2 && shape->element_bytes != 4)
        return "elements are not 2 or 4 bytes";
    if ((uintptr_t)base % 16 != 0) return "the base is not a multiple of 16 bytes";
    if (inner % 16 != 0) return "the box's rows are not a multiple of 16 bytes";
    if (span != 0 && inner != span) return "the box's rows are not as wide as the swizzle's";
    for (int i = 0; i < shape->rank; i++) {
        if (shape->size[i] < 1 || shape->size[i] >> 32 != 0) return "a size is not 1 to 2^32 - 1";
        if (shape->box[i] < 1 || shape->box[i] > 256) return "a side of the box is not 1 to 256";
        if (i > 0 && (shape->stride_bytes[i] % 16 != 0 || shape->stride_bytes[i] >> 40 != 0))
            return "a stride is not a multiple of 16 bytes below 2^40";
    }
    return NULL;
}

/* Bytes of one box: what a full barrier must expect, also where the box reaches out of the tensor.
 */
GPU_PURE uint32_t gpu_tensor_box_bytes(const struct gpu_tensor_shape *shape) {
    uint32_t bytes = (uint32_t)shape->element_bytes;
    for (int i = 0; i < shape->rank; i++) bytes *= shape->box[i];
    return bytes;
}

#endif
