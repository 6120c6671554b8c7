/* Replicas that train alone and meet seldom, for slow links (DiLoCo, arXiv:2311.08105): each takes
 * `every` steps of its own optimizer on its own samples, then all take one outer step by Nesterov
 * momentum over what they have moved on average:
 *     d = anchor - mean(w);  b = mu b + d;  anchor = anchor - lr (d + mu b);  w = anchor
 * The mean is a sum in rank order, so all replicas go on from the same bits. */
#ifndef STRATA_TRAIN_OUTER_H
#define STRATA_TRAIN_OUTER_H

#include "core/comm.h"
#include "train/optimizer.h"

struct outer {
    const struct optimizer *optimizer; /* whose slots are whole: zero 0 */
    float **anchors, **momenta;        /* (optimizer->count), fp32, as the masters lie */
};

/* Lays out anchors and momenta in `arena`, which may be counting. The optimizer is borrowed.
 * STATUS_MEMORY. */
enum status outer_plan(struct outer *outer, const struct optimizer *optimizer, struct arena *arena);
void outer_free(struct outer *outer); /* may be called twice, and on zeroes */

/* Takes the anchors from the masters as they are now. */
void outer_start(const struct outer *outer);

/* The outer step: masters, and weights, are the new anchors. Collective over `replicas`. */
void outer_step(const struct outer *outer, struct comm *replicas, struct stream *stream, double lr,
                double momentum);

#endif
