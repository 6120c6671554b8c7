/* Pipeline schedules as data: what a stage does, in order. Pure functions, no communicator.
 *
 * A pipeline of p stages and v chunks a stage cuts the layers into p * v virtual stages; virtual
 * stage q = chunk * p + stage is followed by q + 1. An action's messages follow from it: a forward
 * receives from q - 1 and sends to q + 1, a backward receives from q + 1 and sends to q - 1; the
 * ends of the model have no neighbour beyond them. Along a link and direction messages are sent in
 * the order in which they are received.
 *
 *   gpipe        Huang et al., arXiv:1811.06965: all forwards, then all backwards
 *   1f1b         Narayanan et al., arXiv:2006.09503: as many forwards as keep the last stage busy,
 *                then one backward, one forward
 *   interleaved  Narayanan et al., arXiv:2104.04473: 1f1b over v chunks. Microbatches go through in
 *                groups of p; the last group may have fewer.
 *   zb-h1        Qi et al., arXiv:2401.10241: 1f1b whose backward is two actions. A stage hands on
 *                the gradient of its input first, and makes those of its weights when nobody waits.
 *
 * With the same times F, B (gradient of the input), W (of the weights) on all stages, m
 * microbatches, stage i:
 *
 *                  bubble                      activation sets in flight
 *   gpipe          (p-1)(F+B+W)                m
 *   1f1b           (p-1)(F+B+W)                min(m, p-i)
 *   interleaved    (p-1)(F+B+W) / v            p v (1 + (p-1)/(p v)) of a chunk, on stage 0
 *   zb-h1          (p-1)(F+B-W), W <= B        min(m, p) */
#ifndef STRATA_PARALLEL_SCHEDULE_H
#define STRATA_PARALLEL_SCHEDULE_H

#include "kernels/base/status.h"
#include <stdbool.h>

enum schedule_kind { PIPELINE_GPIPE, PIPELINE_1F1B, PIPELINE_INTERLEAVED, PIPELINE_ZB_H1 };

enum action_kind { ACTION_FORWARD, ACTION_BACKWARD, ACTION_BACKWARD_INPUT, ACTION_BACKWARD_WEIGHT };

struct action {
    enum action_kind kind;
    int microbatch, chunk;
    /* Which of the stage's activation sets and input buffers the microbatch has from its forward to
     * the end of its backward. An input that is received is its own from the forward before on, so
     * that it may arrive meanwhile. */
    int set, input;
};

struct schedule_shape {
    enum schedule_kind kind;
    int stages, microbatches, chunks; /* chunks 1 unless interleaved */
};

struct schedule {
    struct schedule_shape shape;
    int stage;
    int count;
    struct action *actions; /* (count) */
    int sets, inputs;       /* how many the actions name */
};

/* The actions of one stage. Every microbatch's chunk goes forward once and then backward once;
 * microbatches of a chunk go both ways in ascending order. STATUS_CONFIG: chunks without
 * interleaving. STATUS_MEMORY. schedule_free may be called twice, and on a zeroed struct. */
enum status schedule_create(struct schedule *schedule, const struct schedule_shape *shape,
                            int stage);
void schedule_free(struct schedule *schedule);

/* The words of parallel.schedule, in the order of enum schedule_kind; NULL at the end. */
extern const char *const pipeline_schedule_words[];

/* One letter: F, B (a whole backward), I (gradient of the input), W (of the weights). */
char action_letter(enum action_kind kind);

static inline int schedule_virtual_stage(const struct schedule *schedule, int chunk) {
    return chunk * schedule->shape.stages + schedule->stage;
}

/* Whether the action waits for a message, and whether it makes one. */
bool schedule_receives(const struct schedule *schedule, const struct action *action);
bool schedule_sends(const struct schedule *schedule, const struct action *action);

#endif
