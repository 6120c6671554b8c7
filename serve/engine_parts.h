/* The engine's inside, shared by its files and nobody else. */
#ifndef STRATA_SERVE_ENGINE_PARTS_H
#define STRATA_SERVE_ENGINE_PARTS_H

#include "core/workspace.h"
#include "serve/engine.h"
#include "serve/logprobs.h"

/* A row of logits that a step makes: to draw an item's next token, or to score a prompt token that
 * is known already. */
struct logit_row {
    struct generation *generation;
    int32_t item;     /* of the plan */
    int32_t position; /* of the token that the row predicts */
    bool draws;
};

/* What the step's arrays hold at most: token_budget tokens, max_batch sequences. */
struct step_arrays {
    int32_t *ids, *positions;    /* (token_budget) */
    int32_t *start, *past;       /* (max_batch + 1), (max_batch) */
    int32_t *page_table;         /* (max_batch, max_pages) */
    struct adapter_span *spans;  /* (max_batch) */
    int32_t *order;              /* (max_batch) items by adapter */
    struct logit_row *rows;      /* (token_budget) */
    int32_t *row_tokens;         /* (token_budget) packed token of each row */
    float *logits;               /* (max_batch, V) */
    float *sample_scratch;       /* (threads, V) */
    int32_t *sample_ids;         /* (threads, V) */
    struct token_chance *chosen; /* (max_batch) of a group of rows */
    struct token_chance *tops;   /* (max_batch, LOGPROBS_MAX_TOP) */
    int32_t *top_counts;         /* (max_batch) */
    int32_t *drawn;              /* (max_batch) by item */
    bool *ended;                 /* (max_batch) by item */
};

struct engine {
    struct engine_options options;
    struct engine_layout layout;
    struct workspace work;
    struct arena arrays, kv;
    struct kv_pages_view kv_view;
    struct kv_pages pages;
    struct scheduler scheduler;
    struct scheduler_plan plan;
    struct step_arrays step;
    struct batch batch;
    int32_t row_count;
    struct generation *live; /* waiting and running, in no order */
    int64_t steps, largest_batch;
    double looked; /* when `wanted` was last asked */

    pthread_t thread;
    bool thread_started;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t news;  /* for the engine's thread: an inbox, a cancellation, closing */
    pthread_cond_t idle;  /* for engine_drain */
    struct generation *inbox;
    bool cancellations, closing, refusing;
    bool busy; /* anything lives */
    struct engine_stats stats;
};

/* engine_layout.c: decides sizes, allocates every arena. */
enum status engine_lay_out(struct engine *engine);
void engine_free_memory(struct engine *engine);

/* engine_batch.c: the plan as a batch, and the rows of logits that are wanted from it. */
void engine_build_batch(struct engine *engine);

/* engine_draw.c: logits, tokens, text; says which items have ended. */
void engine_draw_tokens(struct engine *engine);

/* engine_stats.c */
void histogram_add(struct histogram *histogram, double seconds);
/* Counts and logs an ended generation. */
void engine_account(struct engine *engine, const struct generation *generation);

#endif
