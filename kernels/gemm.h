/* The one blocked matrix product behind matmul forward and both gradients; private to kernels/,
 * compiled per variant.
 *
 *     C (rows, cols) = [C +] A (rows, depth) B (depth, cols) [+ bias (cols)]
 *
 * Every element of C is one chain of fused multiply-adds over depth = 0, 1, 2, ... in fp32,
 * starting from 0 (or from C), rounded to C's type once at the end; no blocking, thread count or
 * instruction set changes its bits.
 *
 * The blocks (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008,
 * with the roles turned so that a weight's panels are read as they lie):
 *
 *     for a chunk of rows x cols
 *       for a piece of depth, all of it if it fits: pack A in strips of GEMM_ROWS rows   (L2)
 *         for a group of panels of B
 *           for a block of depth: B's block, packed if it must be                        (L1)
 *             for a strip of A: gemm_micro, C's tile in registers
 *           after the last piece, round C to its place */
#ifndef STRATA_KERNELS_GEMM_H
#define STRATA_KERNELS_GEMM_H

#include "kernels/base/stream.h"
#include "kernels/pack.h"
#include "kernels/variant.h"
#include <stdbool.h>
#include <stdint.h>

enum {
#if defined(__AVX512F__)
    GEMM_ROWS = 12, /* rows of a strip: 12 x 2 registers accumulate */
#else
    GEMM_ROWS = 6, /* 6 x 1 panel of two registers */
#endif
    GEMM_PANELS = 4,  /* most panels of a group (few rows walk more panels at once) */
    GEMM_DEPTH = 192, /* depth of a block of B that stays in the L1 cache */
};

/* Where element (f, d) of an operand lies; f is a row of A or a column of B, d the depth. */
enum operand_order {
    OPERAND_DEPTH_INNER, /* f * stride + d / 16 * block + d % 16: rows, or panels across */
    OPERAND_DEPTH_OUTER, /* d * stride + f */
    OPERAND_PANELS,      /* f / 16 * stride + d * 16 + f % 16: a packed weight; B only */
};

struct operand {
    const void *data;
    enum operand_order order;
    bool bf16;             /* else fp32 */
    int64_t stride, block; /* elements */
};

struct gemm {
    int64_t rows, cols, depth;
    struct operand a, b;
    void *c;
    bool c_bf16;     /* else fp32 */
    bool c_panels;   /* (row, col) at col / 16 * c_stride + row * 16 + col % 16; else row-major */
    bool accumulate; /* start from C */
    int64_t c_stride;
    const float *bias; /* or NULL */
};

void VARIANT(gemm_run)(struct stream *s, const struct gemm *gemm);

/* One tile of C: `rows` (up to GEMM_ROWS) x `panels` of 16, in registers over `depth`. */
struct gemm_tile {
    const float *a;   /* [depth][rows] */
    const void *b;    /* panel p, depth d at p * b_panel + d * 16; fp32, or bf16 */
    float *c;         /* panel p, row r at p * c_panel + r * 16 */
    const char *next; /* or NULL; fetched meanwhile: p * next_panel + d * next_step, in bytes */
    int64_t depth, b_panel, c_panel, next_panel, next_step;
    int rows, panels;
    bool bf16; /* then next is not NULL */
    bool load; /* start from c, else from 0 */
};

/* The most panels that a tile of `rows` rows can have: 1, 2 or 4. */
int VARIANT(gemm_tile_panels)(int rows);
void VARIANT(gemm_micro)(const struct gemm_tile *tile);

/* Strips of `strip` rows (the last may have fewer) of A's rows [row, row + rows), depths
 * [first, first + depth), as fp32: strip i at i * strip * depth, [depth][rows of the strip].
 * Writes up to 15 floats beyond. `first` is a multiple of 16. */
void VARIANT(gemm_pack_a)(float *to, const struct operand *a, int64_t row, int64_t rows, int strip,
                          int64_t first, int64_t depth);

/* Panels [panel, panel + panels) of B, depths [first, first + depth), as fp32, each [depth][16] at
 * `stride`; columns at or beyond `cols` are zero. `first` is a multiple of 16. */
void VARIANT(gemm_pack_b)(float *to, int64_t stride, const struct operand *b, int64_t cols,
                          int64_t panel, int64_t panels, int64_t first, int64_t depth);

#endif
