/* Training batches from token files.
 *
 * The files' documents are cut into sequences (data/sequences.h), which are numbered once. Sample g
 * of a run, g = 0, 1, 2, ..., is sequence shuffle(seed, epoch, g mod count) of epoch g / count, or
 * sequence g mod count where shuffling is off. So what a step trains on depends on nothing but the
 * files, the options and g; the cursor of a run is the g of its next step, and resuming from it is
 * exact on any number of ranks:
 *
 *     step s of B sequences      samples s*B .. (s+1)*B - 1
 *     data-parallel rank r of R  loader_share(B, r, R) of those, in order
 *     a microbatch               a run of that share
 *
 * Only the first token of a document is never a target. A token of weight 0 is context: it is an
 * input, its target is -1. */
#ifndef STRATA_DATA_LOADER_H
#define STRATA_DATA_LOADER_H

#include "core/arena.h"
#include "core/batch.h"
#include "core/config.h"
#include "data/sequences.h"

struct loader_options {
    struct config_list train, validation; /* token files */
    int64_t sequence_length;
    enum packing packing;
    bool shuffle;
    int64_t seed;
};
extern const struct config_row loader_rows[]; /* of the prefix "data" */
extern const int loader_row_count;

/* What the model at hand asks of the files; 0 = don't care. */
struct loader_expect {
    uint64_t tokenizer_hash;
    const char *tokenizer; /* with a hash: the path it was read from, for people */
    int64_t vocabulary;    /* the files' ids must be below it */
};

struct loader; /* opaque; one thread at a time */

/* Opens the files. `shuffle` is told apart from the options: validation never shuffles.
 * STATUS_CONFIG: files made with different tokenizers. STATUS_FORMAT: made with another than
 * expected, not a token file, or nothing to train on. */
enum status loader_open(struct loader **loader, const struct loader_options *options,
                        const struct config_list *files, bool shuffle,
                        const struct loader_expect *expect);
void loader_close(struct loader *loader); /* NULL is fine */

int64_t loader_sequences(const struct loader *loader); /* an epoch */
int64_t loader_inputs(const struct loader *loader);    /* tokens an epoch goes through */

/* What the file of data.train[i] or data.validation[i] holds, for comparison and for people:
 * "tokens=12000 documents=40 hash=..." (token_file_fingerprint). */
enum { LOADER_FILE_BYTES = 96 };
enum status loader_describe_file(struct loader *loader, int64_t i, char text[LOADER_FILE_BYTES]);

struct loader_share {
    int64_t first, count;
};
/* The part of `count` items that rank gets: contiguous, in order of rank, sizes differ by at most
 * one. */
struct loader_share loader_share(int64_t count, int rank, int ranks);

/* Packed tokens of several sequences. Arrays are pushed once onto an arena. */
struct loader_batch {
    int64_t capacity, tokens;
    int32_t *ids;       /* (tokens) */
    int32_t *positions; /* (tokens) from 0 in each segment */
    int32_t *targets;   /* (tokens) the next token of the document, -1 where its weight is 0 */
    float *weights;     /* (tokens) loss weight of the target, 0 where there is none */
    int64_t *row_ids;   /* (tokens) sample * sequence_length + index in it: dropout's key */
    int32_t *start;     /* (segments + 1) */
    int32_t *past;      /* (segments) all 0 */
    int32_t segments;
    int64_t trained;   /* targets >= 0 */
    double weight_sum; /* of weights */
};

/* Arrays for `sequences` sequences at once. Counts on a counting arena. */
void loader_batch_layout(struct loader_batch *batch, struct arena *arena, int64_t sequences,
                         int64_t sequence_length);

/* Samples first .. first + count - 1 (count may be 0) in order; count is at most what the batch was
 * laid out for. */
enum status loader_read(struct loader *loader, int64_t first, int64_t count,
                        struct loader_batch *batch);

/* The batch as the layers take it; loss_weights are the raw weights. Borrows from `batch`. */
struct batch loader_batch_view(const struct loader_batch *batch);

/* STATUS_OK when `trained`, the targets of a step over all ranks, is not 0; else STATUS_FORMAT that
 * names the step, the files and the documents of samples first .. first + count - 1. */
enum status loader_check_trained(const struct loader *loader, int64_t trained, int64_t step,
                                 int64_t first, int64_t count);

#endif
