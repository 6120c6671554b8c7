/* Weights that stay quantized: the frozen base of QLoRA, and GGUF's blocks as the file has them.
 * Only pack.c, the matrix products and the embedding read this; others go by pack.h.
 *
 * NF4 with double quantization (QLoRA, arXiv:2305.14314). Along a row, each 64 columns are a block:
 *
 *     value = level[code] * absmax    absmax = scale * (c * c / 65025)    each product rounded once
 *
 * with a 4-bit code an element, an 8-bit c a block and an fp32 scale a group of about 256 blocks:
 * 1, 2, 4, 8 or 16 whole rows, the most that have at most 256 blocks (one row where it has more).
 * So a weight takes 4 + 8/64 + 32/(64 * 256) = 4.127 bits. A group has whole rows of the whole
 * tensor, and starts at a multiple of its rows: shards that begin at multiples of 16 rows and of 64
 * columns dequantize to the same weights as one that holds everything.
 *
 * The code is the level nearest to x / (largest |x| of the block), the lower one at a tie, as in
 * bitsandbytes; absmax only has 8 bits afterwards. Where this differs: bitsandbytes subtracts the
 * tensor's mean absmax and keeps the rest in a signed dynamic 8-bit type. Its mean belongs to the
 * whole tensor and changes when what it made is quantized again; a square has no mean, its largest
 * value is exact (so quantizing the dequantized values gives the same bytes), and its steps are
 * finest where a group's outlier leaves the other blocks. c is the nearest, the lower at a tie; a
 * block whose c is 0, and a group whose largest element is below 2^-64, are zeros.
 *
 * In memory: codes of all panels as uint32 [panel][block][8][16 rows], whose nibble j of the i-th
 * is column 8 i + j of the block; then c as uint8 [panel][block][16 rows]; then scales as fp32
 * [panel][16 / rows of a group]. The last block's missing columns and the last panel's missing rows
 * are zeros.
 *
 * Stored blocks: [panel][block of columns][16 rows], each the bytes of the file; missing rows are
 * zero bytes, which every format reads as zeros. */
#ifndef STRATA_KERNELS_QUANTIZED_H
#define STRATA_KERNELS_QUANTIZED_H

#include "kernels/pack.h"

enum {
    NF4_BLOCK = 64,
    NF4_GROUP = 256,       /* blocks with one scale, about */
    QUANTIZED_CHUNK = 256, /* columns widened together: whole blocks of every type */
};

/* Quantiles of the normal distribution, eight below zero and nine from zero on, scaled to [-1, 1]
 * (QLoRA, appendix E; the values as published with bitsandbytes). A macro, as device code has a
 * copy of its own. */
#define NF4_LEVELS                                                                                 \
    {                                                                                              \
        -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,                  \
            -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,             \
            0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f,                      \
            0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f,  \
            1.0f                                                                                   \
    }
extern const float nf4_levels[16]; /* these */

/* Where the parts of an NF4 weight lie. */
struct nf4 {
    uint32_t *codes;
    uint8_t *absmax; /* c */
    float *scales;
    int64_t blocks; /* of a row */
    int group_rows;
};
struct nf4 nf4_of(const struct weight *weight);

/* Largest absolute value of a block. */
static inline float nf4_absmax(float scale, int c) {
    return scale * ((float)(c * c) / 65025.0f);
}

size_t nf4_bytes(enum layout layout, int64_t rows, int64_t cols);

/* Rows [first, first + count) from src (count, whole_cols), of which the weight has the columns
 * from first_col on. weight_pack_slice says what may be asked. */
void nf4_pack(const struct weight *weight, int64_t first, int64_t count, const float *src,
              int64_t whole_cols, int64_t first_col);

/* out (count): columns [first, first + count) of a row; first is a multiple of QUANTIZED_CHUNK. */
void quantized_read(float *out, const struct weight *weight, int64_t row, int64_t first,
                    int64_t count);

/* The stored blocks of chunk [first, first + QUANTIZED_CHUNK) of a panel, dequantized in the order
 * in which they lie: out [block][16 rows][columns of a block], at most 16 * QUANTIZED_CHUNK values.
 * Returns how many of the chunk's columns there are. */
int64_t stored_chunk(float *out, const struct weight *weight, int64_t panel, int64_t first);

#endif
