/* How the documents of one token file become training sequences of at most `length` inputs.
 *
 * A document of n tokens is n - 1 pairs (input, target): its last token is a target only, its first
 * an input only. A sequence is a run of pairs, in file order, of one or more documents; a document
 * or what a cut leaves of it is one segment: positions begin at 0 and attention stays inside.
 * Nothing is padded and no pair is lost or used twice: what does not fill a sequence makes it
 * shorter.
 *
 * (One reason more to end a sequence: documents without pairs would make its run of tokens longer
 * than 2 * length.)
 *
 *   split   documents one after another, cut wherever a sequence is full
 *   whole   a document that fits into a sequence is never cut: it begins the next one instead
 *   off     a sequence holds one document; longer ones are cut */
#ifndef STRATA_DATA_SEQUENCES_H
#define STRATA_DATA_SEQUENCES_H

#include "kernels/base/status.h"
#include <stdint.h>

enum packing { PACKING_SPLIT, PACKING_WHOLE, PACKING_OFF };

struct sequence {
    int64_t token;    /* the first one, in the file */
    int64_t document; /* it belongs to */
    int32_t tokens;   /* the run that holds all inputs and targets; at most 2 * length */
    int32_t inputs;   /* at most length */
};

struct sequences {
    struct sequence *items; /* owned */
    int64_t count, capacity;
    int64_t inputs; /* in all */
};

/* documents (count + 1) ascending token offsets. */
enum status sequences_build(struct sequences *sequences, const int64_t *documents, int64_t count,
                            int64_t length, enum packing packing);
void sequences_free(struct sequences *sequences);

#endif
