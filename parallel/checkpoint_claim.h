/* Who may change a run's directory of checkpoints: its latest start, and nobody else.
 *
 * A scheduler that lost sight of a node starts the job again while processes of the former start
 * may still compute there and reach the same files. Locks don't hold everywhere, and clocks prove
 * nothing; renames do. Every start makes a folder of its own,
 *
 *     DIRECTORY/.tmp-start-00000003-17.2-9f3a5c71/      the third start: job 17, restarted twice
 *
 * and removes those of earlier starts before it reads anything. Whatever changes the directory goes
 * through that folder: a checkpoint is written in it and renamed out of it, an old one is renamed
 * into it and removed there. A start whose folder is gone can therefore change nothing any more, by
 * the file system's own word, at whatever moment it lost it: what it published before is a whole
 * checkpoint that the later start saw.
 *
 * Of two starts at once the one with the later name stays; the other is told. */
#ifndef STRATA_PARALLEL_CHECKPOINT_CLAIM_H
#define STRATA_PARALLEL_CHECKPOINT_CLAIM_H

#include "core/comm.h"
#include <stdbool.h>

enum { CHECKPOINT_CLAIM_BYTES = 96, CHECKPOINT_PATH_BYTES = 4096 };

/* What the scheduler calls this start; 0 and 0 without one. Starts of one job are ordered by
 * `restart`: an earlier one that wakes up late takes nothing. */
struct checkpoint_start {
    int64_t job, restart;
};

/* SLURM_JOB_ID and SLURM_RESTART_COUNT. */
struct checkpoint_start checkpoint_start_of_job(void);

struct checkpoint_claim {
    char directory[CHECKPOINT_PATH_BYTES];
    char folder[CHECKPOINT_CLAIM_BYTES]; /* its name in the directory; "" = no claim */
};

/* Makes the directory (its parent must exist, and is synced) and a folder for this start, and
 * removes what earlier starts left there. STATUS_CONFIG when a later start has it, or the path is
 * no good. Collective over world: rank 0 acts, the claim is every rank's. */
enum status checkpoint_claim_take(struct comm *world, const char *directory,
                                  const struct checkpoint_start *start,
                                  struct checkpoint_claim *claim);

/* Whether the latest start that claims the directory is a former one of the same job: it is to be
 * taken over from, even if it still runs. False without a job. */
bool checkpoint_claim_is_former(const char *directory, const struct checkpoint_start *start);

/* STATUS_CONFIG when the folder is gone: a later start has taken over. One process asks; only the
 * renames themselves are proof. */
enum status checkpoint_claim_check(const struct checkpoint_claim *claim);

/* Gives the claim up; one process, after its last save. A directory that is empty then goes too.
 * May be called twice and on a zeroed struct. */
void checkpoint_claim_release(struct checkpoint_claim *claim);

#endif
