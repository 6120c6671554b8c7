#include "serve/scheduler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum status scheduler_create(struct scheduler *scheduler, const struct scheduler_config *config,
                             struct kv_pages *pages) {
    assert(config->max_batch > 0 && config->token_budget >= config->max_batch);
    assert((int64_t)pages->count * pages->page_size >= config->context);
    *scheduler = (struct scheduler){
        .config = *config,
        .pages = pages,
        .running = calloc((size_t)config->max_batch, sizeof(struct sequence *)),
    };
    if (!scheduler->running) return status_fail(STATUS_MEMORY, "no memory for the scheduler");
    return STATUS_OK;
}

void scheduler_free(struct scheduler *scheduler) {
    free(scheduler->running);
    *scheduler = (struct scheduler){0};
}

enum status scheduler_plan_create(struct scheduler_plan *plan,
                                  const struct scheduler_config *config) {
    *plan = (struct scheduler_plan){
        .items = calloc((size_t)config->max_batch, sizeof *plan->items),
    };
    if (!plan->items) return status_fail(STATUS_MEMORY, "no memory for the scheduler's plan");
    return STATUS_OK;
}

void scheduler_plan_free(struct scheduler_plan *plan) {
    free(plan->items);
    *plan = (struct scheduler_plan){0};
}

static int32_t pages_for(const struct scheduler *scheduler, int32_t tokens) {
    return (tokens + scheduler->pages->page_size - 1) / scheduler->pages->page_size;
}

/* Keys that a sequence needs at most: its last token is never fed back. */
static int32_t keys_at_most(const struct sequence *sequence) {
    return sequence->limit > sequence->count ? sequence->limit - 1 : sequence->limit;
}

static void line_insert(struct scheduler *scheduler, struct sequence *sequence) {
    struct sequence **link = &scheduler->waiting;
    while (*link && (*link)->arrival < sequence->arrival) link = &(*link)->next;
    sequence->next = *link;
    *link = sequence;
    sequence->state = SEQUENCE_WAITING;
    scheduler->waiting_count++;
}

static void line_remove(struct scheduler *scheduler, struct sequence *sequence) {
    struct sequence **link = &scheduler->waiting;
    while (*link != sequence) link = &(*link)->next;
    *link = sequence->next;
    sequence->next = NULL;
    scheduler->waiting_count--;
}

enum status scheduler_submit(struct scheduler *scheduler, struct sequence *sequence) {
    assert(sequence->state == SEQUENCE_NEW && sequence->count > 0);
    assert(sequence->limit >= sequence->count && sequence->root < KV_ROOTS);
    if (keys_at_most(sequence) > scheduler->config.context)
        return status_fail(
            STATUS_CONFIG, "a sequence of %d tokens and at most %d more can't fit a context of %d",
            sequence->count, sequence->limit - sequence->count, scheduler->config.context);
    sequence->pages =
        malloc((size_t)pages_for(scheduler, keys_at_most(sequence)) * sizeof *sequence->pages);
    if (!sequence->pages) return status_fail(STATUS_MEMORY, "no memory for a sequence's pages");
    sequence->arrival = scheduler->arrivals++;
    sequence->prompt = sequence->count;
    sequence->reused = -1;
    line_insert(scheduler, sequence);
    return STATUS_OK;
}

/* Back to front, so that a prefix is evicted after what follows it. */
static void drop_pages(struct scheduler *scheduler, struct sequence *sequence) {
    while (sequence->page_count > 0)
        kv_drop_page(scheduler->pages, sequence->pages[--sequence->page_count]);
    sequence->computed = sequence->published = 0;
}

static void run_remove(struct scheduler *scheduler, const struct sequence *sequence) {
    int32_t i = 0;
    while (scheduler->running[i] != sequence) i++;
    scheduler->running_count--;
    memmove(scheduler->running + i, scheduler->running + i + 1,
            (size_t)(scheduler->running_count - i) * sizeof *scheduler->running);
}

static void run_insert(struct scheduler *scheduler, struct sequence *sequence) {
    int32_t i = scheduler->running_count++;
    for (; i > 0 && scheduler->running[i - 1]->arrival > sequence->arrival; i--)
        scheduler->running[i] = scheduler->running[i - 1];
    scheduler->running[i] = sequence;
    sequence->state = SEQUENCE_RUNNING;
}

void scheduler_remove(struct scheduler *scheduler, struct sequence *sequence) {
    if (sequence->state == SEQUENCE_WAITING) line_remove(scheduler, sequence);
    if (sequence->state == SEQUENCE_RUNNING) run_remove(scheduler, sequence);
    drop_pages(scheduler, sequence);
    free(sequence->pages);
    sequence->pages = NULL;
    sequence->state = SEQUENCE_DONE;
}

static void preempt_youngest(struct scheduler *scheduler) {
    struct sequence *youngest = scheduler->running[--scheduler->running_count];
    drop_pages(scheduler, youngest);
    youngest->preemptions++;
    scheduler->preemptions++;
    line_insert(scheduler, youngest);
}

static int32_t rest(const struct sequence *sequence) {
    return sequence->count - sequence->computed;
}

static void plan_add(struct scheduler_plan *plan, struct sequence *sequence, int32_t count) {
    plan->items[plan->count++] = (struct plan_item){
        .sequence = sequence,
        .first = sequence->computed,
        .count = count,
        .draws = count == rest(sequence),
    };
    plan->tokens += count;
}

/* Makes room for the key of the one token that is left, if need be by preempting the youngest;
 * false when that was the sequence itself. */
