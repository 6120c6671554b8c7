/* A traced step, read from its file of Chrome trace events and drawn as ranks x time. */
#ifndef STRATA_TRAIN_TIMELINE_H
#define STRATA_TRAIN_TIMELINE_H

#include "train/trace.h"

enum { TIMELINE_MAX_RANKS = 4096, TIMELINE_LABEL_BYTES = 64 };

struct timeline_event {
    double begin, end; /* ms */
    int32_t rank, microbatch;
    enum trace_kind kind;
};

struct timeline_shares {
    double busy;       /* of the step: computing, reading, updating */
    double collective; /* inside collectives */
    double bubble;     /* the rest: idle, or waiting for another stage's message */
};

struct timeline {
    int ranks;
    char (*labels)[TIMELINE_LABEL_BYTES]; /* (ranks) owned */
    int64_t count;
    struct timeline_event *events;  /* (count) by rank, then by begin; owned */
    double begin, end;              /* ms */
    struct timeline_shares *shares; /* (ranks) owned */
};

/* Reads complete events ("ph":"X") whose category is one of trace.h's kinds; `pid` is the rank.
 * Other events are passed over, and what a rank does from its validation or checkpoint on: the step
 * is over by then. STATUS_FORMAT names what is wrong, or says that there is no such event. */
enum status timeline_read(struct timeline *timeline, const char *path);
void timeline_free(struct timeline *timeline); /* may be called twice, and on a zeroed struct */

/* Means over the ranks. */
struct timeline_shares timeline_mean(const struct timeline *timeline);

/* The picture: a row a rank, a colour a kind, idle time and exchanges blank; microbatches are
 * numbered where there is room. The caller frees *svg. */
enum status timeline_draw(const struct timeline *timeline, const char *title, char **svg);

#endif
