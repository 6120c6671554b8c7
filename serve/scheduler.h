/* Continuous batching (Orca, OSDI 2022) with chunked prefill (Sarathi-Serve, arXiv:2403.02310):
 * which tokens of which sequences run in the next step. Bookkeeping over integers; knows no
 * tensors, texts or clocks.
 *
 * A sequence is its tokens; the first `computed` of them have keys and values in pages. A step runs
 * some of the rest, and when that reaches the end, one more token is drawn and appended.
 *
 *   - Sequences that need one token (decodes) go first, then longer rests (prefills) in order of
 *     arrival, all within `token_budget` tokens a step. While several wait for prefill none takes
 *     more than half the budget, so that a short prompt is not stuck behind a long one.
 *   - A waiting sequence starts when its whole rest finds pages, with a page to spare for each one
 *     that runs; nobody overtakes the first in line (but see `group`).
 *   - When a decode finds no page the youngest running sequence gives back its pages and waits
 *     again in its old place; what it had is computed again ("recompute"). The oldest is never
 *     preempted, so every sequence finishes.
 *
 * Not thread-safe: the engine's thread owns it. */
#ifndef STRATA_SERVE_SCHEDULER_H
#define STRATA_SERVE_SCHEDULER_H

#include "serve/kv_pages.h"

enum sequence_state { SEQUENCE_NEW, SEQUENCE_WAITING, SEQUENCE_RUNNING, SEQUENCE_DONE };

/* The caller sets the first block; the rest is the scheduler's, readable. */
struct sequence {
    int32_t *tokens;   /* (limit) borrowed: the prompt, then what was drawn */
    int32_t count;     /* tokens there; the prompt's length at first, at least 1 */
    int32_t limit;     /* tokens when it must end */
    int32_t root;      /* of the prefix tree: sequences of one adapter share one */
    bool reuse_prefix; /* published pages may stand in for computing (not when prompt logits are
                          wanted) */
    int64_t group;     /* nonzero: siblings with one prompt; they wait for the first one's prefill,
                          whose pages they then share */

    enum sequence_state state;
    int64_t arrival;
    int32_t prompt;   /* the first `count` */
    int32_t computed; /* tokens whose keys and values are in pages */
    int32_t reused;   /* prompt tokens found in published pages when it first started; -1 before */
    int32_t *pages;   /* owned while waiting or running */
    int32_t page_count, published;
    uint64_t stamp; /* of the last published page, or the root */
    int32_t preemptions;
    struct sequence *next; /* in the waiting line */
};

struct scheduler_config {
    int32_t context;      /* no sequence's limit is beyond it */
    int32_t max_batch;    /* sequences running at once */
    int32_t token_budget; /* tokens a step, at least max_batch */
};

struct scheduler {
    struct scheduler_config config;
    struct kv_pages *pages;    /* borrowed */
    struct sequence *waiting;  /* in order of arrival */
    struct sequence **running; /* (max_batch) in order of arrival */
    int32_t running_count, waiting_count;
    int64_t arrivals, preemptions;
};

/* Tokens [first, first + count) of a sequence; `draws` when they reach its end. */
struct plan_item {
    struct sequence *sequence;
    int32_t first, count;
    bool draws;
};

struct scheduler_plan {
    struct plan_item *items; /* (max_batch) */
    int32_t count;
    int32_t tokens; /* sum of the items' counts, at most token_budget */
};

/* The pages are borrowed and must hold `context` tokens at least. */
enum status scheduler_create(struct scheduler *scheduler, const struct scheduler_config *config,
                             struct kv_pages *pages);
void scheduler_free(struct scheduler *scheduler);

enum status scheduler_plan_create(struct scheduler_plan *plan,
                                  const struct scheduler_config *config);
void scheduler_plan_free(struct scheduler_plan *plan);

/* Puts a sequence at the end of the line. STATUS_CONFIG when it can never fit the context, with
 * both lengths. The last token drawn is never fed back, so its key needs no room: a prompt as long
 * as the context may still have one token drawn. */
enum status scheduler_submit(struct scheduler *scheduler, struct sequence *sequence);

/* Takes a sequence out at once, whatever its state; not between plan and commit. */
void scheduler_remove(struct scheduler *scheduler, struct sequence *sequence);

/* Plans one step. plan->count is 0 only when nothing waits or runs. */
void scheduler_plan(struct scheduler *scheduler, struct scheduler_plan *plan);

/* The planned step has run. drawn[i] is item i's new token where it draws (its sequence has room),
 * -1 to end a sequence without one; ended[i] says that the item's sequence is done. */
void scheduler_commit(struct scheduler *scheduler, const struct scheduler_plan *plan,
                      const int32_t *drawn, const bool *ended);

#endif
