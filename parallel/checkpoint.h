/* Checkpoints: HDF5, logical tensors, fit any layout.
 *
 *     DIRECTORY/step-00000040/               complete: it got this name when all was synced
 *               step-00000050/rank-0000.h5   what rank 0 owns, a dataset a slab
 *                             rank-0003.h5   what rank 3 owns
 *                             index.h5       every tensor whole, /state/..., /files
 *                             index.xxh3     the hash of index.h5
 *               .tmp-start-.../              of the start that may write (checkpoint_claim.h):
 *                                            being written, or left by a writer that died
 *               best.txt                     the step with the lowest validation loss
 *
 * index.h5 holds virtual datasets over the rank files, so any HDF5 tool sees logical tensors.
 * A tensor is fp32, (rows, cols), row-major, in Hugging Face's order. Slab datasets are called as
 * their tensor, a rank's second and third of it NAME#1 and NAME#2; they carry the attributes
 * `shape` (of the whole), `offset` and `xxh3_at` (which of the rank file's /hashes is XXH3-64 of
 * their bytes). Ranks that own nothing write nothing; a tensor that several hold is given by one of
 * them. Reading cuts any rectangle out of the index, so the ranks that read need not be those that
 * wrote.
 *
 * All calls but checkpoint_mark_best and checkpoint_best are collective over `world`; every rank
 * returns the same status, and its message names the rank that saw the failure. The directory is
 * one that all ranks see. While a call runs it holds a buffer of 1 MiB, or of 16 rows of the widest
 * tensor. */
#ifndef STRATA_PARALLEL_CHECKPOINT_H
#define STRATA_PARALLEL_CHECKPOINT_H

#include "core/comm.h"
#include "kernels/pack.h"
#include "parallel/checkpoint_claim.h"

enum { CHECKPOINT_NAME_BYTES = 256, CHECKPOINT_HISTORY = 256 };

/* A rectangle of a logical tensor, and where its values are: a whole parameter under data parallel,
 * a range of rows or columns under tensor parallel, a few rectangles under ZeRO. Never empty when
 * written; those of a name follow each other. */
struct checkpoint_slab {
    const char *name;             /* "weights/model.norm.weight", "adam_m/...": no '%' or '#' */
    int64_t rows, cols;           /* of the whole tensor */
    int64_t first_row, first_col; /* of mine */
    struct weight values;         /* mine, (values.rows, values.cols), any layout; borrowed */
};

/* The scalars of a run. */
struct checkpoint_state {
    int64_t step;
    int64_t cursor; /* global index of the next sample */
    int64_t tokens; /* trained on so far */
    uint64_t seed;
    uint64_t tokenizer_hash;
    double best_loss; /* lowest validation loss so far */
    char *config;     /* the resolved configuration, text; checkpoint_load allocates it */
    /* What the run remembers of its steps, as it likes; none in checkpoints before there was any.
     */
    int64_t history_count; /* at most CHECKPOINT_HISTORY */
    double history[CHECKPOINT_HISTORY];
};

/* Writes step-N of the claim's directory and removes all but the newest `keep` (at least 1) and
 * the best one. On failure nothing of the new one is left and the others are untouched; a failure
 * to remove old ones is only logged. An existing step-N is replaced. STATUS_CONFIG when a
 * later start has taken the directory over: then nothing is changed. */
enum status checkpoint_save(struct comm *world, const struct checkpoint_claim *claim,
                            const struct checkpoint_state *state,
                            const struct checkpoint_slab *slabs, int slab_count, int keep);

/* The newest step below `below` (INT64_MAX: any) whose files are all there and whole HDF5; -1 when
 * there is none. Changes nothing: leftovers of interrupted writers go with the next save. */
enum status checkpoint_latest(struct comm *world, const char *directory, int64_t below,
                              int64_t *step);

/* Reads the scalars, and the values of my slabs. Unless this rank and all others ask for no slab,
 * the hash of every dataset in the checkpoint is checked first, each rank taking its share of the
 * files. STATUS_SHAPE names a
 * tensor that the checkpoint has not, or has in another shape; STATUS_FORMAT what is damaged. The
 * caller frees state->config. */
enum status checkpoint_load(struct comm *world, const char *directory, int64_t step,
                            struct checkpoint_state *state, const struct checkpoint_slab *slabs,
                            int slab_count);

/* Loads the newest checkpoint below `below` (INT64_MAX: any) that is intact: one that fails its
 * hashes is logged and passed over. *step = -1 when there is none, and nothing is changed.
 * STATUS_FORMAT when there are some and all are damaged. */
enum status checkpoint_resume(struct comm *world, const char *directory, int64_t below,
                              int64_t *step, struct checkpoint_state *state,
                              const struct checkpoint_slab *slabs, int slab_count);

/* Says which step is the best one; atomic, and like checkpoint_save where a later start has taken
 * over. One rank calls it, after checkpoint_save. */
enum status checkpoint_mark_best(const struct checkpoint_claim *claim, int64_t step);

/* The step marked, -1 when none is. */
int64_t checkpoint_best(const char *directory);

#endif
