#define _GNU_SOURCE
#include "kernels/base/clock.h"
#include "serve/deadline.h"
#include "serve/engine_parts.h"

#include <stdlib.h>
#include <string.h>

enum {
    LOOK_MILLISECONDS = 50, /* how often listeners are asked whether anybody still wants it */
    WARM_UP_TOKENS = 32,
};

/* Makes the engine's pending news visible to its thread; called with the lock held. */
static void tell_engine(struct engine *engine) {
    engine->busy = engine->busy || engine->inbox != NULL;
    pthread_cond_signal(&engine->news);
}

enum status engine_submit(struct engine *engine, struct generation *generation) {
    const struct sequence *sequence = &generation->sequence;
    if (sequence->limit - (generation->options->max_tokens > 0) > engine->layout.context)
        return status_fail(STATUS_CONFIG,
                           "the prompt has %d tokens and at most %d more are asked for, but the "
                           "context is %lld tokens",
                           sequence->count, generation->options->max_tokens,
                           (long long)engine->layout.context);
    pthread_mutex_lock(&engine->lock);
    bool refused = engine->refusing;
    if (!refused) {
        generation_hold(generation);
        generation->times.submitted = clock_seconds();
        struct generation **link = &engine->inbox;
        while (*link) link = &(*link)->next;
        *link = generation;
        tell_engine(engine);
    }
    pthread_mutex_unlock(&engine->lock);
    if (refused) return status_fail(STATUS_CANCELLED, "the server is shutting down");
    return STATUS_OK;
}

void engine_cancel(struct engine *engine, struct generation *generation) {
    atomic_store(&generation->cancelled, true);
    pthread_mutex_lock(&engine->lock);
    engine->cancellations = true;
    tell_engine(engine);
    pthread_mutex_unlock(&engine->lock);
}

/* The generation is over: out of every list, counted, and no longer held. */
static void retire(struct engine *engine, struct generation *generation) {
    struct generation **link = &engine->live;
    while (*link != generation) link = &(*link)->next;
    *link = generation->next;
    generation->next = NULL;
    engine_account(engine, generation);
    generation_release(generation);
}

static bool is_wanted(struct generation *generation) {
    if (atomic_load(&generation->cancelled)) return false;
    pthread_mutex_lock(&generation->lock);
    const struct listener *listener = &generation->listener;
    bool wanted = !listener->wanted || listener->wanted(listener->context);
    pthread_mutex_unlock(&generation->lock);
    return wanted;
}

/* Ends what nobody wants any more, or everything. */
static void drop_unwanted(struct engine *engine, bool all) {
    struct generation *generation = engine->live, *next;
    for (; generation; generation = next) {
        next = generation->next;
        if (!all && is_wanted(generation)) continue;
        scheduler_remove(&engine->scheduler, &generation->sequence);
        generation_finish(generation, FINISH_CANCELLED, NULL);
        retire(engine, generation);
    }
    engine->looked = clock_seconds();
}

static void join_line(struct engine *engine, struct generation *generation) {
    generation->next = engine->live;
    engine->live = generation;
    if (scheduler_submit(&engine->scheduler, &generation->sequence) == STATUS_OK) return;
    generation_finish(generation, FINISH_ERROR, status_message());
    retire(engine, generation);
}

static void read_gauges(struct engine *engine) {
    engine->stats.steps = engine->steps;
    engine->stats.largest_batch = engine->largest_batch;
    engine->stats.running = engine->scheduler.running_count;
    engine->stats.waiting = engine->scheduler.waiting_count;
    engine->stats.pages_used = engine->pages.count - engine->pages.idle_count;
    engine->stats.preemptions = engine->scheduler.preemptions;
    engine->stats.evictions = engine->pages.evictions;
}

/* Sleeps until something lives or the engine closes; false when it closes. */
static bool wait_for_work(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    engine->busy = engine->live || engine->inbox;
    read_gauges(engine);
    if (!engine->busy) pthread_cond_broadcast(&engine->idle);
    while (!engine->live && !engine->inbox && !engine->closing)
        pthread_cond_wait(&engine->news, &engine->lock);
    bool closing = engine->closing;
    pthread_mutex_unlock(&engine->lock);
    return !closing;
}

/* New generations join the line, unwanted ones leave it. */
static void accept_news(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    struct generation *generation = engine->inbox, *next;
    bool look = engine->cancellations;
    engine->inbox = NULL;
    engine->cancellations = false;
    pthread_mutex_unlock(&engine->lock);
    for (; generation; generation = next) {
        next = generation->next;
        join_line(engine, generation);
    }
    if (look || clock_seconds() - engine->looked > LOOK_MILLISECONDS * 1e-3)
        drop_unwanted(engine, false);
}

