/* index.h5 of a checkpoint: what is known of it before a single value is written. */
#ifndef STRATA_PARALLEL_CHECKPOINT_INDEX_H
#define STRATA_PARALLEL_CHECKPOINT_INDEX_H

#include "parallel/checkpoint.h"

/* A slab as rank 0 needs to know it. */
struct slab_record {
    char name[CHECKPOINT_NAME_BYTES];
    int64_t shape[2], offset[2], extent[2];
    int32_t file; /* rank number of the file that holds it */
    int32_t part; /* among those of its name in that file */
};

/* Rank 0 receives every rank's records behind its own; the others send. The caller frees *records,
 * also on failure. Collective over world. */
enum status checkpoint_index_gather(struct comm *world, const struct checkpoint_slab *slabs,
                                    int count, struct slab_record **records, int64_t *total);

/* Creates the index at `path`; *descriptor is open and not synced, -1 on failure. Sorts the
 * records. STATUS_SHAPE names a tensor that they don't cover. */
enum status checkpoint_index_create(const char *path, const struct checkpoint_state *state,
                                    struct slab_record *records, int64_t total, int *descriptor);

#endif
