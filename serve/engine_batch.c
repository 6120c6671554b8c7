#include "serve/engine_parts.h"

#include <string.h>

/* Items in ascending order of adapter, so that each adapter's tokens lie together; the order within
 * an adapter stays. */
static void order_by_adapter(struct engine *engine) {
    const struct scheduler_plan *plan = &engine->plan;
    int32_t *order = engine->step.order;
    for (int32_t i = 0; i < plan->count; i++) {
        int32_t root = plan->items[i].sequence->root, at = i;
        for (; at > 0 && plan->items[order[at - 1]].sequence->root > root; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

static void add_span(struct engine *engine, int adapter, int32_t first, int32_t count) {
    struct batch *batch = &engine->batch;
    if (adapter == ADAPTER_NONE) return;
    const struct adapter *served = engine->options.adapters[adapter];
    if (batch->span_count > 0) {
        struct adapter_span *last = &engine->step.spans[batch->span_count - 1];
        if (last->adapter == served && last->first + last->count == first) {
            last->count += count;
            return;
        }
    }
    engine->step.spans[batch->span_count++] = (struct adapter_span){first, count, served};
}

/* The rows of logits that an item gives: one for each prompt token that wants a figure, one to
 * draw from. The logits of token p are those of position p - 1. */
static void add_rows(struct engine *engine, int32_t item_index, int32_t first_token) {
    const struct plan_item *item = &engine->plan.items[item_index];
    struct generation *generation = generation_of(item->sequence);
    int32_t last = item->first + item->count;
    bool scores = generation->options->prompt_logprobs;
    for (int32_t i = item->first; i < last; i++) {
        int32_t predicted = i + 1;
        bool draws = item->draws && predicted == last;
        bool wanted = scores && predicted < item->sequence->prompt;
        if (draws && item->sequence->count == item->sequence->limit) continue;
        if (!draws && !wanted) continue;
        engine->step.rows[engine->row_count] =
            (struct logit_row){generation, item_index, predicted, draws};
        engine->step.row_tokens[engine->row_count++] = first_token + i - item->first;
    }
}

static void add_item(struct engine *engine, int32_t slot, int32_t item_index) {
    const struct plan_item *item = &engine->plan.items[item_index];
    const struct sequence *sequence = item->sequence;
    struct step_arrays *step = &engine->step;
    int32_t first_token = (int32_t)engine->batch.tokens;
    memcpy(step->ids + first_token, sequence->tokens + item->first,
           (size_t)item->count * sizeof *step->ids);
    for (int32_t i = 0; i < item->count; i++) step->positions[first_token + i] = item->first + i;
    memcpy(step->page_table + (int64_t)slot * engine->kv_view.max_pages, sequence->pages,
           (size_t)sequence->page_count * sizeof *step->page_table);
    step->start[slot] = first_token;
    step->past[slot] = item->first;
    step->start[slot + 1] = first_token + item->count;
    engine->batch.tokens += item->count;
    add_span(engine, generation_of(item->sequence)->adapter, first_token, item->count);
    add_rows(engine, item_index, first_token);
}

void engine_build_batch(struct engine *engine) {
    const struct step_arrays *step = &engine->step;
    engine->row_count = 0;
    engine->batch = (struct batch){
        .ids = step->ids,
        .positions = step->positions,
        .segments = {.count = engine->plan.count, .start = step->start, .past = step->past},
        .kv = &engine->kv_view,
        .spans = step->spans,
    };
    order_by_adapter(engine);
    for (int32_t slot = 0; slot < engine->plan.count; slot++)
        add_item(engine, slot, step->order[slot]);
}
