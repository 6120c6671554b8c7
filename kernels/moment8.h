/* An optimizer's moments in 8 bits, in blocks (Dettmers et al., arXiv:2110.02861).
 *
 * A block is 256 elements: a scale, its largest magnitude, and an 8-bit code an element, the
 * nearest of a fixed list of levels to element / scale, the lower one at a tie. The levels are
 * dense where elements are: 7 decades, the upper of two with twice as many.
 *
 *     first moments    0, 1 and decade i = 0 .. 6: 10^(i-6) times the middles of 2^i equal parts of
 *                      [0.1, 1], each with both signs: a code is the sign and a magnitude's number
 *     second moments   0, 1 and the middles of 2^(i+1) parts, which are not negative
 *
 * Differences from the paper's and bitsandbytes's list: -1 is a level, and the middle next to 1 and
 * its negative are not, so a block's largest magnitude is exact, and quantizing what was
 * dequantized gives the same bytes (a checkpoint holds dequantized moments). A second moment above
 * 0 never becomes 0, as a step divides by its root: it is rounded up to the lowest level. A block
 * whose largest magnitude is below 2^-100 is zeros; one that is not finite is NaN.
 *
 * As a weight (kernels/pack.h) a block is a tile of 16 rows and 16 columns of a panel. */
#ifndef STRATA_KERNELS_MOMENT8_H
#define STRATA_KERNELS_MOMENT8_H

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { MOMENT8_BLOCK = 256, MOMENT8_TILE = 16 };

struct moment8 {
    float scale;
    uint8_t codes[MOMENT8_BLOCK];
};

/* Levels, and how to find the nearest one: a cell is what has the same exponent and first 7 bits of
 * the mantissa, and has at most one middle between levels in it. */
enum {
    MOMENT8_LOWEST_CELL = 104 << 7, /* of 2^-23: everything below is nearest to 0 */
    MOMENT8_CELLS = (127 << 7) - MOMENT8_LOWEST_CELL + 1
};
struct moment8_map {
    int count; /* of levels: 128 magnitudes of first moments, 256 of second ones */
    float values[MOMENT8_BLOCK];        /* of all codes */
    float middles[MOMENT8_BLOCK];       /* between levels i and i + 1; infinity behind the last */
    uint8_t nearest[MOMENT8_CELLS + 1]; /* to the beginning of a cell; one of 0 before them */
};

/* Fills `map` for first (`is_signed`) or second moments: a few microseconds. */
void moment8_map_create(struct moment8_map *map, int is_signed);

static inline void moment8_unpack(float out[MOMENT8_BLOCK], const struct moment8 *block,
                                  const struct moment8_map *map) {
    for (int i = 0; i < MOMENT8_BLOCK; i++) out[i] = block->scale * map->values[block->codes[i]];
}

/* The scale of a block: a NaN or infinity in it makes it NaN. */
static inline float moment8_scale(const float in[MOMENT8_BLOCK]) {
    int32_t most = 0; /* ordered as magnitudes are, NaN above all */
    for (int i = 0; i < MOMENT8_BLOCK; i++) {
        int32_t bits;
        memcpy(&bits, &in[i], sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float scale;
    memcpy(&scale, &most, sizeof scale);
    if (most >= 0x7f800000) return NAN;
    return scale < 0x1p-100f ? 0.0f : scale;
}

/* The code of x = element / scale, which is not above 1 but for rounding. */
static inline uint8_t moment8_code(float x, const struct moment8_map *map) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t sign = bits >> 31, magnitude = bits & 0x7fffffffu;
    int32_t cell = (int32_t)(magnitude >> 16) - (MOMENT8_LOWEST_CELL - 1);
    cell = cell < 0 ? 0 : cell > MOMENT8_CELLS ? MOMENT8_CELLS : cell;
    unsigned code = map->nearest[cell];
    float size;
    memcpy(&size, &magnitude, sizeof size);
    code += size > map->middles[code];
    if (map->count < MOMENT8_BLOCK) return (uint8_t)(code | sign << 7);
    return (uint8_t)(code + (code == 0 && magnitude > 0));
}

static inline void moment8_pack(struct moment8 *block, const float in[MOMENT8_BLOCK],
                                const struct moment8_map *map) {
    block->scale = moment8_scale(in);
    if (!(block->scale > 0.0f)) {
        memset(block->codes, 0, sizeof block->codes); /* NaN times 0 is NaN */
        return;
    }
    float scaled[MOMENT8_BLOCK];
    for (int i = 0; i < MOMENT8_BLOCK; i++) scaled[i] = in[i] / block->scale;
    for (int i = 0; i < MOMENT8_BLOCK; i++) block->codes[i] = moment8_code(scaled[i], map);
}

#endif