static bool find_room(struct scheduler *scheduler, struct sequence *sequence) {
    while (sequence->page_count < pages_for(scheduler, sequence->count)) {
        int32_t page = kv_take_page(scheduler->pages);
        if (page >= 0) {
            sequence->pages[sequence->page_count++] = page;
            continue;
        }
        preempt_youngest(scheduler);
        if (sequence->state != SEQUENCE_RUNNING) return false;
    }
    return true;
}

/* In order of arrival: whoever is preempted on the way is younger and was not planned yet. */
static void plan_decodes(struct scheduler *scheduler, struct scheduler_plan *plan) {
    for (int32_t i = 0; i < scheduler->running_count; i++) {
        struct sequence *sequence = scheduler->running[i];
        if (rest(sequence) == 1 && find_room(scheduler, sequence)) plan_add(plan, sequence, 1);
    }
}

/* Holds the published pages that the sequence begins with; the last token is always computed,
 * since its logits are wanted. */
static void take_prefix(struct scheduler *scheduler, struct sequence *sequence) {
    int32_t size = scheduler->pages->page_size;
    sequence->stamp = (uint64_t)sequence->root;
    while (sequence->reuse_prefix && sequence->computed + size < sequence->count) {
        int32_t page = kv_find_page(scheduler->pages, sequence->stamp,
                                    sequence->tokens + sequence->computed, &sequence->stamp);
        if (page < 0) break;
        sequence->pages[sequence->page_count++] = page;
        sequence->published++;
        sequence->computed += size;
    }
}

/* Pages for the whole rest, or nothing. */
static bool start(struct scheduler *scheduler, struct sequence *sequence) {
    take_prefix(scheduler, sequence);
    int32_t need = pages_for(scheduler, sequence->count) - sequence->page_count;
    int32_t spare = scheduler->running_count;
    if (scheduler->pages->idle_count < need + spare) {
        drop_pages(scheduler, sequence);
        return false;
    }
    for (; need > 0; need--)
        sequence->pages[sequence->page_count++] = kv_take_page(scheduler->pages);
    if (sequence->reused < 0) sequence->reused = sequence->computed;
    return true;
}

static bool sibling_in_prefill(const struct scheduler *scheduler, const struct sequence *sequence) {
    if (sequence->group == 0 || !sequence->reuse_prefix) return false;
    for (int32_t i = 0; i < scheduler->running_count; i++)
        if (scheduler->running[i]->group == sequence->group && rest(scheduler->running[i]) > 1)
            return true;
    return false;
}

static void admit(struct scheduler *scheduler) {
    struct sequence *sequence = scheduler->waiting, *next;
    for (; sequence && scheduler->running_count < scheduler->config.max_batch; sequence = next) {
        next = sequence->next;
        if (sibling_in_prefill(scheduler, sequence)) continue;
        if (!start(scheduler, sequence)) return;
        line_remove(scheduler, sequence);
        run_insert(scheduler, sequence);
    }
}

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* Chunks of at most half the budget while several sequences have a prefill to do, then what is
 * left of the budget to whoever was cut, the oldest first. */
static void plan_prefills(struct scheduler *scheduler, struct scheduler_plan *plan,
                          int32_t planned_decodes) {
    int32_t budget = scheduler->config.token_budget;
    int32_t pending = scheduler->running_count - planned_decodes;
    int32_t chunk = pending > 1 ? (budget + 1) / 2 : budget;
    int32_t decode = 0; /* both lists are in order of arrival */
    for (int32_t i = 0; i < scheduler->running_count && plan->tokens < budget; i++) {
        struct sequence *sequence = scheduler->running[i];
        if (decode < planned_decodes && plan->items[decode].sequence == sequence) {
            decode++;
            continue;
        }
        plan_add(plan, sequence, smaller(smaller(rest(sequence), chunk), budget - plan->tokens));
    }
    for (int32_t i = planned_decodes; i < plan->count && plan->tokens < budget; i++) {
        struct plan_item *item = &plan->items[i];
        int32_t more = smaller(rest(item->sequence) - item->count, budget - plan->tokens);
        item->count += more;
        item->draws = item->count == rest(item->sequence);
        plan->tokens += more;
    }
}

void scheduler_plan(struct scheduler *scheduler, struct scheduler_plan *plan) {
    plan->count = plan->tokens = 0;
    int64_t preemptions = scheduler->preemptions;
    plan_decodes(scheduler, plan);
    if (preemptions == scheduler->preemptions) admit(scheduler);
    plan_prefills(scheduler, plan, plan->count);
}

static void publish_full_pages(struct scheduler *scheduler, struct sequence *sequence) {
    int32_t size = scheduler->pages->page_size;
    for (; (sequence->published + 1) * size <= sequence->computed; sequence->published++) {
        int32_t *page = &sequence->pages[sequence->published];
        *page = kv_publish_page(scheduler->pages, *page, sequence->stamp,
                                sequence->tokens + sequence->published * size, &sequence->stamp);
    }
}

void scheduler_commit(struct scheduler *scheduler, const struct scheduler_plan *plan,
                      const int32_t *drawn, const bool *ended) {
    for (int32_t i = 0; i < plan->count; i++) {
        struct sequence *sequence = plan->items[i].sequence;
        sequence->computed += plan->items[i].count;
        publish_full_pages(scheduler, sequence);
        if (plan->items[i].draws && drawn[i] >= 0) {
            assert(sequence->count < sequence->limit);
            sequence->tokens[sequence->count++] = drawn[i];
        }
        if (ended[i]) scheduler_remove(scheduler, sequence);
    }
}
