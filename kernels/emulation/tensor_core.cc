/* ldmatrix and mma.sync: collectives of a warp. A product's terms are summed in double precision
 * and rounded once an instruction; a GPU keeps a few bits less. */
#include "kernels/gpu/tensor.h"

#include <string.h>

namespace emulation {

enum { ROWS = 8 };

struct matrix_row {
    uint32_t *registers;
    const void *row;
};

template <int matrices, bool transposed>
static void load_matrices(void *const *arguments, uint32_t) {
    uint16_t held[matrices][ROWS][ROWS];
    for (int i = 0; i < matrices * ROWS; i++)
        memcpy(held[i / ROWS][i % ROWS], ((const struct matrix_row *)arguments[i])->row, 16);
    for (int lane = 0; lane < WARP; lane++)
        for (int m = 0; m < matrices; m++) {
            int row = lane / 4, column = lane % 4 * 2;
            uint32_t low = transposed ? held[m][column][row] : held[m][row][column];
            uint32_t high = transposed ? held[m][column + 1][row] : held[m][row][column + 1];
            ((const struct matrix_row *)arguments[lane])->registers[m] = low | high << 16;
        }
}

template <int matrices, bool transposed>
static void load(uint32_t *registers, const void *row, struct place place) {
    self->at = place;
    if (self->lane < matrices * ROWS) {
        if ((uintptr_t)row % 16 != 0) fail("a row of a matrix is not aligned to 16 bytes");
        if (!shared_holds(self->cta, row)) fail("a row of a matrix is not in shared memory");
        access_read(row, 16);
    }
    struct matrix_row mine = {registers, row};
    warp_meet(place.call, GPU_ALL_LANES, &mine, true, load_matrices<matrices, transposed>, place);
}

struct factors {
    float *d;
    const uint32_t *a, *b;
};

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

enum format { BF16, F16, TF32 };

template <enum format format> static float half(uint32_t bits, int which) {
    if (format == BF16) return to_f32(bf16{(uint16_t)(bits >> 16 * which)});
    return to_f32(f16{(uint16_t)(bits >> 16 * which)});
}

/* The operands of a warp as plain matrices: a[row][k], b[k][column]. */
template <enum format format>
static void unpack(void *const *arguments, float a[16][16], float b[16][8]) {
    for (int lane = 0; lane < WARP; lane++) {
        const struct factors *mine = (const struct factors *)arguments[lane];
        for (int i = 0; i < (format == TF32 ? 4 : 8); i++) {
            struct gpu_place at = format == TF32 ? gpu_place_a_tf32(lane, i) : gpu_place_a(lane, i);
            a[at.row][at.column] = format == TF32 ? float_of(mine->a[i] & 0xffffe000u)
                                                  : half<format>(mine->a[i / 2], i % 2);
        }
        for (int i = 0; i < (format == TF32 ? 2 : 4); i++) {
            struct gpu_place at = format == TF32 ? gpu_place_b_tf32(lane, i) : gpu_place_b(lane, i);
            b[at.row][at.column] = format == TF32 ? float_of(mine->b[i] & 0xffffe000u)
                                                  : half<format>(mine->b[i / 2], i % 2);
        }
    }
}

template <enum format format> static void multiply(void *const *arguments, uint32_t) {
    float a[16][16], b[16][8];
    double d[16][8];
    unpack<format>(arguments, a, b);
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++) {
            struct gpu_place at = gpu_place_d(lane, i);
            d[at.row][at.column] = ((const struct factors *)arguments[lane])->d[i];
        }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < (format == TF32 ? 8 : 16); k++)
            for (int column = 0; column < 8; column++)
                d[row][column] += (double)(a[row][k] * b[k][column]); /* the product is exact */
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++) {
            struct gpu_place at = gpu_place_d(lane, i);
            ((const struct factors *)arguments[lane])->d[i] = (float)d[at.row][at.column];
        }
}

template <enum format format>
static void mma(float *d, const uint32_t *a, const uint32_t *b, struct place place) {
    struct factors mine = {d, a, b};
    warp_meet(place.call, GPU_ALL_LANES, &mine, true, multiply<format>, place);
}

} // namespace emulation

using namespace emulation;

void gpu_ldmatrix_x4(uint32_t r[4], const void *row, const char *file, int line) {
    load<4, false>(r, row, {"gpu_ldmatrix_x4", file, line});
}

void gpu_ldmatrix_x4_trans(uint32_t r[4], const void *row, const char *file, int line) {
    load<4, true>(r, row, {"gpu_ldmatrix_x4_trans", file, line});
}

void gpu_ldmatrix_x2(uint32_t r[2], const void *row, const char *file, int line) {
    load<2, false>(r, row, {"gpu_ldmatrix_x2", file, line});
}

void gpu_ldmatrix_x2_trans(uint32_t r[2], const void *row, const char *file, int line) {
    load<2, true>(r, row, {"gpu_ldmatrix_x2_trans", file, line});
}

void gpu_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const char *file,
                  int line) {
    mma<BF16>(d, a, b, {"gpu_mma_bf16", file, line});
}

void gpu_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2], const char *file, int line) {
    mma<F16>(d, a, b, {"gpu_mma_f16", file, line});
}

void gpu_mma_tf32(float d[4], const uint32_t a[4], const uint32_t b[2], const char *file,
                  int line) {
    mma<TF32>(d, a, b, {"gpu_mma_tf32", file, line});
}

uint32_t gpu_tf32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bool finite = (bits & 0x7f800000u) != 0x7f800000u;
    return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
}
