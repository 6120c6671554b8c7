/* What a pipeline schedule would do with given costs: a timeline. Costs in, times out; used by
 * tests, by the planner and by whoever draws timelines. */
#ifndef STRATA_PARALLEL_SCHEDULE_SIMULATE_H
#define STRATA_PARALLEL_SCHEDULE_SIMULATE_H

#include "parallel/schedule.h"

/* Seconds (or any unit) of each virtual stage, (stages * chunks) each; a whole backward takes
 * input + weight. */
struct schedule_costs {
    const double *forward, *input, *weight;
    double transfer; /* of a message between stages */
};

enum schedule_send {
    SEND_FREE,    /* a message leaves when its action ends, and the stage goes on */
    SEND_BLOCKING /* the stage goes on when the message has arrived, for which the receiver must
                     have begun its action before, of the same direction */
};

struct schedule_event {
    double start, end; /* of computing */
    double freed;      /* when the stage goes on; after `end` where a send blocks */
};

struct schedule_timeline {
    double seconds; /* from the first start to the last end */
    double busiest; /* seconds that the busiest stage computes */
    int stages;
    struct schedule_event **events; /* (stages) arrays as long as the stages' schedules */
};

/* `schedules` (stages): one a stage, all of the same shape. STATUS_CONFIG names the first action
 * that can never begin. The caller calls schedule_timeline_free, which may be called twice. */
enum status schedule_simulate(struct schedule_timeline *timeline, const struct schedule *schedules,
                              const struct schedule_costs *costs, enum schedule_send send);
void schedule_timeline_free(struct schedule_timeline *timeline);

/* Time that the busiest stage waits, over the time that it computes. */
static inline double schedule_timeline_bubble(const struct schedule_timeline *timeline) {
    return timeline->seconds / timeline->busiest - 1.0;
}

#endif
