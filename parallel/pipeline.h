/* Walks a stage's actions: receives, computes, sends on. What computing means is the caller's.
 *
 * Activations go up on one communicator and gradients down on another, so that neither waits for
 * the other. What an action receives is waited for from the beginning of the action before it, of
 * the same direction, and may arrive while that one computes; sends never block. One stage sends
 * and receives nothing. */
#ifndef STRATA_PARALLEL_PIPELINE_H
#define STRATA_PARALLEL_PIPELINE_H

#include "core/arena.h"
#include "core/comm.h"
#include "parallel/schedule.h"

enum { PIPELINE_EMPTY = -1 };

struct pipeline_calls {
    void *context;
    /* Elements of a microbatch's activations, or PIPELINE_EMPTY: all stages pass over it. */
    int64_t (*elements)(void *context, int microbatch);
    /* Returns the output. `input` holds what was received; it is the caller's to fill on the first
     * virtual stage. Both stay as they are until the action's backward ends, the output longer
     * than that where nothing comes back: until the next forward of the same set. */
    const void *(*forward)(void *context, const struct action *action, void *input);
    /* d: in the gradient of the output, garbage on the last virtual stage; out that of the input,
     * where it is sent on. NULL for ACTION_BACKWARD_WEIGHT. */
    void (*backward)(void *context, const struct action *action, void *d);
};

enum { PIPELINE_GRADIENTS = 3 }; /* at most: arriving, in work, leaving */

struct pipeline {
    struct schedule schedule;
    struct comm *up, *down; /* of activations and of gradients; rank = stage */
    struct stream *stream;
    enum dtype dtype;
    void **inputs;                           /* (schedule.inputs) */
    void *gradients[PIPELINE_GRADIENTS];     /* (gradient_count) */
    int gradient_count, backwards;           /* backwards done in this run */
    struct comm_request *arriving, *leaving; /* (inputs), (sets): activations */
    struct comm_request d_arriving[PIPELINE_GRADIENTS], d_leaving[PIPELINE_GRADIENTS];
};

/* The schedule of one stage and its gradient buffers of `elements` each, pushed to `arena`, which
 * may be counting. inputs[], communicators and stream are set by the caller, who owns them.
 * STATUS_CONFIG as schedule_create says; STATUS_MEMORY. */
enum status pipeline_plan(struct pipeline *pipeline, const struct schedule_shape *shape, int stage,
                          enum dtype dtype, int64_t elements, struct arena *arena);
void pipeline_free(struct pipeline *pipeline); /* may be called twice, and on a zeroed struct */

enum pipeline_part { PIPELINE_TRAIN, PIPELINE_FORWARD_ONLY };

/* Once through the actions, or through the forwards alone. A failure sticks to the stream.
 * Collective over the stages. */
void pipeline_run(struct pipeline *pipeline, const struct pipeline_calls *calls,
                  enum pipeline_part part);

/* Moves messages on that are under way: MPI does so only while it is called. */
void pipeline_poke(struct pipeline *pipeline);

#endif
