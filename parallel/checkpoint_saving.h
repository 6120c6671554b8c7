/* A checkpoint on its way to the disk while training goes on.
 *
 *     begin    collective, blocks: HDF5 lays out every rank's file and the index, values are copied
 *     poll     collective, between two steps: a few bytes go around, nothing waits for a disk
 *     finish   collective, waits for what is left; the verdict
 *
 *     step        |--40--| begin |--41--| poll |--42--| poll |--43--| poll, finish
 *     thread of each rank        [ values, hashes, sync ]
 *     thread of rank 0                                [ rename, sync, remove old ones ]
 *
 * A thread of each rank writes; only once all of them are synced, which the ranks find out in a
 * poll, rank 0's gives the checkpoint its name. MPI and HDF5 are called in begin, poll and finish
 * alone, by the thread that trains: HDF5 is not made for two threads, and the loader reads token
 * files with it; a lock around both would have let a slow disk hold up the loader. So HDF5 makes
 * files with room for what is to come (parallel/checkpoint_rank_file.h), and the thread needs
 * nothing but file descriptors.
 *
 * While finish waits, ranks meet in short intervals: a slow disk is no rank that hangs
 * (parallel/watchdog.h), and a rank that hangs is still found. A process that ends before the name
 * is given leaves a folder that the next start removes, and the checkpoints from before. */
#ifndef STRATA_PARALLEL_CHECKPOINT_SAVING_H
#define STRATA_PARALLEL_CHECKPOINT_SAVING_H

#include "parallel/checkpoint.h"

struct checkpoint_saving; /* opaque */

struct checkpoint_request {
    const struct checkpoint_claim *claim; /* copied, as state and slabs are */
    const struct checkpoint_state *state;
    const struct checkpoint_slab *slabs;
    int slab_count;
    int keep;  /* at least 1: as of checkpoint_save */
    bool best; /* it is marked once it is there: checkpoint_mark_best */
    /* checkpoint_snapshot_bytes for a copy of the values, not touched until finish. NULL: there is
     * none, and the values themselves must not change until then. */
    void *snapshot;
};

/* What became of one. Seconds of this rank's clock_seconds(). */
struct checkpoint_report {
    int64_t step;
    double begun, written; /* the first value; the last file synced. Of this rank */
    double ended;          /* it had its name, as far as this rank knows */
    int64_t bytes;         /* of values, all ranks */
};

size_t checkpoint_snapshot_bytes(const struct checkpoint_slab *slabs, int count);

/* On failure nothing is in flight and *saving is NULL: as of checkpoint_save. */
enum status checkpoint_begin(struct checkpoint_saving **saving, struct comm *world,
                             const struct checkpoint_request *request);

/* *over, the same on every rank: finish would not wait, or has a failure to tell. */
enum status checkpoint_poll(struct checkpoint_saving *saving, bool *over);

/* Says what checkpoint_save would have said, on every rank alike, and frees *saving, also after a
 * failure. *report (may be NULL) where it is STATUS_OK. */
enum status checkpoint_finish(struct checkpoint_saving **saving, struct checkpoint_report *report);

/* Gives it up, as a rank does that goes: its temporary folder is left. Not collective; waits for
 * this rank's thread. *saving may be NULL. */
void checkpoint_abandon(struct checkpoint_saving **saving);

#endif
