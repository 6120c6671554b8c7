/* The file of one rank: laid out by HDF5, filled without it.
 *
 * HDF5 makes every dataset with its room in the file (contiguous, allocated at once) and says where
 * the room is. The values, and their hashes, which are a dataset of their own because HDF5's
 * attributes carry checksums, are then plain writes into the descriptor. So filling can be another
 * thread's work: no lock, and the loader's reading of token files never waits for a disk. */
#ifndef STRATA_PARALLEL_CHECKPOINT_RANK_FILE_H
#define STRATA_PARALLEL_CHECKPOINT_RANK_FILE_H

#include "parallel/checkpoint.h"
#include <stdatomic.h>

struct rank_file_part {
    struct weight values; /* borrowed */
    uint64_t at;          /* where they go: bytes from the file's begin */
};

struct checkpoint_rank_file {
    char *path;     /* owned; NULL where nothing is to be written */
    int descriptor; /* while path is set; -1 when closed */
    int count;
    struct rank_file_part *parts; /* (count), owned */
    uint64_t *hashes;             /* (count), owned */
    uint64_t hashes_at;
    float *block; /* owned */
};

/* Creates `path`, which must not exist, for `count` slabs; none makes no file. The slabs' values
 * are read when it is filled. On failure all is freed. */
enum status checkpoint_rank_file_create(struct checkpoint_rank_file *file, const char *path,
                                        const struct checkpoint_slab *slabs, int count);

/* Writes values and hashes, syncs and closes. STATUS_IO names the file and the reason;
 * STATUS_CANCELLED as soon as *cancel is seen set. Any thread. */
enum status checkpoint_rank_file_fill(struct checkpoint_rank_file *file, const atomic_bool *cancel);

/* Closes what is open; the file stays. May be called twice, and on a zeroed struct. */
void checkpoint_rank_file_free(struct checkpoint_rank_file *file);

#endif