/* Readers hear of their new tokens; what has ended is let go. */
static void deliver(struct engine *engine) {
    for (int32_t i = 0; i < engine->plan.count; i++) {
        struct generation *generation = generation_of(engine->plan.items[i].sequence);
        pthread_mutex_lock(&generation->lock);
        const struct listener *listener = &generation->listener;
        if (listener->wake && !engine->step.ended[i] && engine->step.drawn[i] >= 0)
            listener->wake(listener->context);
        pthread_mutex_unlock(&generation->lock);
        if (engine->step.ended[i]) retire(engine, generation);
    }
}

/* The serving loop (HOUSE: a serving step). */
static void run_step(struct engine *engine) {
    accept_news(engine);
    scheduler_plan(&engine->scheduler, &engine->plan);
    if (engine->plan.count == 0) return;
    engine_build_batch(engine);
    stage_forward(&engine->work.exec, engine->options.model, &engine->batch, &engine->work.acts);
    engine_draw_tokens(engine);
    scheduler_commit(&engine->scheduler, &engine->plan, engine->step.drawn, engine->step.ended);
    deliver(engine);
    engine->steps++;
    if (engine->plan.count > engine->largest_batch) engine->largest_batch = engine->plan.count;
}

static void *serve(void *argument) {
    struct engine *engine = argument;
    while (wait_for_work(engine)) run_step(engine);
    accept_news(engine);
    drop_unwanted(engine, true);
    return NULL;
}

/* A step on padding before anybody waits for one: weights are read into memory, threads start. */
static enum status warm_up(struct engine *engine) {
    const struct engine_layout *layout = &engine->layout;
    int64_t count = layout->token_budget < WARM_UP_TOKENS ? layout->token_budget : WARM_UP_TOKENS;
    if (count > layout->context) count = layout->context;
    int32_t *padding = calloc((size_t)count, sizeof *padding);
    struct generation_options *options = generation_options_create();
    struct generation *generation = NULL;
    enum status status =
        padding && options ? STATUS_OK : status_fail(STATUS_MEMORY, "no memory to warm up");
    if (status == STATUS_OK) {
        options->max_tokens = 1;
        options->ignore_eos = true;
        status = generation_create(&generation, options, padding, (int32_t)count, ADAPTER_NONE, 0,
                                   engine->options.tokenizer);
    }
    if (status == STATUS_OK) status = engine_submit(engine, generation);
    while (status == STATUS_OK && generation->finish == FINISH_NONE) run_step(engine);
    if (status == STATUS_OK && generation->finish == FINISH_ERROR)
        status = status_fail(STATUS_NUMERIC, "warming up: %s", generation->error);
    kv_forget_all(&engine->pages);
    engine->stats = (struct engine_stats){0};
    generation_release(generation);
    generation_options_release(options);
    free(padding);
    return status;
}

enum status engine_open(struct engine **out, const struct engine_options *options) {
    *out = NULL;
    struct engine *engine = calloc(1, sizeof *engine);
    if (!engine) return status_fail(STATUS_MEMORY, "no memory for the engine");
    engine->options = *options;
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->news, NULL);
    deadline_init(&engine->idle);
    enum status status = engine_lay_out(engine);
    if (status == STATUS_OK) status = warm_up(engine);
    if (status == STATUS_OK && pthread_create(&engine->thread, NULL, serve, engine) != 0)
        status = status_fail(STATUS_MEMORY, "the engine's thread could not be started");
    engine->thread_started = status == STATUS_OK;
    if (status != STATUS_OK)
        engine_close(engine);
    else
        *out = engine;
    return status;
}

void engine_cut(struct engine *engine) {
    pthread_mutex_lock(&engine->lock);
    engine->closing = engine->refusing = true;
    pthread_cond_signal(&engine->news);
    pthread_mutex_unlock(&engine->lock);
    if (engine->thread_started) pthread_join(engine->thread, NULL);
    engine->thread_started = false;
}

void engine_close(struct engine *engine) {
    if (!engine) return;
    engine_cut(engine);
    engine_free_memory(engine);
    pthread_cond_destroy(&engine->news);
    pthread_cond_destroy(&engine->idle);
    pthread_mutex_destroy(&engine->lock);
    free(engine);
}

bool engine_drain(struct engine *engine, double seconds) {
    const struct timespec until = deadline_after(seconds);
    pthread_mutex_lock(&engine->lock);
    engine->refusing = true;
    int result = 0;
    while (engine->busy && result == 0)
        result = pthread_cond_timedwait(&engine->idle, &engine->lock, &until);
    bool drained = !engine->busy;
    pthread_mutex_unlock(&engine->lock);
    return drained;
}

const struct engine_layout *engine_layout(const struct engine *engine) {
    return &engine->layout;
}
