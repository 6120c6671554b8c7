/* What writer and reader of a checkpoint agree on beyond checkpoint.h; private to parallel/. */
#ifndef STRATA_PARALLEL_CHECKPOINT_FORMAT_H
#define STRATA_PARALLEL_CHECKPOINT_FORMAT_H

#include "parallel/checkpoint.h"

/* Of every dataset with bytes of its own: the hash itself, u64, as an attribute of the index's; of
 * a slab where it stands in /hashes of its file, i64. */
#define CHECKPOINT_HASH "xxh3"
#define CHECKPOINT_HASH_AT "xxh3_at"
#define CHECKPOINT_HASHES "hashes"
#define CHECKPOINT_SHAPE "shape"   /* attribute of a slab: (rows, cols) of the whole, i64 */
#define CHECKPOINT_OFFSET "offset" /* attribute of a slab: (first row, first column), i64 */
#define CHECKPOINT_STATE "state"   /* group of index.h5 with the scalars */
#define CHECKPOINT_FILES "files"   /* dataset of index.h5: numbers of the rank files, i32 */

/* The dataset of a slab in its rank's file: the tensor's second one is NAME#1. */
struct checkpoint_slab_name {
    char text[CHECKPOINT_NAME_BYTES + 16];
};
struct checkpoint_slab_name checkpoint_slab_name(const char *tensor, int part);

/* How many of the slabs before slabs[i] have its name. */
int checkpoint_part_of(const struct checkpoint_slab *slabs, int i);

/* Reads the scalars of an index.h5 by one process alone; the caller frees state->config. */
enum status checkpoint_peek(const char *index, struct checkpoint_state *state);

/* Rows that a block holds: about 1 MiB, a multiple of PANEL_ROWS so that weight_pack may take it.
 */
static inline int64_t checkpoint_block_rows(int64_t cols) {
    int64_t rows = (1 << 20) / (int64_t)sizeof(float) / (cols > 0 ? cols : 1);
    rows -= rows % PANEL_ROWS;
    return rows > PANEL_ROWS ? rows : PANEL_ROWS;
}

/* Bytes of a block buffer that serves all slabs. */
static inline size_t checkpoint_block_bytes(const struct checkpoint_slab *slabs, int count) {
    size_t bytes = 64;
    for (int i = 0; i < count; i++) {
        int64_t rows = checkpoint_block_rows(slabs[i].values.cols);
        if (rows > slabs[i].values.rows) rows = slabs[i].values.rows;
        size_t needed = (size_t)(rows * slabs[i].values.cols) * sizeof(float);
        if (needed > bytes) bytes = needed;
    }
    return bytes;
}

#endif
